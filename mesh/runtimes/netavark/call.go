package netavark

import (
	"encoding/json"
	"fmt"
	"strings"

	"ripstop/mesh/api"
)

// place is which interface of which container on which network is meant: what teardown
// needs, whatever else is wrong by now.
type place struct {
	Container string `json:"container_id"`
	Network   struct {
		Name    string `json:"name"`
		Options struct {
			Socket string `json:"socket"`
		} `json:"options"`
	} `json:"network"`
	Wishes struct {
		Interface string `json:"interface_name"`
	} `json:"network_options"`
}

// parsePlace reads where something is to be made or removed.
func parsePlace(b []byte) (p place, err error) {
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("this is no call of netavark: %.200v", err)
	}
	switch {
	case !isName(p.Network.Name):
		return p, fmt.Errorf("network %.200q: letters, digits, dots, hyphens and underscores, %d at most", p.Network.Name, maxName)
	case !isName(p.Container):
		return p, fmt.Errorf("container_id %.200q: letters, digits, dots, hyphens and underscores, %d at most", p.Container, maxName)
	case p.Wishes.Interface == "" || len(p.Wishes.Interface) > maxName || strings.Contains(p.Wishes.Interface, "/"):
		return p, fmt.Errorf("interface_name %.200q: the name of an interface", p.Wishes.Interface)
	}
	return p, nil
}

// owner is what the daemon knows the attachment by. None of its parts has a slash.
func (p place) owner() string {
	return "netavark:" + p.Network.Name + "/" + p.Container + "/" + p.Wishes.Interface
}

// socket is the path of the daemon's.
func (p place) socket() string {
	if isPath(p.Network.Options.Socket) {
		return p.Network.Options.Socket
	}
	return api.DefaultSocket
}

// request is what setup is told beside that.
type request struct {
	Container string  `json:"container_name"`
	Ports     []port  `json:"port_mappings"`
	Network   network `json:"network"`
	Wishes    wishes  `json:"network_options"`
}

// port is one that Podman was told to publish.
type port struct {
	Host      uint16 `json:"host_port"`
	Container uint16 `json:"container_port"`
}

// wishes are those for one container on one network.
type wishes struct {
	Aliases   []string          `json:"aliases"`
	Addresses []string          `json:"static_ips"` // without prefix length
	MAC       string            `json:"static_mac"`
	Options   map[string]string `json:"options"`
}

// parseRequest reads and checks what setup is told.
func parseRequest(b []byte) (r request, s settings, err error) {
	if err := json.Unmarshal(b, &r); err != nil {
		return r, s, fmt.Errorf("this is no call of netavark: %.200v", err)
	}
	if s, err = r.Network.settings(); err != nil {
		return r, s, fmt.Errorf("network %s: %w", r.Network.Name, err)
	}
	for name := range r.Wishes.Options {
		return r, s, fmt.Errorf("--network %s:%.80q: there is no such option: known are alias, interface_name, ip, ip6 and mac", r.Network.Name, name)
	}
	if len(r.Ports) > 0 && !s.ignorePorts {
		return r, s, fmt.Errorf("port %d: network %s publishes no ports: leave -p out, since other containers reach port %d by the container's name or address; or have another network of the container publish it: `podman network create -o ports=ignore` makes one that leaves it to that",
			r.Ports[0].Host, r.Network.Name, r.Ports[0].Container)
	}
	return r, s, nil
}
