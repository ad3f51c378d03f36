package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// world is a namespace of a node, a coordinator and a client, with another namespace beside.
const world = `{"pods": [
 {"metadata": {"name": "node-0", "namespace": "a", "labels": {"role": "node"}},
  "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "rows", "containerPort": 7071}]}]},
  "status": {"podIP": "10.0.0.1"}},
 {"metadata": {"name": "coordinator-0", "namespace": "a", "labels": {"role": "coordinator"}},
  "spec": {"nodeName": "n2"}, "status": {"podIP": "10.0.0.2"}},
 {"metadata": {"name": "other", "namespace": "b", "labels": {"role": "coordinator"}},
  "spec": {"nodeName": "n1"}, "status": {"podIP": "10.0.0.3"}}]}`

func TestRules(t *testing.T) {
	for name, tc := range map[string]struct {
		spec string
		want string // of the rules for n1; empty: no pod there is selected
	}{
		"one role, a named port": {`{"podSelector": {"matchLabels": {"role": "node"}},
			"policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": "rows"}],
			"from": [{"podSelector": {"matchLabels": {"role": "coordinator"}}}]}]}`,
			"chain ingress_10_0_0_1 { ip saddr 10.0.0.2 tcp dport 7071 return drop }"},
		"nobody": {`{"podSelector": {}, "policyTypes": ["Ingress"]}`,
			"chain ingress_10_0_0_1 { drop }"},
		"all namespaces": {`{"podSelector": {}, "policyTypes": ["Ingress"],
			"ingress": [{"from": [{"namespaceSelector": {}, "podSelector":
			{"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["node"]}]}}]}]}`,
			"chain ingress_10_0_0_1 { ip saddr 10.0.0.2 return ip saddr 10.0.0.3 return drop }"},
		"addresses": {`{"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock":
			{"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}], "ports":
			[{"protocol": "UDP", "port": 53}, {"port": 80, "endPort": 90}]}]}`,
			"chain egress_10_0_0_1 { " +
				"ip daddr 10.1.0.0/16 ip daddr != { 10.1.2.0/24 } udp dport 53 return " +
				"ip daddr 10.1.0.0/16 ip daddr != { 10.1.2.0/24 } tcp dport 80-90 return drop }"},
		"elsewhere": {`{"podSelector": {"matchLabels": {"role": "coordinator"}},
			"policyTypes": ["Ingress"]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var w struct{ Pods []pod }
			var p policy
			if err := json.Unmarshal([]byte(world), &w); err != nil {
				t.Fatal(err)
			}
			text := `{"metadata": {"namespace": "a"}, "spec": ` + tc.spec + `}`
			if err := json.Unmarshal([]byte(text), &p); err != nil {
				t.Fatal(err)
			}
			n := network{pods: w.Pods, policies: []policy{p},
				namespaces: map[string]map[string]string{"a": nil, "b": nil}}
			rules := strings.Join(strings.Fields(n.rules("n1")), " ")
			if !strings.Contains(rules, tc.want) {
				t.Errorf("rules %q, want in them %q", rules, tc.want)
			}
			if jumps := strings.Contains(rules, "jump"); jumps != (tc.want != "") {
				t.Errorf("rules %q: a pod is selected: %v", rules, jumps)
			}
		})
	}
}
