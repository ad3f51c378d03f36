package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os/exec"
	"slices"
	"strings"
)

type metadata struct {
	Name, Namespace, UID string
	Labels               map[string]string
}

type pod struct {
	Metadata metadata
	Spec     struct {
		NodeName    string
		HostNetwork bool
		Containers  []struct{ Ports []namedPort }
	}
	Status struct{ Phase, PodIP string }
}

type namedPort struct {
	Name, Protocol string
	ContainerPort  int
}

type policy struct {
	Metadata metadata
	Spec     struct {
		PodSelector     selector
		PolicyTypes     []string
		Ingress, Egress []policyRule
	}
}

type policyRule struct {
	From, To []peer
	Ports    []policyPort
}

type peer struct {
	PodSelector, NamespaceSelector *selector
	IPBlock                        *struct {
		CIDR   string
		Except []string
	}
}

type policyPort struct {
	Protocol string
	Port     any // a number or a name; nil is every port
	EndPort  int
}

type selector struct {
	MatchLabels      map[string]string
	MatchExpressions []struct {
		Key, Operator string
		Values        []string
	}
}

// network is all that the rules depend on.
type network struct {
	pods       []pod // those with an address, sorted by it
	namespaces map[string]map[string]string
	policies   []policy
}

// direction is that of a new connection, as a policy sees it.
type direction struct {
	name string
	// here is the side of the packet where the pod stands, there the other.
	here, there string
}

var directions = []direction{{"Egress", "saddr", "daddr"}, {"Ingress", "daddr", "saddr"}}

var networkPaths = []string{"/api/v1/pods", "/api/v1/namespaces",
	"/apis/networking.k8s.io/v1/networkpolicies"}

// netpol keeps one node's packet filter as the policies say, IPv4 only: what may reach a
// pod is decided where it runs, and so is what it may reach.
func netpol(fs *flag.FlagSet, args []string) error {
	node := fs.String("node", "", "name of this node")
	open := apiFlags(fs)
	_ = fs.Parse(args) // it exits on an error
	a, err := open("netpol")
	if err != nil {
		return err
	}
	var inForce string
	a.onChange(func() error {
		n, err := a.network()
		if err != nil {
			return err
		}
		text := n.rules(*node)
		if text == inForce {
			return nil
		}
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(text)
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s\n%s", err, out, text)
		}
		inForce = text
		log.Printf("rules in force:\n%s", text)
		return nil
	}, networkPaths...)
	return nil
}

func (a *api) network() (*network, error) {
	var pods struct{ Items []pod }
	var spaces struct{ Items []struct{ Metadata metadata } }
	var policies struct{ Items []policy }
	for i, into := range []any{&pods, &spaces, &policies} {
		if err := a.call(http.MethodGet, networkPaths[i], nil, into); err != nil {
			return nil, err
		}
	}
	n := &network{namespaces: map[string]map[string]string{}, policies: policies.Items}
	for _, s := range spaces.Items {
		n.namespaces[s.Metadata.Name] = s.Metadata.Labels
	}
	n.pods = slices.DeleteFunc(pods.Items, func(p pod) bool {
		ended := p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed"
		return p.Status.PodIP == "" || p.Spec.HostNetwork || ended
	})
	slices.SortFunc(n.pods, func(a, b pod) int { return cmp.Compare(a.Status.PodIP, b.Status.PodIP) })
	return n, nil
}

// rules is the whole table for a node, in nft's language. A chain for each pod and
// direction that a policy selects returns what is allowed and drops the rest.
func (n *network) rules(node string) string {
	var chains, jumps strings.Builder
	for _, d := range directions {
		for _, p := range n.pods {
			if p.Spec.NodeName != node {
				continue
			}
			allowed, selected := n.allowed(p, d)
			if !selected {
				continue
			}
			chain := strings.ToLower(d.name) + "_" + strings.ReplaceAll(p.Status.PodIP, ".", "_")
			fmt.Fprintf(&chains, " chain %s {\n", chain)
			for _, a := range allowed {
				fmt.Fprintf(&chains, "  %sreturn\n", a)
			}
			chains.WriteString("  drop\n }\n")
			fmt.Fprintf(&jumps, "  ip %s %s jump %s\n", d.here, p.Status.PodIP, chain)
		}
	}
	const table = "table ip lab_netpol"
	return table + " {}\ndelete " + table + "\n" + table + " {\n" + chains.String() +
		" chain forward {\n  type filter hook forward priority filter; policy accept;\n" +
		"  ct state established,related accept\n" + jumps.String() + " }\n}\n"
}

