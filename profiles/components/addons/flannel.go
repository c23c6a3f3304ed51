// flannel for a cluster that is as ours is: leases in the Kubernetes API, VXLAN or host routes between nodes, nftables.
//
// Upstream's own main imports backends for clouds, one of whose modules cannot be fetched, and hands its lease to a CNI plugin
// of its own through an environment file. Here the lease becomes the bridge plugin's configuration itself.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"k8s.io/klog/v2"
)

// Rules are looked at again every so often, in seconds: somebody may flush them.
const resync = 30

func flannel() {
	var (
		kubeconfig = flag.String("kubeconfig", "", "how to reach the API; empty = as any pod does")
		api        = flag.String("api", "", "the API's URL; overrides the kubeconfig's")
		network    = flag.String("net-conf", "/etc/kube-flannel/net-conf.json", "flannel's configuration of the network")
		address    = flag.String("public-ip", "", "the node's own address")
		conflist   = flag.String("cni-conf", "/etc/cni/net.d/10-flannel.conflist", "where the lease goes")
	)
	klog.InitFlags(nil)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *kubeconfig, *api, *network, *address, *conflist); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "flannel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, api, network, address, conflist string) error {
	leases, err := kube.NewSubnetManager(ctx, api, kubeconfig, "flannel.alpha.coreos.com", network, true)
	if err != nil {
		return fmt.Errorf("asking the API for a lease: %w", err)
	}
	config, err := leases.GetNetworkConfig(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", network, err)
	}
	family, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return err
	}
	own := ipmatch.PublicIPOpts{PublicIP: address}
	if ip := net.ParseIP(address); ip != nil && ip.To4() == nil {
		own = ipmatch.PublicIPOpts{PublicIPv6: address}
	}
	link, err := ipmatch.LookupExtIface(address, "", "", family, own)
	if err != nil {
		return fmt.Errorf("no interface has %s: %w", address, err)
	}
	kind, err := backend.NewManager(ctx, leases, link).GetBackend(config.BackendType)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	routes, err := kind.RegisterNetwork(ctx, &running, config)
	if err != nil {
		return fmt.Errorf("registering the network: %w", err)
	}
	traffic := &nftables.NFTablesManager{}
	if err := traffic.Init(ctx); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	lease := routes.Lease()
	err = traffic.SetupAndEnsureMasqRules(ctx, config.Network, ip.IP4Net{}, ip.IP4Net{}, config.IPv6Network, ip.IP6Net{}, ip.IP6Net{}, lease, resync, false)
	if err != nil {
		return fmt.Errorf("masquerading: %w", err)
	}
	traffic.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, resync)
	if err := writeConflist(conflist, config, lease, routes.MTU()); err != nil {
		return err
	}
	klog.Infof("pods of this node get addresses of %s", lease.Subnet)
	running.Go(func() { routes.Run(ctx) })
	return leases.CompleteLease(ctx, lease, &running)
}
