package tun

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Overlap looks in the network namespace of the calling thread for a route, or an
// address of an interface, that lies in prefix or holds all of it, and says it in
// words; empty: there is none. Default routes don't count, nor does what belongs to
// the interfaces called ours.
func Overlap(prefix netip.Prefix, ours ...string) (string, error) {
	own := make(map[int]bool)
	for _, name := range ours {
		if link, err := netlink.LinkByName(name); err == nil {
			own[link.Attrs().Index] = true
		}
	}
	family := unix.AF_INET
	if prefix.Addr().Is6() {
		family = unix.AF_INET6
	}
	// Of all tables but the local one, which says again what addresses there are.
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", fmt.Errorf("tun: list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Table == unix.RT_TABLE_LOCAL || own[r.LinkIndex] {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		if to := netip.PrefixFrom(a.Unmap(), ones); ok && ones > 0 && to.Overlaps(prefix) {
			return fmt.Sprintf("route to %v%s", to, through(r.LinkIndex)), nil
		}
	}
	addresses, err := netlink.AddrList(nil, family)
	if err != nil {
		return "", fmt.Errorf("tun: list addresses: %w", err)
	}
	for _, l := range addresses {
		a, ok := netip.AddrFromSlice(l.IP)
		if ok && !own[l.LinkIndex] && prefix.Contains(a.Unmap()) {
			return fmt.Sprintf("address %v%s", a.Unmap(), through(l.LinkIndex)), nil
		}
	}
	return "", nil
}

// through names the interface of that index.
func through(index int) string {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return " on " + link.Attrs().Name
}