// allowed lists matches for what the policies let through, and tells whether any of them
// selects the pod: if none does, everything may pass.
func (n *network) allowed(p pod, d direction) (matches []string, selected bool) {
	for _, np := range n.policies {
		if np.Metadata.Namespace != p.Metadata.Namespace ||
			!np.Spec.PodSelector.matches(p.Metadata.Labels) ||
			!slices.Contains(np.Spec.PolicyTypes, d.name) {
			continue
		}
		selected = true
		rules := np.Spec.Ingress
		if d.name == "Egress" {
			rules = np.Spec.Egress
		}
		for _, r := range rules {
			matches = append(matches, n.ruleMatches(p, r, d)...)
		}
	}
	return matches, selected
}

// other is one side that a rule names: packets that match, and the pod, if it is one.
type other struct {
	match string
	pod   pod
}

func (n *network) ruleMatches(p pod, r policyRule, d direction) []string {
	peers := r.From
	if d.name == "Egress" {
		peers = r.To
	}
	var others []other
	if len(peers) == 0 {
		others = []other{{}} // anybody
	}
	for _, q := range peers {
		others = append(others, n.others(q, p.Metadata.Namespace, "ip "+d.there+" ")...)
	}
	var all []string
	for _, o := range others {
		if len(r.Ports) == 0 {
			all = append(all, o.match)
			continue
		}
		serves := p // whose names of ports count
		if d.name == "Egress" {
			serves = o.pod
		}
		for _, port := range r.Ports {
			if m, ok := port.match(serves); ok {
				all = append(all, o.match+m)
			}
		}
	}
	return all
}

func (n *network) others(q peer, namespace, side string) (all []other) {
	if b := q.IPBlock; b != nil {
		match := side + b.CIDR + " "
		if len(b.Except) > 0 {
			match += side + "!= { " + strings.Join(b.Except, ", ") + " } "
		}
		return []other{{match: match}}
	}
	for _, o := range n.pods {
		in := o.Metadata.Namespace == namespace
		if q.NamespaceSelector != nil {
			in = q.NamespaceSelector.matches(n.namespaces[o.Metadata.Namespace])
		}
		if in && (q.PodSelector == nil || q.PodSelector.matches(o.Metadata.Labels)) {
			all = append(all, other{side + o.Status.PodIP + " ", o})
		}
	}
	return all
}

// match is what matches the port at a pod that serves it; not ok if that has no port of
// the name.
func (port policyPort) match(serves pod) (match string, ok bool) {
	protocol := strings.ToLower(cmp.Or(port.Protocol, "TCP"))
	switch p := port.Port.(type) {
	case nil:
		return "meta l4proto " + protocol + " ", true
	case float64:
		if port.EndPort > 0 {
			return fmt.Sprintf("%s dport %d-%d ", protocol, int(p), port.EndPort), true
		}
		return fmt.Sprintf("%s dport %d ", protocol, int(p)), true
	case string:
		for _, c := range serves.Spec.Containers {
			for _, has := range c.Ports {
				if has.Name == p && strings.EqualFold(cmp.Or(has.Protocol, "TCP"), protocol) {
					return fmt.Sprintf("%s dport %d ", protocol, has.ContainerPort), true
				}
			}
		}
	}
	return "", false
}

func (s *selector) matches(labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		got, has := labels[e.Key]
		in := has && slices.Contains(e.Values, got)
		ok := map[string]bool{"In": in, "NotIn": !in, "Exists": has, "DoesNotExist": !has}[e.Operator]
		if !ok {
			return false
		}
	}
	return true
}
