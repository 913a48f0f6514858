package policy

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(name, namespace, node, address string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(name), Labels: labels},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "grpc", ContainerPort: 3109}},
		}}},
		Status: corev1.PodStatus{PodIP: address, Phase: corev1.PodRunning},
	}
}

func selector(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

// chain is what a table says of one pod's direction: "" when nothing isolates it.
func chain(table, name string) string {
	_, after, found := strings.Cut(table, "chain "+name+" {\n")
	if !found {
		return ""
	}
	rules, _, _ := strings.Cut(after, "}\n")
	return rules
}

func TestRender(t *testing.T) {
	pods := []*corev1.Pod{
		pod("connect", "chat", "here", "10.0.0.1", map[string]string{"tier": "connect"}),
		pod("logic", "chat", "there", "10.0.1.1", map[string]string{"tier": "logic"}),
		pod("stranger", "other", "there", "10.0.1.2", map[string]string{"tier": "logic"}),
		pod("operator", "system", "there", "10.0.1.3", nil),
	}
	namespaces := []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "chat"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "system", Labels: map[string]string{"role": "operator"}}},
	}
	grpc, from, to := intstr.FromString("grpc"), intstr.FromInt32(9000), int32(9100)
	missing := intstr.FromString("missing")
	tcp := corev1.ProtocolTCP
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "connect", Namespace: "chat", UID: "1"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: *selector("tier", "connect"),
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{
				{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("tier", "logic")}}, Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &grpc}, {Port: &missing}}},
				{From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: selector("role", "operator")}}, Ports: []networkingv1.NetworkPolicyPort{{Port: &from, EndPort: &to}}},
				{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.168.0.0/16", Except: []string{"192.168.1.0/24"}}}, {IPBlock: &networkingv1.IPBlock{CIDR: "::/0"}}}},
			},
		},
	}
	table := Render("here", "10.0.0.0/8", pods, namespaces, []*networkingv1.NetworkPolicy{policy})
	got := chain(table, "ingress-10-0-0-1")
	for _, allowed := range []string{
		"ip saddr 10.0.1.1 tcp dport 3109 return\n",
		"ip saddr 10.0.1.3 tcp dport 9000-9100 return\n",
		"ip saddr 192.168.0.0/16 ip saddr != { 192.168.1.0/24 } return\n",
		"counter drop",
	} {
		if !strings.Contains(got, allowed) {
			t.Errorf("missing %q in:\n%s", allowed, got)
		}
	}
	if strings.Contains(got, "10.0.1.2") {
		t.Errorf("a pod of another namespace is let in:\n%s", got)
	}
	if strings.Count(got, "return") != 3 {
		t.Errorf("want three rules, got:\n%s", got)
	}
	if chain(table, "egress-10-0-0-1") != "" || strings.Contains(table, "ip saddr vmap") {
		t.Errorf("egress is isolated though no policy says so:\n%s", table)
	}
	if away := Render("there", "10.0.0.0/8", pods, namespaces, []*networkingv1.NetworkPolicy{policy}); chain(away, "ingress-10-0-0-1") != "" {
		t.Errorf("a node has rules for another node's pod:\n%s", away)
	}
}

func TestNothingAllowedDropsAllAndNothingAppliedDropsNothing(t *testing.T) {
	pods := []*corev1.Pod{pod("connect", "chat", "here", "10.0.0.1", nil)}
	deny := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "deny", Namespace: "chat"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}},
	}
	table := Render("here", "10.0.0.0/8", pods, nil, []*networkingv1.NetworkPolicy{deny})
	for _, name := range []string{"ingress-10-0-0-1", "egress-10-0-0-1"} {
		if got := chain(table, name); strings.Contains(got, "return") || !strings.Contains(got, "drop") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if open := Render("here", "10.0.0.0/8", pods, nil, nil); strings.Contains(open, "drop") {
		t.Errorf("dropped without a policy:\n%s", open)
	}
}

func TestARuleWithoutPeersIsForEverybody(t *testing.T) {
	port := intstr.FromInt32(3101)
	pods := []*corev1.Pod{pod("connect", "chat", "here", "10.0.0.1", nil)}
	open := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "open", Namespace: "chat"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}},
		},
	}
	got := chain(Render("here", "10.0.0.0/8", pods, nil, []*networkingv1.NetworkPolicy{open}), "ingress-10-0-0-1")
	if !strings.HasPrefix(got, "tcp dport 3101 return\n") {
		t.Errorf("got:\n%s", got)
	}
}
