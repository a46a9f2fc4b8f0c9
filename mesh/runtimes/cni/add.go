package cni

import (
	"context"
	"fmt"
	"net/netip"

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
	if q.Gateway {
		if err := runtimes.MakeGateway(ctx, c.client, q); err != nil {
			return err
		}
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
	q = api.AttachRequest{Netns: c.netns, Interface: c.inside(), Owner: c.owner(), MTU: c.config.MTU, Name: c.name(), Gateway: c.config.IsDefaultGateway}
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
	names, err := runtimes.TellNames(ctx, c.client, &q)
	if err != nil {
		return q, dns, err
	}
	if names != nil {
		dns = types.DNS{Nameservers: []string{names.Servers[0].String()}, Domain: names.Search[0], Search: names.Search}
	}
	if c.config.DNS != nil {
		dns = *c.config.DNS
	}
	return q, dns, nil
}

// name is the endpoint's; empty: none.
func (c *call) name() string {
	name := runtimes.EndpointName(c.args.name)
	if name == "" && c.args.name != "" {
		c.note("%q is no name of letters, digits, hyphens and dots with at most 63 characters: the container is found by its address only", c.args.name)
	}
	return name
}

// mac is the MAC that the runtime wants; empty: none.
func (c *call) mac() (string, error) {
	switch {
	case c.config.Runtime.MAC != "":
		return runtimes.ParseMAC(c.config.Runtime.MAC)
	case c.args.mac != "":
		return runtimes.ParseMAC(c.args.mac)
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
			if p, err = runtimes.WholeAddress(ctx, c.client, text); err != nil {
				return nil, err
			}
		}
		all = append(all, p)
	}
	return all, nil
}
