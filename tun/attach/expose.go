package attach

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
)

// routeProtocol marks our routes (rtm_protocol, the values above 3 are free to use),
// so that Hide takes away no one else's.
const routeProtocol = 114

// Expose puts the host itself on the bridge: each address, and instead of the
// kernel's own route to its network one with the MTU of a container (0:
// tun.ContainerMTU), since the bridge has the maximum. With an IPv6 address the
// bridge also gets the link-local address made of its MAC, which neighbour
// discovery needs. What this call did is undone when a step fails.
func Expose(bridge string, addrs []netip.Prefix, mtu int) error {
	return expose(bridge, addrs, mtu, func(string) error { return nil })
}

// expose is Expose with a hook before each step, by which tests make it fail.
func expose(bridge string, addrs []netip.Prefix, mtu int, before func(step string) error) error {
	if mtu == 0 {
		mtu = tun.ContainerMTU
	}
	if mtu < tun.MinMTU || mtu > tun.MaxMTU {
		return fmt.Errorf("attach: expose: MTU %d: from %d to %d", mtu, tun.MinMTU, tun.MaxMTU)
	}
	ipv6 := false
	for _, a := range addrs {
		if err := checkAddress(a); err != nil {
			return err
		}
		ipv6 = ipv6 || a.Addr().Is6()
	}
	if ipv6 && mtu < minIPv6MTU {
		return fmt.Errorf("attach: expose: MTU %d: IPv6 addresses need at least %d", mtu, minIPv6MTU)
	}
	link, err := find(bridge)
	if err != nil {
		return fmt.Errorf("attach: expose: bridge %w", err)
	}
	had, err := addresses(link)
	if err != nil {
		return fmt.Errorf("attach: expose: %w", err)
	}
	var fresh []netip.Prefix
	for _, a := range addrs {
		if had[a] == nil {
			fresh = append(fresh, a)
		}
	}
	var steps []step
	if ipv6 {
		steps = append(steps, step{name: "link-local address", do: func() error { return putLinkLocal(link) }})
	}
	for _, a := range addrs {
		steps = append(steps,
			step{name: "address " + a.String(), do: func() error { return putAddress(link, a, unix.IFA_F_NOPREFIXROUTE) }},
			step{name: "route " + a.Masked().String(), do: func() error { return putRoute(link, a, mtu) }})
	}
	for _, s := range steps {
		err := before(s.name)
		if err == nil {
			err = s.do()
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("attach: expose %s: %s: %w", bridge, s.name, privilege(err))
		if undo := Hide(bridge, fresh); undo != nil {
			return fmt.Errorf("%w; and it could not be undone: %w", err, undo)
		}
		return err
	}
	return nil
}

// addresses are what the link has.
func addresses(link netlink.Link) (map[netip.Prefix]*netlink.Addr, error) {
	all, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	have := make(map[netip.Prefix]*netlink.Addr, len(all))
	for _, a := range all {
		addr, _ := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		have[netip.PrefixFrom(addr.Unmap(), bits)] = &a
	}
	return have, nil
}

func putLinkLocal(link netlink.Link) error {
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 {
		return fmt.Errorf("%s has no Ethernet address", link.Attrs().Name)
	}
	own := netip.PrefixFrom(linkLocal([6]byte(mac)), 64)
	if have, err := addresses(link); err != nil || have[own] != nil {
		return err // the kernel's own, on a bridge that is not ours, stays the kernel's
	}
	return putAddress(link, own, 0)
}

// route is the route to an exposed address's network.
func route(link netlink.Link, a netip.Prefix, mtu int) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(a.Masked()), Src: a.Addr().AsSlice(),
		MTU: mtu, Protocol: routeProtocol,
	}
	if a.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

// putRoute adds the route or changes ours. A route to the same network that is not
// ours stays, and is an error: it would be hidden, and what it leads to lost.
func putRoute(link netlink.Link, a netip.Prefix, mtu int) error {
	if a.IsSingleIP() {
		return nil // no network behind it
	}
	same, err := routesTo(a)
	if err != nil {
		return err
	}
	for _, r := range same {
		if r.Protocol != routeProtocol || r.LinkIndex != link.Attrs().Index {
			where := fmt.Sprintf("interface %d", r.LinkIndex)
			if other, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				where = other.Attrs().Name
			}
			return fmt.Errorf("this host has a route to %s already, through %s: choose another range, or remove that route", a.Masked(), where)
		}
	}
	return netlink.RouteReplace(route(link, a, mtu))
}

// Hide takes the addresses and their routes from the bridge, and the link-local
// address when no IPv6 address is left. It is no error when they are not there.
func Hide(bridge string, addrs []netip.Prefix) error {
	link, err := find(bridge)
	if errors.Is(err, errNoLink) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach: hide: %w", err)
	}
	have, err := addresses(link)
	if err != nil {
		return fmt.Errorf("attach: hide: %w", err)
	}
	for _, a := range addrs {
		gone := have[a]
		delete(have, a)
		mtu, err := dropRoute(link, a)
		if err != nil {
			return fmt.Errorf("attach: hide: route %s: %w", a.Masked(), privilege(err))
		}
		if gone != nil {
			if err := netlink.AddrDel(link, gone); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("attach: hide: address %s: %w", a, privilege(err))
			}
		}
		// Other addresses of the same network shared the route, and may have been the
		// kernel's secondaries of this one, gone with it (promote_secondaries).
		for other, was := range have {
			if other.Masked() != a.Masked() || was.Flags&unix.IFA_F_NOPREFIXROUTE == 0 {
				continue
			}
			if err := putAddress(link, other, unix.IFA_F_NOPREFIXROUTE); err != nil {
				return fmt.Errorf("attach: hide: %w", err)
			}
			if mtu != 0 {
				if err := netlink.RouteReplace(route(link, other, mtu)); err != nil {
					return fmt.Errorf("attach: hide: route %s: %w", other.Masked(), privilege(err))
				}
			}
		}
	}
	return hideLinkLocal(link, have)
}

// dropRoute takes our route to a's network away and returns its MTU, 0 when there
// was none.
func dropRoute(link netlink.Link, a netip.Prefix) (mtu int, err error) {
	same, err := routesTo(a)
	if err != nil {
		return 0, err
	}
	for _, r := range same {
		if r.Protocol == routeProtocol && r.LinkIndex == link.Attrs().Index {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return 0, err
			}
			mtu = r.MTU
		}
	}
	return mtu, nil
}

// routesTo lists the main table's routes to exactly a's network.
func routesTo(a netip.Prefix) ([]netlink.Route, error) {
	family := netlink.FAMILY_V4
	if a.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	return dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Dst: ipNet(a.Masked()), Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	})
}

// hideLinkLocal removes the bridge's link-local address when it is the last of
// IPv6. Ours is known by having skipped duplicate detection; the kernel's own stays.
func hideLinkLocal(link netlink.Link, have map[netip.Prefix]*netlink.Addr) error {
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 {
		return nil
	}
	own := netip.PrefixFrom(linkLocal([6]byte(mac)), 64)
	if have[own] == nil || have[own].Flags&unix.IFA_F_NODAD == 0 {
		return nil
	}
	for a := range have {
		if a.Addr().Is6() && a != own {
			return nil
		}
	}
	if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(own)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("attach: hide: address %s: %w", own, privilege(err))
	}
	return nil
}
