package cni

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// add attaches a container. Asked again for what stands, it answers as before.
func (c *call) add(ctx context.Context) error {
	result, err := c.config.previous()
	if err != nil {
		return err
	}
	q, dns, err := c.request(ctx)
	if err != nil {
		return err
	}
	attached, err := runtimes.Attach(ctx, c.client, q)
	if err != nil {
		return err
	}
	if attached.Untold != nil {
		c.note("attached, but the neighbours were not told: %v", attached.Untold)
	}
	return c.print(extend(result, attached.Plan, c.netns, dns))
}

// note says on stderr what is no failure.
func (c *call) note(format string, args ...any) {
	fmt.Fprintf(c.Err, Program+": "+format+"\n", args...)
}

// request is what the daemon is asked for, and where the container then finds names.
func (c *call) request(ctx context.Context) (q api.AttachRequest, dns types.DNS, err error) {
	q = api.AttachRequest{Netns: c.netns, Interface: c.inside(), Owner: c.owner(), MTU: c.config.MTU, Name: c.name()}
	if q.MAC, err = c.mac(); err != nil {
		return q, dns, err
	}
	if q.Addresses, err = c.addresses(ctx); err != nil {
		return q, dns, err
	}
	if len(q.Addresses) == 0 {
		if q.Subnets, err = c.config.IPAM.subnets(); err != nil {
			return q, dns, err
		}
	}
	if q.Routes, err = c.config.IPAM.routes(); err != nil {
		return q, dns, err
	}
	names, err := c.client.Names(ctx)
	if err != nil {
		return q, dns, err
	}
	// The server answers over IPv4, and every chosen address is one.
	if server := names.Address; server != nil && (len(q.Addresses) == 0 || hasIPv4(q.Addresses)) {
		q.Routes = append(q.Routes, netip.PrefixFrom(*server, server.BitLen()))
		dns = types.DNS{Nameservers: []string{server.String()}, Domain: names.Domain, Search: append([]string{names.Domain}, names.Search...)}
	}
	if c.config.DNS != nil {
		dns = *c.config.DNS
	}
	return q, dns, nil
}

// name is the endpoint's; none where the container's cannot be one, since whoever named
// it did not know that it would be.
func (c *call) name() string {
	name := strings.ToLower(c.args.name)
	if name != "" && !api.ValidName(name) {
		c.note("%q is no name of letters, digits, hyphens and dots with at most 63 characters: the container is found by its address only", name)
		return ""
	}
	return name
}

// mac is the MAC that the runtime wants; empty: none.
func (c *call) mac() (string, error) {
	switch {
	case c.config.Runtime.MAC != "":
		return parseMAC(c.config.Runtime.MAC)
	case c.args.mac != "":
		return parseMAC(c.args.mac)
	}
	return "", nil
}

// addresses are those that the runtime wants, else those of the configuration; none: one
// is to be chosen.
func (c *call) addresses(ctx context.Context) (all []netip.Prefix, err error) {
	texts := c.config.Runtime.IPs
	if len(texts) == 0 {
		texts = c.args.ips
	}
	if len(texts) == 0 {
		for _, a := range c.config.IPAM.Addresses {
			texts = append(texts, a.Address)
		}
	}
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			if p, err = c.wholeAddress(ctx, text); err != nil {
				return nil, err
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// wholeAddress gives a bare address the prefix length that others of its range have.
func (c *call) wholeAddress(ctx context.Context, text string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, invalid("address %.80q: an IP address, such as 10.32.0.1/12", text)
	}
	all, err := c.client.IPAM(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, network := range []netip.Prefix{all.Subnet, all.Range, all.Range6} {
		if network.Contains(a) {
			return netip.PrefixFrom(a, network.Bits()), nil
		}
	}
	return netip.Prefix{}, invalid("address %v: outside the network's range %v: give it with its prefix length", a, all.Range)
}

func hasIPv4(all []netip.Prefix) bool {
	for _, p := range all {
		if p.Addr().Is4() {
			return true
		}
	}
	return false
}
