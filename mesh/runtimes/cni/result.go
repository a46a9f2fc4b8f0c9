package cni

import (
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// extend adds an attachment to the result of the plug-in before; nil: there is none. The
// host's end of the interface comes first, then the container's, which has the addresses.
func extend(r *types100.Result, plan api.AttachPlan, netns string, dns types.DNS) *types100.Result {
	if r == nil {
		r = new(types100.Result)
	}
	r.CNIVersion = types100.ImplementedSpecVersion
	r.Interfaces = append(r.Interfaces,
		&types100.Interface{Name: plan.HostInterface},
		&types100.Interface{Name: plan.Interface, Mac: plan.MAC, Mtu: plan.MTU, Sandbox: netns})
	for _, p := range plan.Addresses {
		ip := &types100.IPConfig{Interface: types100.Int(len(r.Interfaces) - 1), Address: ipNet(p)}
		if plan.Gateway.IsValid() && p.Masked().Contains(plan.Gateway) {
			ip.Gateway = plan.Gateway.AsSlice()
		}
		r.IPs = append(r.IPs, ip)
	}
	for _, p := range plan.Routes {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(p)})
	}
	if plan.Gateway.IsValid() {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(everywhere), GW: plan.Gateway.AsSlice()})
	}
	if r.DNS.IsEmpty() {
		r.DNS = dns
	}
	return r
}

// everywhere is where a default route leads.
var everywhere = netip.MustParsePrefix("0.0.0.0/0")

// ipNet is a prefix as the protocol's package has it, host bits kept.
func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// print answers with a result in the call's version.
func (c *call) print(r *types100.Result) error {
	converted, err := r.GetAsVersion(c.version)
	if err != nil {
		return err
	}
	return runtimes.PrintJSON(c.Out, converted)
}
