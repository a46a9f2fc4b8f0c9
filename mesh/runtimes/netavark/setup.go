package netavark

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// answer is what setup tells: Podman shows it, and writes the container's resolver file.
type answer struct {
	Interfaces map[string]netInterface `json:"interfaces"` // by name
	Servers    []netip.Addr            `json:"dns_server_ips,omitempty"`
	Search     []string                `json:"dns_search_domains,omitempty"`
}

type netInterface struct {
	MAC     string       `json:"mac_address"`
	Subnets []netAddress `json:"subnets"`
}

type netAddress struct {
	Address netip.Prefix `json:"ipnet"` // host bits kept
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// setup attaches a container. Asked again for what stands, it answers as before.
func (c *call) setup(ctx context.Context, netns string) error {
	b, err := c.ReadAll(ctx, maxInput)
	if err != nil {
		return err
	}
	if netns == "" || len(netns) > maxPath {
		return errors.New("setup of what? Behind it stands the path of the container's network namespace")
	}
	p, err := parsePlace(b)
	if err != nil {
		return err
	}
	r, s, err := parseRequest(b)
	if err != nil {
		return err
	}
	client := api.NewClient(s.socket)
	defer client.Close()
	q := api.AttachRequest{Netns: netns, Interface: p.Wishes.Interface, Owner: p.owner(), MTU: s.mtu, Routes: s.routes, Gateway: s.gateway}
	q.Name, q.Aliases = c.names(p, r)
	if err := r.choose(ctx, client, s, &q); err != nil {
		return err
	}
	var names *api.Resolver
	if !s.silent {
		if names, err = runtimes.TellNames(ctx, client, &q); err != nil {
			return err
		}
	}
	return c.attach(ctx, client, q, names)
}

// attach makes the attachment and answers. Where it is not wanted as it came out, or nobody
// hears the answer, what this call made is undone: Podman would never take it off.
func (c *call) attach(ctx context.Context, client *api.Client, q api.AttachRequest, names *api.Resolver) error {
	others, err := others(ctx, client, q)
	if err != nil {
		return err
	}
	q.NoIPv6 = len(others) > 0 // all IPv6 addresses are of one subnet
	if q.Gateway {
		if err := runtimes.MakeGateway(ctx, client, q); err != nil {
			return err
		}
	}
	attached, err := runtimes.Attach(ctx, client, q)
	if err != nil {
		return err
	}
	if attached.Untold != nil {
		c.note("attached, but the neighbours were not told: %v", attached.Untold)
	}
	if err = apart(attached.Plan, others); err == nil {
		err = runtimes.PrintJSON(c.Out, answerOf(attached.Plan, names))
	}
	if err == nil || attached.Plan.Existing {
		return err
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(err, runtimes.Release(late, client, q.Owner, q.Netns, q.Interface))
}

// others are what a namespace has attached beside what q asks for: by other networks of
// this driver.
func others(ctx context.Context, client *api.Client, q api.AttachRequest) ([]api.Endpoint, error) {
	status, err := client.Status(ctx)
	return slices.DeleteFunc(status.Endpoints, func(e api.Endpoint) bool { return e.Netns != q.Netns || e.Owner == q.Owner }), err
}

// apart refuses an address in a subnet that the container is in already: its answers would
// leave by the interface it has there, whose port takes no such address.
func apart(plan api.AttachPlan, others []api.Endpoint) error {
	for _, e := range others {
		for _, p := range plan.Addresses {
			if i := slices.IndexFunc(e.Addresses, p.Overlaps); i >= 0 {
				return fmt.Errorf("the container is in the subnet %v already, by %s: all networks of this driver are one Ethernet, so it needs one of them, or some with subnets apart: `podman network create --subnet`",
					e.Addresses[i].Masked(), e.Interface)
			}
		}
	}
	return nil
}

func answerOf(plan api.AttachPlan, names *api.Resolver) answer {
	inside := netInterface{MAC: plan.MAC}
	for _, p := range plan.Addresses {
		at := netAddress{Address: p}
		if plan.Gateway.IsValid() && p.Masked().Contains(plan.Gateway) {
			at.Gateway = plan.Gateway
		}
		inside.Subnets = append(inside.Subnets, at)
	}
	a := answer{Interfaces: map[string]netInterface{plan.Interface: inside}}
	if names != nil {
		a.Servers, a.Search = names.Servers, names.Search
	}
	return a
}

// choose fills in the MAC and the addresses that were chosen, and out of which subnets
// the others are to come.
func (r request) choose(ctx context.Context, client *api.Client, s settings, q *api.AttachRequest) (err error) {
	if r.Wishes.MAC != "" {
		if q.MAC, err = runtimes.ParseMAC(r.Wishes.MAC); err != nil {
			return err
		}
	}
	q.Subnets = slices.Clone(s.subnets)
	for _, text := range r.Wishes.Addresses {
		p, err := wholeAddress(ctx, client, s.subnets, text)
		if err != nil {
			return err
		}
		q.Addresses = append(q.Addresses, p)
		q.Subnets = slices.DeleteFunc(q.Subnets, func(subnet netip.Prefix) bool { return subnet == p.Masked() })
	}
	return nil
}

// wholeAddress gives an address the prefix length of its subnet. One of IPv4 has to be in
// one where there are some.
func wholeAddress(ctx context.Context, client *api.Client, subnets []netip.Prefix, text string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() || len(subnets) == 0 {
		return runtimes.WholeAddress(ctx, client, text)
	}
	for _, subnet := range subnets {
		if subnet.Contains(a) {
			return netip.PrefixFrom(a, subnet.Bits()), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("address %v: it is in none of the network's subnets %v", a, subnets)
}

// teardown takes a container off the network. What is gone already, its namespace or the
// daemon, is no failure.
func (c *call) teardown(ctx context.Context, netns string) error {
	b, err := c.ReadAll(ctx, maxInput)
	if err != nil {
		return err
	}
	p, err := parsePlace(b)
	if err != nil {
		return err
	}
	client := api.NewClient(p.socket())
	defer client.Close()
	return runtimes.Release(ctx, client, p.owner(), netns, p.Wishes.Interface)
}
