package lab

import "testing"

// Docker is the real one, by itself and as a unit of systemd's.
func TestDocker(t *testing.T) {
	t.Parallel()
	for name, systemd := range map[string]bool{"alone": false, "systemd": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := NewVPC(t, Plan{})
			i := v.Boot(t, Setup{Docker: true, Systemd: systemd})
			if systemd {
				i.WaitRunning(t)
			}
			i.StartDocker(t)
			c := i.Container(t, "c0", "--restart=always", "-p", "80:7", "-p", "80:7/udp")
			c.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:80")
			i.Docker(t, "network", "create", "net1")
			i.Container(t, "c1", "--network=net1", "-p", "81:7", "-p", "81:7/udp").Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:81")
			v.Client.Echo(t, 7)
			asks(t, &c.Place, clientAddr+":7")

			i.RestartDocker(t)
			c.Enter(t)
			c.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:80")
			if dropped := v.Dropped(t); dropped != "" {
				t.Errorf("dropped:\n%s", dropped)
			}

			// The control groups of containers go with the machine.
			i.Crash(t)
			i.On(t)
			if systemd {
				i.WaitRunning(t)
			}
			i.StartDocker(t)
			c.Enter(t)
			c.Echo(t, 7)
			asks(t, v.Client, "10.0.0.10:80")
		})
	}
}
