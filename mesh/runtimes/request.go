package runtimes

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"ripstop/mesh/api"
)

// What a runtime says of a container comes as text. Here it becomes what an
// api.AttachRequest has; what makes no sense is refused by an api.Error of CodeInvalid,
// as the daemon refuses it.

// EndpointName is what a container is found by if its runtime calls it text; empty where
// that cannot be: whoever named the container did not know that its name would be one.
func EndpointName(text string) string {
	if name := strings.ToLower(text); api.ValidName(name) {
		return name
	}
	return ""
}

// ParseMAC is a MAC address in the form in which the daemon has it.
func ParseMAC(text string) (string, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return "", api.Errorf(api.CodeInvalid, "MAC %.80q: it is no unicast MAC address, such as 02:00:5e:00:53:01", text)
	}
	return mac.String(), nil
}

// ParseSubnet is a part of the range out of which an address is to come.
func ParseSubnet(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p != p.Masked() {
		return netip.Prefix{}, api.Errorf(api.CodeInvalid, "subnet %.80q: a subnet without host bits, such as 10.32.2.0/24", text)
	}
	return p, nil
}

// ParseRoute is a network to be reached through the interface.
func ParseRoute(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, api.Errorf(api.CodeInvalid, "route %.80q: a range with its prefix length, such as 10.40.0.0/16", text)
	}
	return p.Masked(), nil
}

// WholeAddress gives a bare address the prefix length that others of its range have.
func WholeAddress(ctx context.Context, client *api.Client, text string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, api.Errorf(api.CodeInvalid, "address %.80q: an IP address, such as 10.32.0.1/12", text)
	}
	all, err := client.IPAM(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, network := range []netip.Prefix{all.Subnet, all.Range, all.Range6} {
		if network.Contains(a) {
			return netip.PrefixFrom(a, network.Bits()), nil
		}
	}
	return netip.Prefix{}, api.Errorf(api.CodeInvalid, "address %v: outside the network's range %v: give it with its prefix length", a, all.Range)
}

// MakeGateway makes the host the gateway that the container of q is to have, if it is none:
// with an address in each IPv4 network of which the container gets one.
func MakeGateway(ctx context.Context, client *api.Client, q api.AttachRequest) error {
	expose := api.ExposeRequest{Subnets: slices.Clone(q.Subnets), Deadline: q.Deadline, Masquerade: true}
	for _, p := range q.Addresses {
		if p.Addr().Is4() && !slices.Contains(expose.Subnets, p.Masked()) {
			expose.Subnets = append(expose.Subnets, p.Masked())
		}
	}
	if _, err := client.Expose(ctx, expose); err != nil {
		return fmt.Errorf("this host does not become a gateway: %w", err)
	}
	return nil
}

// TellNames says where the container of q finds names, the domain first in Search, and
// has q lead there. nil: nowhere. The server answers over IPv4, and every chosen address
// is one.
func TellNames(ctx context.Context, client *api.Client, q *api.AttachRequest) (*api.Resolver, error) {
	names, err := client.Names(ctx)
	if err != nil || names.Address == nil {
		return nil, err
	}
	isIPv4 := func(p netip.Prefix) bool { return p.Addr().Is4() }
	if len(q.Addresses) > 0 && len(q.Subnets) == 0 && !slices.ContainsFunc(q.Addresses, isIPv4) {
		return nil, nil
	}
	server := *names.Address
	q.Routes = append(q.Routes, netip.PrefixFrom(server, server.BitLen()))
	return &api.Resolver{Servers: []netip.Addr{server}, Search: append([]string{names.Domain}, names.Search...)}, nil
}
