package lab

import "fmt"

// An image is a tree of what Debian's official image for EC2 boots: systemd is process 1,
// cloud-init asks the metadata service and writes netplan's YAML, netplan renders it, and
// systemd-networkd does the work. What follows is all that differs between such an
// instance and one on EC2, beside the hardware: there is no console either, and no SSH
// server. Settings such as rp_filter are the image's own.

// imageFiles has the files that an instance needs to boot an image in a namespace.
var imageFiles = map[string]string{
	// Cloud-init asks the firmware where it is. This machine's is not EC2's.
	"/usr/sbin/dmidecode": `#!/bin/sh
case $* in
*manufacturer* | *bios-vendor* | *chassis-asset-tag*) echo Amazon EC2 ;;
*system-uuid*) echo ec2f6c3a-0b1c-4d2e-8f3a-0123456789ab ;;
*serial-number*) echo ec2f6c3a-0b1c-4d2e-8f3a-0123456789ab ;;
*product-name*) echo t3.small ;;
esac
`,
	// It also asks whether it is in a container, where it would not look for EC2.
	"/usr/bin/systemd-detect-virt": `#!/bin/sh
case $* in
*--container* | *-c*) echo none; exit 1 ;;
*--quiet* | *-q*) ;;
*) echo amazon ;;
esac
`,
	// Ds-identify reads the firmware below /sys, which is this machine's.
	"/etc/cloud/ds-identify.cfg": "datasource: Ec2\n",
	// Generating a locale takes seconds, there is no SSH server, and the root is no disk.
	"/etc/cloud/cloud.cfg.d/99_lab.cfg": `locale: false
ssh_genkeytypes: []
resize_rootfs: false
`,
	// To see whether DNS lies, cloud-init asks for names that do not exist. By LLMNR that
	// takes six seconds.
	"/etc/systemd/resolved.conf.d/lab.conf": "[Resolve]\nLLMNR=no\n",
	// The ENIs are veths. Where cloud-init's hotplug is on, its rule matches the driver of
	// EC2's network cards. It has the number 90, what sets the property has 80.
	"/etc/udev/rules.d/85-lab.rules": `SUBSYSTEM=="net", ACTION!="remove", KERNEL=="eth*|ens*", ENV{ID_NET_DRIVER}="ena"` + "\n",
}

// imagePrepare moves netplan's generator aside: a veth has no permanent address, so
// neither networkd nor udev would find an ENI by the one that netplan writes. Netplan
// tells by the name that it is called by whether systemd calls it. The link is what
// systemd-resolved's package makes, and clean has removed.
const imagePrepare = `
for real in /usr/libexec/netplan/generate /usr/lib/netplan/generate; do
	test -x $real || continue
	mv $real $real.real
	cat >$real <<EOF
#!/bin/bash
(exec -a "\$0" $real.real "\$@") || exit
find /run/systemd/network -name '10-netplan-*' -exec sed -i s/^PermanentMACAddress=/MACAddress=/ {} + 2>/dev/null
exit 0
EOF
	chmod 755 $real
	break
done
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
`

// fewerWatches masks what root on an instance does without, and what has inotify(7) instances:
// all machines that run at once share the kernel's limit for root, 128.
const fewerWatches = `
systemctl --quiet mask polkit.service systemd-ask-password-console.path systemd-ask-password-wall.path
`

// netplanYAML is where cloud-init writes how interfaces come up.
const netplanYAML = "/etc/netplan/50-cloud-init.yaml"

// rendered has the YAML that cloud-init of Debian 12 writes for the primary, and what
// switches cloud-init off.
func (i *Instance) rendered() map[string]string {
	return map[string]string{
		"/etc/cloud/cloud-init.disabled": "",
		netplanYAML: fmt.Sprintf(`# This file is generated from information provided by the datasource.  Changes
# to it will not persist across an instance reboot.  To disable cloud-init's
# network configuration capabilities, write a file
# /etc/cloud/cloud.cfg.d/99-disable-network-config.cfg with the following:
# network: {config: disabled}
network:
    ethernets:
        %[2]s:
            dhcp4: true
            dhcp6: false
            match:
                macaddress: %[1]s
            set-name: %[2]s
    version: 2
`, i.ENI.MAC, i.vpc.name),
	}
}
