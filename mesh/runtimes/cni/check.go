package cni

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"ripstop/mesh/api"
	"ripstop/tun/attach"
)

// check looks whether a container's attachment is as ADD left it: for the daemon, inside
// the namespace, and in the result that the runtime has kept.
func (c *call) check(ctx context.Context) error {
	result, err := c.config.previous()
	if err != nil {
		return err
	}
	if result == nil {
		return invalid("CHECK of network %s: prevResult is missing", c.config.Name)
	}
	status, err := c.client.Status(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(status.Endpoints, func(e api.Endpoint) bool { return e.Owner == c.owner() })
	if i < 0 {
		return refuse(types.ErrUnknownContainer, "container %s is not attached to network %s", c.container, c.config.Name)
	}
	e := status.Endpoints[i]
	if e.State != api.EndpointHere {
		return refuse(codeChanged, "container %s is %s: `ripstop status endpoints` shows which address", c.container, e.State)
	}
	if err := c.checkGateway(status, e); err != nil {
		return err
	}
	inner, err := attach.Look(c.netns, c.inside())
	if gone(err) {
		return refuse(codeChanged, "container %s: %v", c.container, err)
	}
	if err != nil {
		return err
	}
	if err := c.compare(e, inner); err != nil {
		return err
	}
	return c.compareResult(e, result)
}

// compare refuses an interface that is not what the daemon knows.
func (c *call) compare(e api.Endpoint, inner attach.Inner) error {
	mac := net.HardwareAddr(inner.MAC[:]).String()
	switch {
	case inner.HostInterface != e.HostPort:
		return refuse(codeChanged, "the interface %s of container %s is another than was attached", c.inside(), c.container)
	case mac != e.MAC:
		return refuse(codeChanged, "the interface %s of container %s has the MAC %s, not its own %s: nothing it sends is passed on", c.inside(), c.container, mac, e.MAC)
	case !inner.Up:
		return refuse(codeChanged, "the interface %s of container %s is set down", c.inside(), c.container)
	}
	if e.Gateway.IsValid() != c.config.IsDefaultGateway {
		return refuse(codeChanged, "container %s was attached when isDefaultGateway was %v", c.container, e.Gateway.IsValid())
	}
	if e.Gateway.IsValid() && inner.Gateway != e.Gateway {
		return refuse(codeChanged, "the interface %s of container %s has lost its default route by %v", c.inside(), c.container, e.Gateway)
	}
	for _, p := range e.Addresses {
		if !slices.Contains(inner.Addresses, p) {
			return refuse(codeChanged, "the interface %s of container %s has lost its address %v", c.inside(), c.container, p)
		}
	}
	return nil
}

// compareResult refuses a result without an address, or the default route, that the
// container has.
func (c *call) compareResult(e api.Endpoint, r *types100.Result) error {
	var told []netip.Prefix
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			bits, _ := ip.Address.Mask.Size()
			told = append(told, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	for _, p := range e.Addresses {
		if !slices.Contains(told, p) {
			return refuse(codeChanged, "container %s has the address %v, which its result does not name", c.container, p)
		}
	}
	isOurs := func(r *types.Route) bool {
		by, _ := netip.AddrFromSlice(r.GW)
		return r.Dst.String() == everywhere.String() && by.Unmap() == e.Gateway
	}
	if e.Gateway.IsValid() && !slices.ContainsFunc(r.Routes, isOurs) {
		return refuse(codeChanged, "container %s has a default route by %v, which its result does not name", c.container, e.Gateway)
	}
	return nil
}

// checkGateway refuses a host that is not the gateway any more.
func (c *call) checkGateway(s api.Status, e api.Endpoint) error {
	if e.Gateway.IsValid() && !s.IsGateway(e.Gateway) {
		return refuse(codeChanged, "container %s has a default route by %v, where this host is no gateway any more: `ripstop doctor` says what helps", c.container, e.Gateway)
	}
	return nil
}

// status says whether ADD would be served. An address map that does not exist yet is made
// when the first address is asked for, so it is no reason to ask for none.
func (c *call) status(ctx context.Context) error {
	s, err := c.client.Status(ctx)
	switch {
	case err != nil:
		r := c.refusal(err)
		if r.Code == types.ErrTryAgainLater {
			r.Code = types.ErrLimitedConnectivity // other hosts are out of reach
		}
		return r
	case s.Bridge == "":
		return refuse(types.ErrPluginNotAvailable, "this host runs in %s mode: it has no bridge to attach to; run `ripstop up --mode bridge`", s.Mode)
	case s.IPAM != nil && s.IPAM.SaveError != "":
		return refuse(types.ErrPluginNotAvailable, "no address is given out: %s", s.IPAM.SaveError)
	case s.IPAM != nil && s.IPAM.Map != "" && s.IPAM.Waiting != "":
		return refuse(types.ErrPluginNotAvailable, "no address is given out: %s", s.IPAM.Waiting)
	}
	return nil
}
