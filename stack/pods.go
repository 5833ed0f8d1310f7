package stack

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"ec2net/disk"
	"ec2net/iprule"
	"ec2net/plan"
)

// cniFolder has the configurations of CNI plugins, one file a network: the container
// runtime takes the first.
const cniFolder = "/etc/cni/net.d"

// network is the part of a CNI configuration that tells whether its plugins give ENIs
// to pods: a list of plugins, or, in a .conf file, one.
type network struct {
	plugin
	Plugins []plugin `json:"plugins"`
}

type plugin struct {
	Type string `json:"type"`
	// ENI has the settings of Cilium's allocation from ENIs.
	ENI json.RawMessage `json:"eni"`
}

// user says which program uses the ENIs for pods; empty if the plugin does not.
func (p plugin) user() string {
	switch {
	case p.Type == "aws-cni":
		return vpcCNI
	case p.Type == "cilium-cni" && p.ENI != nil && string(p.ENI) != "null":
		return cilium
	}
	return ""
}

const (
	vpcCNI = "the VPC CNI plugin of this Kubernetes node"
	cilium = "Cilium of this Kubernetes node"
)

func forPods(who, by string) Owner {
	return Owner{who + " gives ENIs to pods, by " + by, "if it no longer does, remove what says so"}
}

// PodsByConfig looks for a Kubernetes node whose ENIs are for pods, in the configuration
// of CNI plugins and of Cilium on disk, which is there before their agents run.
func PodsByConfig(tree *disk.Tree) (Owner, error) {
	files, err := tree.List(cniFolder)
	if err != nil {
		return Owner{}, err
	}
	for _, name := range files {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, path.Ext(name)) {
			continue
		}
		file := path.Join(cniFolder, name)
		text, err := tree.Read(file)
		if err != nil {
			return Owner{}, err
		}
		var n network
		if json.Unmarshal(text, &n) != nil {
			continue // no runtime can use it either
		}
		for _, p := range append(n.Plugins, n.plugin) {
			if who := p.user(); who != "" {
				return forPods(who, file), nil
			}
		}
	}
	return ciliumPods(tree)
}

// ciliumPods looks in the settings of Cilium's agent, since the configuration of its plugin
// does not say whether pods have addresses of ENIs. The kubelet has the settings on disk, in
// a volume of the agent's pod, from before the agent starts until the pod is deleted; with
// Cilium 1.13 and later in a copy, in another volume. The names of the pods' log folders tell
// which pod is the agent's.
func ciliumPods(tree *disk.Tree) (Owner, error) {
	pods, err := tree.List("/var/log/pods") // NAMESPACE_NAME_UID
	if err != nil {
		return Owner{}, err
	}
	for _, pod := range pods {
		id := strings.Split(pod, "_")
		if len(id) != 3 || !strings.HasPrefix(id[1], "cilium") {
			continue
		}
		for _, volume := range []string{"kubernetes.io~empty-dir/tmp/cilium/config-map", "kubernetes.io~configmap/cilium-config-path"} {
			file := path.Join("/var/lib/kubelet/pods", id[2], "volumes", volume, "ipam")
			mode, err := tree.Read(file)
			if err != nil {
				return Owner{}, err
			}
			if strings.TrimSpace(string(mode)) == "eni" {
				return forPods(cilium, file), nil
			}
		}
	}
	return Owner{}, nil
}

// podRules are rules of agents that give ENIs to pods: packets of services that came in
// by the primary return by it.
var podRules = []struct {
	iprule.Rule
	who string
}{
	{VPCCNI, vpcCNI},
	{iprule.Rule{Priority: 109, Mark: 0x80, MarkMask: 0x80, Table: tableMain}, cilium},
}

// VPCCNI is the rule of AWS's VPC CNI plugin, which gives ENIs to pods.
var VPCCNI = iprule.Rule{Priority: 1024, Mark: 0x80, MarkMask: 0x80, Table: tableMain}

// PodsByRules looks for a Kubernetes node whose ENIs are for pods, in the rules of its
// agent.
func PodsByRules(state plan.State) Owner {
	for _, r := range state.Rules {
		for _, p := range podRules {
			if r.Priority == p.Priority && r.Mark == p.Mark && r.MarkMask == p.MarkMask && r.Table == p.Table {
				return forPods(p.who, fmt.Sprintf("the rule %q", r.Rule.String()))
			}
		}
	}
	return Owner{}
}
