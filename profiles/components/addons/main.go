// CoreDNS and flannel as one program: it is the one whose name it is called by.
//
// Nearly all of flannel is a client of Kubernetes, which CoreDNS is too: together they are as large as one of them. CoreDNS has
// the plugins that a cluster's Corefile names, and those that people add: upstream's own main carries clients of three clouds.
package main

import (
	"os"
	"path/filepath"

	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
)

func main() {
	if filepath.Base(os.Args[0]) == "flanneld" {
		flannel()
		return
	}
	coremain.Run()
}
