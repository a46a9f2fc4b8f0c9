package cli

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"ripstop/mesh/api"
)

// checkGateway says whether what is attached here reaches the world behind this host, if
// it is to: the host masquerades at the addresses that containers were given for a
// gateway, forwards, and its firewall lets that pass.
func checkGateway(_ context.Context, x *examination) []finding {
	s := x.status
	var found []finding
	lost := make(map[netip.Addr][]string) // whose gateway is not there
	uses := 0
	for _, e := range s.Endpoints {
		if !e.Gateway.IsValid() {
			continue
		}
		uses++
		if !s.IsGateway(e.Gateway) {
			lost[e.Gateway] = append(lost[e.Gateway], nickOr(e.Name, e.MAC))
		}
	}
	if uses == 0 && !s.Masquerade {
		return one(good("this host is none, and nothing attached here wants one"))
	}
	for _, gateway := range slices.SortedFunc(maps.Keys(lost), netip.Addr.Compare) {
		found = append(found, failure(exposing(s, gateway), "%s: no way to the world, for their gateway %v does not masquerade", some(lost[gateway]), gateway))
	}
	if s.Masquerade {
		found = append(found, x.routes()...)
	}
	return orGood(found, "what is attached here reaches the world behind this host, which masquerades: %s", plural(uses, "container"))
}

// exposing is the command that makes this host the gateway at that address.
func exposing(s *api.Status, gateway netip.Addr) string {
	if slices.ContainsFunc(s.Addresses, func(p netip.Prefix) bool { return p.Addr() == gateway }) {
		if s.Masquerade { // but another host has the address
			return "detach them; ripstop hide; ripstop expose --masquerade; attach them again"
		}
		return "ripstop expose --masquerade"
	}
	bits := gateway.BitLen()
	for _, e := range s.Endpoints {
		for _, p := range e.Addresses {
			if e.Gateway == gateway && p.Masked().Contains(gateway) {
				bits = p.Bits()
			}
		}
	}
	expose := fmt.Sprintf("ripstop expose --masquerade --address %v/%d", gateway, bits)
	if len(s.Addresses) > 0 {
		return "ripstop hide; " + expose
	}
	return expose
}

// routes says what of the kernel stands in the gateway's way.
func (x *examination) routes() []finding {
	if c, err := x.host.capable(); err != nil || !c.netAdmin() {
		return one(skipped(asRoot, "whether this host lets what it masquerades pass is not shown to this user"))
	}
	if sentence, there := x.host.routing(x.bridge); there {
		return one(hazardFinding(sentence))
	}
	return nil
}
