package netavark

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// The longest name and path, in bytes, and how much a network may have.
const (
	maxName    = 128
	maxPath    = 4096
	maxSubnets = 8 // each gives an address of IPv4 and one of IPv6, and 16 are an interface's most
	maxRoutes  = 64
)

// network is the part of a network of Podman's that means something here, as it is given;
// the rest is Podman's own.
type network struct {
	Name       string            `json:"name"`
	Interface  string            `json:"network_interface"`
	Subnets    []subnet          `json:"subnets"`
	Routes     []json.RawMessage `json:"routes"`
	DNSServers []json.RawMessage `json:"network_dns_servers"`
	Options    map[string]string `json:"options"`
	IPAM       map[string]string `json:"ipam_options"`
}

type subnet struct {
	Subnet  string    `json:"subnet"`
	Gateway string    `json:"gateway"`
	Lease   *struct{} `json:"lease_range"`
}

// settings are what a network says of its containers.
type settings struct {
	socket      string         // path
	mtu         int            // bytes; 0 = the daemon's
	subnets     []netip.Prefix // an address of each; none: of the daemon's default subnet
	routes      []netip.Prefix // reached through the interface
	silent      bool           // containers are not told of ripstop's name server
	ignorePorts bool           // ports are published by another network of the container
	gateway     bool           // containers have a default route by this host, which then masquerades
}

const knownOptions = "dns, gateway, mtu, ports, routes and socket"

// nobody is Podman's name for the address management of a network that has none of Podman's.
const nobody = "none"

// settings checks a network. What ripstop does not do is refused, so that nothing is
// believed to hold that does not.
func (n *network) settings() (s settings, err error) {
	switch driver := n.IPAM["driver"]; {
	case !isName(n.Name):
		return s, fmt.Errorf("network %.200q: letters, digits, dots, hyphens and underscores, %d at most", n.Name, maxName)
	case driver != "" && driver != nobody:
		return s, fmt.Errorf("--ipam-driver %.80q: ripstop chooses addresses itself: leave it out", driver)
	case n.Interface != "":
		return s, fmt.Errorf("--interface-name %.80q: the bridge is the daemon's: name it by `ripstop up --bridge`", n.Interface)
	case len(n.Routes) > 0:
		return s, fmt.Errorf("--route: a destination is given alone, by -o routes=10.40.0.0/16; the world behind the host by -o gateway=true")
	case len(n.DNSServers) > 0:
		return s, fmt.Errorf("--dns: the name server is ripstop's: for others make the network with -o dns=none, and use `podman run --dns`")
	}
	if s.subnets, err = n.subnets(); err != nil {
		return s, err
	}
	return s, s.take(n.Options)
}

// subnets are the parts of the range out of which addresses are to come.
func (n *network) subnets() (all []netip.Prefix, err error) {
	if len(n.Subnets) > maxSubnets {
		return nil, fmt.Errorf("%d subnets, %d are the most", len(n.Subnets), maxSubnets)
	}
	for _, given := range n.Subnets {
		p, err := runtimes.ParseSubnet(given.Subnet)
		switch {
		case err != nil:
			return nil, err
		case !p.Addr().Is4():
			return nil, fmt.Errorf("subnet %v: an IPv6 address comes by itself beside each IPv4 one: leave it out", p)
		case given.Gateway != "":
			return nil, fmt.Errorf("subnet %v: the gateway %.80q: it is an address that ripstop chooses for the host: give -o gateway=true in its place", p, given.Gateway)
		case given.Lease != nil:
			return nil, fmt.Errorf("subnet %v: ripstop chooses out of the whole of it: leave --ip-range out, or give a smaller --subnet", p)
		}
		if i := slices.IndexFunc(all, p.Overlaps); i >= 0 {
			return nil, fmt.Errorf("subnets %v and %v overlap: leave one of them out", all[i], p)
		}
		all = append(all, p)
	}
	return all, nil
}

// take takes the options of -o.
func (s *settings) take(options map[string]string) (err error) {
	s.socket = api.DefaultSocket
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := options[name]
		switch name {
		case "socket":
			if s.socket = value; !isPath(value) {
				return fmt.Errorf("-o socket=%.200q: the whole path of the daemon's socket, such as %s", value, api.DefaultSocket)
			}
		case "mtu":
			if s.mtu, err = strconv.Atoi(value); err != nil || s.mtu <= 0 {
				return fmt.Errorf("-o mtu=%.80q: a size in bytes, such as 1400", value)
			}
		case "routes":
			if s.routes, err = parseRoutes(value); err != nil {
				return fmt.Errorf("-o routes=%.80q: %w", value, err)
			}
		case "dns":
			if s.silent = value == "none"; !s.silent {
				return fmt.Errorf("-o dns=%.80q: it can only be none", value)
			}
		case "gateway":
			if s.gateway = value == "true"; !s.gateway {
				return fmt.Errorf("-o gateway=%.80q: it can only be true", value)
			}
		case "ports":
			if s.ignorePorts = value == "ignore"; !s.ignorePorts {
				return fmt.Errorf("-o ports=%.80q: it can only be ignore", value)
			}
		default:
			return fmt.Errorf("-o %.80q: there is no such option: known are %s", name, knownOptions)
		}
	}
	return nil
}

// parseRoutes reads networks with commas between.
func parseRoutes(text string) (all []netip.Prefix, err error) {
	for text := range strings.SplitSeq(text, ",") {
		p, err := runtimes.ParseRoute(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		if all = append(all, p); len(all) > maxRoutes {
			return nil, fmt.Errorf("more than %d routes", maxRoutes)
		}
	}
	return all, nil
}

// isName reports whether Podman could have given something that name. It has no slash.
func isName(s string) bool {
	return len(s) > 0 && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r))
	})
}

func isPath(s string) bool { return filepath.IsAbs(s) && len(s) <= maxPath }
