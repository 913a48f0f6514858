package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"imcluster.io/kind/policy"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	cniConfig = "/etc/cni/net.d/10-podnet.conflist"
	// gather is how long a burst of events may go on before it is acted on, again after a failure.
	gather, again = 50 * time.Millisecond, time.Second
)

// world is what the API server tells of everything that the network depends on.
type world struct {
	node, pods string // this node's name, the range of all pods
	list       func() (nodes []*corev1.Node, pods []*corev1.Pod, namespaces []*corev1.Namespace, policies []*networkingv1.NetworkPolicy)
	changed    chan struct{}
}

// podnet connects pods of nodes that share a network segment: the standard plugins give each pod an address out of its
// node's range, every node has a route to every other node's range, what leaves the cluster goes out under the node's
// address, and NetworkPolicies hold (IPv4 only). It needs NODE_NAME and POD_SUBNET.
func podnet() {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	w, err := observe(stop)
	if err != nil {
		log.Fatal(err)
	}
	inForce := ""
	for {
		select {
		case <-stop.Done():
			return
		case <-w.changed:
		}
		time.Sleep(gather)
		nodes, pods, namespaces, policies := w.list()
		failed := w.route(nodes)
		if wanted := policy.Render(w.node, w.pods, pods, namespaces, policies); wanted != inForce {
			if err := nft(wanted); err != nil {
				failed = errors.Join(failed, err)
			} else {
				inForce = wanted
			}
		}
		if failed != nil {
			log.Print(failed)
			time.AfterFunc(again, w.wake)
		}
	}
}

// wake asks for another pass; one that is asked for already serves for both.
func (w *world) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func observe(stop context.Context) (*world, error) {
	w := &world{node: os.Getenv("NODE_NAME"), pods: os.Getenv("POD_SUBNET"), changed: make(chan struct{}, 1)}
	if w.node == "" {
		return nil, errors.New("NODE_NAME is empty")
	}
	if _, _, err := net.ParseCIDR(w.pods); err != nil {
		return nil, errors.New("POD_SUBNET: " + err.Error())
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	all := informers.NewSharedInformerFactory(client, 0)
	nodes, pods := all.Core().V1().Nodes(), all.Core().V1().Pods()
	namespaces, policies := all.Core().V1().Namespaces(), all.Networking().V1().NetworkPolicies()
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { w.wake() },
		UpdateFunc: func(any, any) { w.wake() },
		DeleteFunc: func(any) { w.wake() },
	}
	for _, informer := range []cache.SharedIndexInformer{nodes.Informer(), pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return nil, err
		}
	}
	all.Start(stop.Done())
	all.WaitForCacheSync(stop.Done())
	// A lister over a synced cache does not fail.
	w.list = func() ([]*corev1.Node, []*corev1.Pod, []*corev1.Namespace, []*networkingv1.NetworkPolicy) {
		n, _ := nodes.Lister().List(labels.Everything())
		p, _ := pods.Lister().List(labels.Everything())
		s, _ := namespaces.Lister().List(labels.Everything())
		l, _ := policies.Lister().List(labels.Everything())
		return n, p, s, l
	}
	return w, nil
}

// route makes the pods of every node reachable: here by the plugins' configuration, elsewhere by a route.
func (w *world) route(nodes []*corev1.Node) (failed error) {
	for _, node := range nodes {
		switch {
		case node.Spec.PodCIDR == "": // comes with a later event
		case node.Name == w.node:
			failed = errors.Join(failed, configure(node.Spec.PodCIDR))
		default:
			failed = errors.Join(failed, routeTo(node))
		}
	}
	return failed
}

func routeTo(node *corev1.Node) error {
	_, pods, err := net.ParseCIDR(node.Spec.PodCIDR)
	if err != nil {
		return err
	}
	for _, address := range node.Status.Addresses {
		if gateway := net.ParseIP(address.Address); address.Type == corev1.NodeInternalIP && gateway != nil {
			return netlink.RouteReplace(&netlink.Route{Dst: pods, Gw: gateway})
		}
	}
	return errors.New(node.Name + " has no internal address")
}

// configure writes the plugins' configuration, in one step as the kubelet may read at any time.
func configure(podRange string) error {
	type object = map[string]any
	wanted, err := json.Marshal(object{"cniVersion": "0.3.1", "name": "podnet", "plugins": []object{
		{"type": "ptp", "ipMasq": false, "ipam": object{
			"type": "host-local", "dataDir": "/run/podnet",
			"ranges": [][]object{{{"subnet": podRange}}}, "routes": []object{{"dst": "0.0.0.0/0"}},
		}},
		{"type": "portmap", "capabilities": object{"portMappings": true}},
	}})
	if err != nil {
		return err
	}
	if present, err := os.ReadFile(cniConfig); err == nil && string(present) == string(wanted) {
		return nil
	}
	if err := os.WriteFile(cniConfig+".new", wanted, 0o644); err != nil {
		return err
	}
	return os.Rename(cniConfig+".new", cniConfig)
}

// nft puts rules in force, all of them or none.
func nft(rules string) error {
	command := exec.Command("nft", "-f", "-")
	command.Stdin = strings.NewReader(rules)
	if said, err := command.CombinedOutput(); err != nil {
		return errors.New("nft: " + err.Error() + ": " + string(said))
	}
	return nil
}
