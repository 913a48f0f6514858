// Package policy turns NetworkPolicies into nftables rules.
package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// firewall turns NetworkPolicies into rules for one node. A pod that some policy isolates in a direction has a chain for
// it: the chain lets through what any of its policies allows and drops the rest. Answers pass by the state of their
// connection, and what the node itself sends (probes) is not looked at.
type firewall struct {
	pods       []*corev1.Pod // those with an address, in a fixed order
	namespaces map[string]labels.Set
}

// Render is the whole table of a node.
func Render(node, podRange string, pods []*corev1.Pod, namespaces []*corev1.Namespace, policies []*networkingv1.NetworkPolicy) string {
	f := firewall{namespaces: map[string]labels.Set{}}
	for _, namespace := range namespaces {
		f.namespaces[namespace.Name] = namespace.Labels
	}
	for _, pod := range pods {
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if pod.Status.PodIP != "" && !pod.Spec.HostNetwork && !over {
			f.pods = append(f.pods, pod)
		}
	}
	slices.SortFunc(f.pods, func(a, b *corev1.Pod) int { return strings.Compare(string(a.UID), string(b.UID)) })
	policies = slices.Clone(policies)
	slices.SortFunc(policies, func(a, b *networkingv1.NetworkPolicy) int { return strings.Compare(string(a.UID), string(b.UID)) })

	var chains strings.Builder
	isolated := map[networkingv1.PolicyType][]string{}
	for _, pod := range f.pods {
		if pod.Spec.NodeName != node {
			continue
		}
		for _, direction := range []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress} {
			allowed, applies := f.allowed(pod, direction, policies)
			if !applies {
				continue
			}
			chain := strings.ToLower(string(direction)) + "-" + strings.ReplaceAll(pod.Status.PodIP, ".", "-")
			fmt.Fprintf(&chains, "chain %s {\n%scounter drop comment \"%s/%s\"\n}\n", chain, allowed, pod.Namespace, pod.Name)
			isolated[direction] = append(isolated[direction], pod.Status.PodIP+" : jump "+chain)
		}
	}
	dispatch := ""
	if jumps := isolated[networkingv1.PolicyTypeEgress]; jumps != nil {
		dispatch += "ip saddr vmap { " + strings.Join(jumps, ", ") + " }\n"
	}
	if jumps := isolated[networkingv1.PolicyTypeIngress]; jumps != nil {
		dispatch += "ip daddr vmap { " + strings.Join(jumps, ", ") + " }\n"
	}
	return "table ip podnet {}\ndelete table ip podnet\ntable ip podnet {\n" + chains.String() +
		"chain forward {\ntype filter hook forward priority filter\nct state established,related accept\n" + dispatch + "}\n" +
		"chain leave {\ntype nat hook postrouting priority srcnat\nip saddr " + podRange + " ip daddr != " + podRange + " masquerade\n}\n}\n"
}

// allowed is what may pass to (ingress) or from (egress) a pod, and whether any policy isolates it in that direction.
func (f *firewall) allowed(pod *corev1.Pod, direction networkingv1.PolicyType, policies []*networkingv1.NetworkPolicy) (rules string, applies bool) {
	for _, policy := range policies {
		spec := &policy.Spec
		if policy.Namespace != pod.Namespace || !slices.Contains(spec.PolicyTypes, direction) || !selects(&spec.PodSelector, pod.Labels) {
			continue
		}
		applies = true
		if direction == networkingv1.PolicyTypeIngress {
			for _, rule := range spec.Ingress {
				rules += f.rule(policy.Namespace, "saddr", rule.From, rule.Ports, pod)
			}
			continue
		}
		for _, rule := range spec.Egress {
			rules += f.rule(policy.Namespace, "daddr", rule.To, rule.Ports, nil)
		}
	}
	return rules, applies
}

// end is the other end of an allowed connection: how to recognise it, and the pod there if it is one.
type end struct {
	match string
	pod   *corev1.Pod
}

// rule is one rule of a policy. A port's name means the port of the pod that is connected to: `target` on the way in, the
// peer on the way out.
func (f *firewall) rule(namespace, address string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, target *corev1.Pod) string {
	ends := []end{{}}
	if len(peers) > 0 {
		ends = f.ends(namespace, address, peers)
	}
	var out strings.Builder
	for _, e := range ends {
		reached := target
		if reached == nil {
			reached = e.pod
		}
		if len(ports) == 0 {
			out.WriteString(e.match + "return\n")
		}
		for i := range ports {
			if match, ok := portMatch(&ports[i], reached); ok {
				out.WriteString(e.match + match + " return\n")
			}
		}
	}
	return out.String()
}

func (f *firewall) ends(namespace, address string, peers []networkingv1.NetworkPolicyPeer) (ends []end) {
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			if strings.Contains(block.CIDR, ":") {
				continue // pods have no IPv6 here
			}
			match := "ip " + address + " " + block.CIDR + " "
			if len(block.Except) > 0 {
				match += "ip " + address + " != { " + strings.Join(block.Except, ", ") + " } "
			}
			ends = append(ends, end{match: match})
			continue
		}
		for _, pod := range f.pods {
			there := pod.Namespace == namespace
			if peer.NamespaceSelector != nil {
				there = selects(peer.NamespaceSelector, f.namespaces[pod.Namespace])
			}
			if there && (peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)) {
				ends = append(ends, end{match: "ip " + address + " " + pod.Status.PodIP + " ", pod: pod})
			}
		}
	}
	return ends
}

// portMatch is false for a name that the pod has no port of.
func portMatch(port *networkingv1.NetworkPolicyPort, pod *corev1.Pod) (match string, ok bool) {
	protocol := "tcp"
	if port.Protocol != nil {
		protocol = strings.ToLower(string(*port.Protocol))
	}
	if port.Port == nil {
		return "meta l4proto " + protocol, true
	}
	number := port.Port.IntValue()
	if port.Port.StrVal != "" {
		if number = named(pod, port.Port.StrVal); number == 0 {
			return "", false
		}
	}
	match = protocol + " dport " + strconv.Itoa(number)
	if port.EndPort != nil {
		match += "-" + strconv.Itoa(int(*port.EndPort))
	}
	return match, true
}

func named(pod *corev1.Pod, name string) int {
	if pod == nil {
		return 0
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == name {
				return int(port.ContainerPort)
			}
		}
	}
	return 0
}

func selects(selector *metav1.LabelSelector, set labels.Set) bool {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && compiled.Matches(set)
}
