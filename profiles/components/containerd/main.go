// containerd, and what a node asks of it, as one program: it is the one whose name it is called by.
//
//	containerd     upstream's own command, with upstream's own plugins
//	cri-import     puts OCI archives among the images that pods are made of, unpacked: cri-import SOCKET DIRECTORY
//	cri-stop       stops all pods, ordinary ones first, then critical ones, the apiserver last: cri-stop SOCKET SECONDS
//
// The client is linked into containerd anyway; programs of their own would be 20 MB each.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	"github.com/containerd/containerd/v2/cmd/containerd/command"
)

func main() {
	ctx := context.Background()
	name := filepath.Base(os.Args[0])
	var err error
	switch name {
	case "containerd":
		err = command.App().Run(ctx, os.Args)
	case "cri-import":
		err = importImages(ctx, os.Args[1:])
	case "cri-stop":
		err = stopPods(ctx, os.Args[1:])
	default:
		err = fmt.Errorf("expected to be called containerd, cri-import or cri-stop")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
