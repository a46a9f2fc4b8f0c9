package mesh

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"ripstop/mesh/api"
	"ripstop/route"
)

// releaseWait is how long the old host of an endpoint that moves is waited for.
const releaseWait = 2 * time.Second

// claim makes sure that nobody else holds a's MAC and addresses, asks the holder
// to release them when it is a move, and sets the claim number above every one
// seen. n.mu must be held; it is let go of while another host is asked.
func (n *node) claim(ctx context.Context, a *attachment, move bool) error {
	mac, addrs := a.mac(), a.addrs()
	// A container that was started again may be quicker than the look at the ports.
	n.forgetEnded(time.Now(), func(other *attachment) bool { return other.holds(mac, addrs) })
	if err := n.free(a); err != nil {
		return err
	}
	alive := n.aliveHosts()
	for _, e := range n.table.Endpoints() {
		if e.Host == n.identity.Name() || !overlaps(e, mac, addrs) || !alive[e.Host] {
			continue
		}
		if !move {
			what := "detach it there, or take it over by --move"
			if a.Exposed { // which has no --move
				what = "detach or hide it there, or choose another"
			}
			return api.Errorf(api.CodeConflict, "%s is in use on host %s (%s): %s",
				clash(mac, addrs, e.Addresses), n.nickname(e.Host), e.Host, what)
		}
		n.askRelease(ctx, e.Host, mac, addrs)
		if err := n.free(a); err != nil { // somebody here was quicker meanwhile
			return err
		}
	}
	a.Claim = route.NextClaim(n.endpoints(), vni, mac, addrs)
	return nil
}

// free refuses a's MAC and addresses when something on this host has one of them.
// n.mu must be held.
func (n *node) free(a *attachment) error {
	mac, addrs := a.mac(), a.addrs()
	for _, other := range n.attachments {
		if other.holds(mac, addrs) {
			return api.Errorf(api.CodeConflict, "%s is in use on this host, by %s: detach that first", clash(mac, addrs, other.addrs()), other.label())
		}
	}
	for _, r := range n.reservations {
		if r.holds(mac, addrs) && time.Now().Before(r.expires) {
			return api.Errorf(api.CodeConflict, "%s is being attached on this host just now", clash(mac, addrs, r.addrs()))
		}
	}
	return nil
}

// overlaps reports whether e has that MAC or one of the addresses.
func overlaps(e route.Endpoint, mac route.MAC, addrs []netip.Addr) bool {
	return e.VNI == vni && (e.MAC == mac || slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return slices.Contains(addrs, a) }))
}
