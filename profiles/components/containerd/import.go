package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// importImages imports the OCI archives of a directory (*.tar) into the namespace of the kubelet's pods and unpacks them.
// One that is there already, the same, costs its reading.
func importImages(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("expected SOCKET DIRECTORY")
	}
	files, err := filepath.Glob(filepath.Join(args[1], "*.tar"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s: no *.tar there", args[1])
	}
	client, err := containerd.New(args[0])
	if err != nil {
		return err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	for _, file := range files {
		if err := importImage(ctx, client, file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func importImage(ctx context.Context, client *containerd.Client, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	images, err := client.Import(ctx, file)
	if err != nil {
		return err
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
