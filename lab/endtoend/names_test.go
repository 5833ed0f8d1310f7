package endtoend

import (
	"testing"

	"ec2net/lab"
)

// The names and subnets as people have them: the primary is ens5, and there are ENIs in its
// subnet and in another block of the VPC.
func TestNames(t *testing.T) {
	t.Parallel()
	dhcpcd := "printf 'noarp\\n' >>/etc/dhcpcd.conf\n"
	for name, setup := range map[string]lab.Setup{
		"ifupdown":          {Systemd: true, Docker: true, Prepare: imageReady},
		"ifupdown, dhcpcd":  {Release: "trixie", Systemd: true, Dhcpcd: true, Prepare: imageReady + dhcpcd},
		"image of bookworm": {Release: "bookworm", Image: true, Docker: true, Prepare: imageReady + besideCloudInit},
		"image of trixie":   {Release: "trixie", Image: true, Prepare: imageReady + besideCloudInit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := lab.NewVPC(t, lab.Plan{Name: "ens5", Subnets: []string{"172.31.16.0/20", "100.64.8.0/28"}, Primary: []string{"172.31.20.4", "172.31.31.254"}})
			ens6, ens7 := v.AddENI(t, "172.31.16.9", "172.31.16.10"), v.AddENI(t, "100.64.8.4", "100.64.8.14")
			ens6.Attach(t, "ens6")
			i := boot(t, v, setup)
			i.WaitRunning(t)
			waitUp(t, i, "ens6")
			ens7.Attach(t, "ens7")
			waitUp(t, i, "ens7")
			places := []*lab.Place{v.Client, v.Host(t, "172.31.17.99"), v.Host(t, "100.64.8.9")}
			all := []string{"172.31.20.4", "172.31.31.254", "172.31.16.9", "172.31.16.10", "100.64.8.4", "100.64.8.14"}
			i.WaitSh(t, "ec2net status")
			answer(t, places, all...)
			i.Sh(t, "ip route show table 1001 | grep ens6; ip route show table 1002 | grep ens7")
			if setup.Docker {
				i.StartDocker(t)
				echo(t, i, "web", 80)
				for _, p := range places {
					for _, a := range all {
						if err := p.TCP(a + ":80"); err != nil {
							t.Errorf("%s: the published port does not answer %s: %v", a, p.Name, err)
						}
					}
				}
			}

			i.Reboot(t)
			i.WaitRunning(t)
			waitUp(t, i, "ens6")
			waitUp(t, i, "ens7")
			i.Echo(t, 7)
			i.WaitSh(t, "ec2net status")
			answer(t, places, all...)
			noneFailed(t, i)
		})
	}
}
