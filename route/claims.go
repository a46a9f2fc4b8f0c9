package route

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"ripstop/crypto"
)

// Endpoint is an attached container, namespace or exposed host.
type Endpoint struct {
	VNI       VNI
	MAC       MAC
	MTU       uint16       // bytes of an IP packet that its interface takes; 0: any, or not known
	Addresses []netip.Addr // IPv4 and IPv6; 4-in-6 and zones are undone
	Names     []string
	Host      crypto.Name
	// Peer is the host's number. Table.Endpoints fills it; Build takes the numbers
	// from TableConfig.Peers and doesn't read it. 0 = here, or no number known.
	Peer  PeerID
	Claim uint64 // the greater holds; see NextClaim

	// The opt-outs of a port (attach --allow-mac, --allow-address). They count only
	// on the endpoint's own host and never let it use the MAC of another endpoint.
	AllowMACs      []MAC
	AllowAnyMAC    bool
	AllowAddresses []netip.Prefix // 0.0.0.0/0 and ::/0 allow any
}

// Settle decides who holds what, the same on every host that has the same records,
// in whatever order. An endpoint claims its MAC and all its addresses in its VNI.
// The greater claim holds; equal: the lower host name. What clashes with a holder
// is fenced whole, and what is fenced takes nothing from others. Fenced too is what
// nobody can hold: a group or zero MAC, an unspecified, loopback, multicast or
// broadcast address. An endpoint listed twice counts once. Both results are sorted
// by VNI, MAC, host and claim. A second Settle of holding fences nothing.
func Settle(endpoints []Endpoint) (holding, fenced []Endpoint) {
	d := BuildDirectory(endpoints)
	return d.Holding(), d.Fenced()
}

// NextClaim is the claim number for a new endpoint: one above the highest that any
// endpoint, holding or fenced, has for the MAC or one of the addresses in vni.
func NextClaim(endpoints []Endpoint, vni VNI, mac MAC, addresses []netip.Addr) uint64 {
	var wanted []netip.Addr
	for _, a := range addresses {
		wanted = append(wanted, plain(a))
	}
	highest := uint64(0)
	for i := range endpoints {
		e := &endpoints[i]
		if e.VNI != vni {
			continue
		}
		same := e.MAC == mac
		for _, a := range e.Addresses {
			same = same || slices.Contains(wanted, plain(a))
		}
		if same {
			highest = max(highest, e.Claim)
		}
	}
	if highest == math.MaxUint64 {
		return highest
	}
	return highest + 1
}

// plain undoes 4-in-6 and zone, so that one address has one form.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// holdable reports whether an endpoint's MAC and addresses can belong to one station.
func (e *Endpoint) holdable() bool {
	if e.MAC.IsZero() || e.MAC.IsGroup() {
		return false
	}
	for _, a := range e.Addresses {
		a = plain(a)
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() ||
			a.Is4() && a.As4() == [4]byte{255, 255, 255, 255} {
			return false
		}
	}
	return true
}

// byPlace orders endpoints for people and for equal output: VNI, MAC, host, claim
// and, for endpoints that share all four, everything else that tells them apart.
func byPlace(a, b *Endpoint) int {
	return cmp.Or(
		cmp.Compare(macKey(a.VNI, a.MAC), macKey(b.VNI, b.MAC)),
		a.Host.Compare(b.Host),
		cmp.Compare(a.Claim, b.Claim),
		slices.CompareFunc(a.Addresses, b.Addresses, netip.Addr.Compare),
		slices.Compare(a.Names, b.Names),
	)
}

// byClaim orders endpoints by the right to hold, strongest first.
func byClaim(a, b *Endpoint) int {
	return cmp.Or(cmp.Compare(b.Claim, a.Claim), a.Host.Compare(b.Host), byPlace(a, b))
}
