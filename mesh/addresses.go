package mesh

import (
	"net/netip"
	"slices"
	"time"

	"ripstop/tun"
)

// maxAdvertised is how many underlay addresses a host tells others.
const maxAdvertised = 32

// underlayAddresses are the addresses others may reach this host at: what it is
// bound to, where that is an address, or else those of its interfaces, except loopback, link-local ones and
// whatever belongs to the overlay; what the operator named stands first. false: the kernel
// does not say.
func (n *node) underlayAddresses(now time.Time) ([]netip.AddrPort, bool) {
	var all []netip.AddrPort
	add := func(a netip.AddrPort) {
		if a.Port() == 0 {
			a = netip.AddrPortFrom(a.Addr(), n.port)
		}
		if len(all) < maxAdvertised && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	for _, a := range n.cfg.Advertise {
		add(a)
	}
	every := len(n.cfg.Bind) == 0
	for _, a := range n.cfg.Bind {
		switch a = a.Unmap(); {
		case a.IsUnspecified():
			every = true
		case a.Zone() == "": // a zone says nothing to others
			add(netip.AddrPortFrom(a, n.port))
		}
	}
	if !every {
		return all, true
	}
	addrs, err := n.hostAddresses.get(now, tun.InterfaceAddrs)
	if err != nil {
		n.log.Debug("this host's addresses cannot be listed", "error", err)
		return nil, false
	}
	for _, a := range addrs {
		if a.Addr.IsGlobalUnicast() && n.listens(a.Addr) && !n.ownInterface(a.Interface) && !n.inOverlay(a.Addr) {
			add(netip.AddrPortFrom(a.Addr, n.port))
		}
	}
	return all, true
}

// listens reports whether this host is bound to ip, an address of one of its interfaces.
func (n *node) listens(ip netip.Addr) bool {
	return len(n.cfg.Bind) == 0 || slices.ContainsFunc(n.cfg.Bind, func(b netip.Addr) bool {
		return b.Unmap() == ip || b.IsUnspecified() && b.Is4() == ip.Is4()
	})
}

// ownInterface reports whether an interface of that name is part of the overlay.
func (n *node) ownInterface(name string) bool {
	if name == n.cfg.Bridge || name == n.deviceName {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.attachments, func(a *attachment) bool { return a.Plan.HostInterface == name })
}

// inOverlay reports whether ip is an overlay address or in a prefix that this
// host reaches through the overlay: never to be dialled or probed, for a tunnel
// inside itself carries nothing.
func (n *node) inOverlay(ip netip.Addr) bool {
	o := n.overlay.Load()
	if o == nil {
		return false
	}
	ip = ip.Unmap()
	if _, ok := o.addresses[ip]; ok {
		return true
	}
	return slices.ContainsFunc(o.prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// overlaySpace is what is known of the overlay's addresses, immutable.
type overlaySpace struct {
	addresses map[netip.Addr]struct{} // of every endpoint
	prefixes  []netip.Prefix          // connected to the overlay on this host
}
