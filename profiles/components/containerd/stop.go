package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods are stopped in this order: what others stand on goes last.
const (
	ordinary = iota
	critical
	apiserver
	ranks
)

// What the runtime says of a program that SIGKILL ended.
const killed = 128 + 9

// rank tells when a pod is stopped, by its labels and annotations as the kubelet hands them to the runtime.
func rank(p *cri.PodSandbox) int {
	switch {
	case p.Labels["component"] == "kube-apiserver":
		return apiserver
	case p.Metadata.Namespace == "kube-system":
		return critical
	default:
		return ordinary
	}
}

// stopPods stops every container and sandbox, a rank at a time. The time is shared: what a rank leaves unstopped is left to
// whoever stops the runtime.
func stopPods(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("expected SOCKET SECONDS")
	}
	seconds, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	runtime := cri.NewRuntimeServiceClient(conn)
	pods, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	containers, err := runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return err
	}
	// Half of what is left is a container's to end by itself.
	for now := range ranks {
		deadline, _ := ctx.Deadline()
		grace := int64(time.Until(deadline).Seconds()) / 2
		var all sync.WaitGroup
		for _, p := range pods.Items {
			if rank(p) != now || p.State != cri.PodSandboxState_SANDBOX_READY {
				continue
			}
			all.Go(func() {
				for _, c := range containers.Containers {
					if c.PodSandboxId == p.Id && c.State == cri.ContainerState_CONTAINER_RUNNING {
						if _, err := runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.Id, Timeout: grace}); err != nil {
							fmt.Fprintf(os.Stderr, "%s of %s: %v\n", c.Metadata.Name, p.Metadata.Name, err)
							continue
						}
						ended, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
						if err == nil && ended.Status.GetExitCode() == killed {
							fmt.Printf("%s of %s/%s did not end within %d s, and was killed\n", c.Metadata.Name, p.Metadata.Namespace, p.Metadata.Name, grace)
						}
					}
				}
				if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
					fmt.Fprintf(os.Stderr, "%s: %v\n", p.Metadata.Name, err)
					return
				}
				fmt.Printf("%s/%s stopped\n", p.Metadata.Namespace, p.Metadata.Name)
			})
		}
		all.Wait()
	}
	return nil
}
