package stack

import (
	"errors"
	"testing"

	"ec2net/iprule"
	"ec2net/plan"
)

func TestPodsByConfig(t *testing.T) {
	const (
		aws    = `{"cniVersion": "0.4.0", "name": "aws-cni", "plugins": [{"name": "aws-cni", "type": "aws-cni", "mtu": "9001"}, {"type": "egress-cni"}]}`
		cilium = `{"name": "cilium", "plugins": [{"type": "cilium-cni", "eni": {"first-interface-index": 1}}]}`
		chain  = `{"name": "aws-cni", "plugins": [{"type": "aws-cni"}, {"type": "cilium-cni"}]}`
	)
	for _, c := range []struct{ name, file, text, who string }{
		{name: "no Kubernetes"},
		{"the VPC CNI plugin", "10-aws.conflist", aws, "the VPC CNI plugin of this Kubernetes node gives ENIs to pods, by /etc/cni/net.d/10-aws.conflist"},
		{"one plugin", "10-aws.conf", `{"name": "aws-cni", "type": "aws-cni"}`, "VPC CNI"},
		{"Cilium on ENIs", "05-cilium.conflist", cilium, "Cilium"},
		{"Cilium on ENIs, one plugin", "05-cilium.conf", `{"type": "cilium-cni", "eni": {}}`, "Cilium"},
		{"Cilium behind the VPC CNI plugin", "05-cilium.conflist", chain, "VPC CNI"},
		{"Cilium on a network of its own", "05-cilium.conflist", `{"plugins": [{"type": "cilium-cni"}]}`, ""},
		{"another plugin", "10-calico.conflist", `{"plugins": [{"type": "calico", "ipam": {"type": "calico-ipam"}}]}`, ""},
		{"set aside", "10-aws.conflist.bak", aws, ""},
		{"no JSON", "10-aws.conflist", "aws-cni", ""},
		{"other types", "10-x.conflist", `{"plugins": {"type": "aws-cni"}}`, ""},
	} {
		tree := openTree(t)
		if c.file != "" {
			put(t, tree, cniFolder+"/"+c.file, c.text)
		}
		o, err := PodsByConfig(tree)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		is(t, c.name, o, c.who)
	}
	tree := openTree(t)
	if err := tree.MakeDir(cniFolder + "/10-aws.conflist"); err != nil {
		t.Fatal(err)
	}
	if o, err := PodsByConfig(tree); err == nil {
		t.Errorf("cannot be read: %+v", o)
	}
}

// The configuration of Cilium's plugin says nothing of ENIs, unless an administrator has
// written it. What the kubelet has put into the agent's pod does, before the agent runs and
// after a reboot.
func TestCiliumPods(t *testing.T) {
	const (
		uid     = "0a1b2c3d-0000-4000-8000-000000000001"
		logs    = "/var/log/pods/kube-system_cilium-x7k2p_" + uid
		volumes = "/var/lib/kubelet/pods/" + uid + "/volumes"
		mounted = volumes + "/kubernetes.io~configmap/cilium-config-path/ipam" // until Cilium 1.12
		copied  = volumes + "/kubernetes.io~empty-dir/tmp/cilium/config-map/ipam"
	)
	for _, c := range []struct{ name, logs, file, ipam, who string }{
		{"no agent yet", logs, "", "", ""},
		{"on ENIs", logs, copied, "eni", "Cilium of this Kubernetes node gives ENIs to pods, by " + copied},
		{"on ENIs, an older one", logs, mounted, "eni\n", "by " + mounted},
		{"elsewhere in the cluster", "/var/log/pods/cilium_cilium-agent-1_" + uid, copied, "eni", "Cilium"},
		{"on a network of its own", logs, copied, "cluster-pool", ""},
		{"another pod", "/var/log/pods/default_web-1_" + uid, copied, "eni", ""},
		{"not a pod's logs", "/var/log/pods/cilium", copied, "eni", ""},
	} {
		tree := openTree(t)
		if err := tree.MakeDir(c.logs + "/cilium-agent"); err != nil {
			t.Fatal(err)
		}
		put(t, tree, cniFolder+"/05-cilium.conflist", `{"plugins": [{"type": "cilium-cni", "log-file": "/var/run/cilium/cilium-cni.log"}]}`)
		if c.file != "" {
			put(t, tree, c.file, c.ipam)
		}
		o, err := PodsByConfig(tree)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		is(t, c.name, o, c.who)
	}
	tree := openTree(t)
	if err := errors.Join(tree.MakeDir(logs), tree.MakeDir(copied)); err != nil {
		t.Fatal(err)
	}
	if o, err := PodsByConfig(tree); err == nil {
		t.Errorf("cannot be read: %+v", o)
	}
}

func TestPodsByRules(t *testing.T) {
	for _, c := range []struct {
		name string
		rule iprule.Rule
		who  string
	}{
		{"the VPC CNI plugin", VPCCNI, "VPC CNI"},
		{"Cilium on ENIs", iprule.Rule{Priority: 109, Mark: 0x80, MarkMask: 0x80, Table: 254, Protocol: 2}, "Cilium"},
		{"another mark in its place", iprule.Rule{Priority: 1024, Mark: 0x40, MarkMask: 0x40, Table: 254}, ""},
		{"another priority", iprule.Rule{Priority: 500, Mark: 0x80, MarkMask: 0x80, Table: 254}, ""},
	} {
		is(t, c.name, PodsByRules(plan.State{Rules: []plan.Rule{{Rule: iprule.Rule{Table: 255}}, {Rule: c.rule}}}), c.who)
	}
}
