package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
)

type object map[string]any

// writeConflist makes the bridge plugin give pods addresses of the lease (CNI specification 1.0, "Configuration lists"). The
// runtime reads the file whenever it changes, so it appears whole.
func writeConflist(path string, config *subnet.Config, lease *lease.Lease, mtu int) error {
	var ranges [][]object
	var routes []object
	if config.EnableIPv4 {
		ranges = append(ranges, []object{{"subnet": lease.Subnet.String()}})
		routes = append(routes, object{"dst": "0.0.0.0/0"})
	}
	if config.EnableIPv6 {
		ranges = append(ranges, []object{{"subnet": lease.IPv6Subnet.String()}})
		routes = append(routes, object{"dst": "::/0"})
	}
	list := object{
		"cniVersion": "1.0.0",
		"name":       "flannel",
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": mtu,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": "/run/cni"},
			},
			{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
		},
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	beside := filepath.Join(filepath.Dir(path), ".flannel.new")
	if err := os.WriteFile(beside, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(beside, path)
}
