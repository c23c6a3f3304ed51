package main

import (
	"context"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// importImage imports an OCI archive into the namespace of the kubelet's pods and unpacks it. One that is there already,
// the same, costs its reading.
func importImage(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("expected SOCKET FILE")
	}
	client, err := containerd.New(args[0])
	if err != nil {
		return err
	}
	defer client.Close()
	file, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer file.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	images, err := client.Import(ctx, file)
	if err != nil {
		return fmt.Errorf("%s: %w", args[1], err)
	}
	for _, i := range images {
		// On disk before it is said to be there: a node that loses power now would have an image of empty files for ever.
		synced := containerd.WithUnpackApplyOpts(diff.WithSyncFs(true))
		if err := containerd.NewImage(client, i).Unpack(ctx, "overlayfs", synced); err != nil {
			return fmt.Errorf("unpacking %s: %w", i.Name, err)
		}
		fmt.Println(i.Name)
	}
	return nil
}
