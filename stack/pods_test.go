package stack

import (
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
