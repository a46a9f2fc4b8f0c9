package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A container's way to what is behind its host is a default route by an address that the
// host has on the bridge; the host has to forward:
//
//	container  default via GATEWAY ─▶ bridge ─▶ host: forwards, and firewall.Table masquerades

// ErrDefaultRoute says that the namespace has another default route, which stays.
var ErrDefaultRoute = errors.New("the namespace has a default route already")

const forwardFile = "/proc/sys/net/ipv4/ip_forward"

// Forward lets the host forward IPv4, and tells whether it did not before. Nothing turns
// it off again: somebody else may rely on it by then.
func Forward() (turned bool, err error) {
	now, err := os.ReadFile(forwardFile)
	if err == nil && strings.TrimSpace(string(now)) != "0" {
		return false, nil // /proc/sys may be read-only
	}
	if err := os.WriteFile(forwardFile, []byte("1"), 0); err != nil {
		return false, fmt.Errorf("attach: let this host forward: %w: `sysctl -w net.ipv4.ip_forward=1` as root, and then again", err)
	}
	return true, nil
}

// defaultRoutes are those of IPv4 in the main table.
func defaultRoutes() ([]netlink.Route, error) {
	return dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	})
}

// lookOut sees whether the namespace may be given the plan's default route.
func (p *plugger) lookOut() error {
	if !p.Gateway.IsValid() {
		return nil
	}
	all, err := defaultRoutes()
	if err != nil {
		return err
	}
	for _, r := range all {
		if gateway, _ := netip.AddrFromSlice(r.Gw); r.LinkIndex != p.inner || gateway.Unmap() != p.Gateway {
			return fmt.Errorf("%w, %s: do without a gateway (--gateway), or delete that one", ErrDefaultRoute, wayOf(r))
		}
	}
	return nil
}

// wayOf says for people where a route leads.
func wayOf(r netlink.Route) string {
	var way []string
	if len(r.Gw) > 0 {
		way = append(way, "by "+r.Gw.String())
	}
	if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		way = append(way, "through "+link.Attrs().Name)
	}
	return strings.Join(way, " ")
}

// putDefaultRoute gives the link the default route; it may have it.
func putDefaultRoute(link netlink.Link, gateway netip.Addr) error {
	err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()})
	if err == nil || !errors.Is(err, unix.EEXIST) {
		return err
	}
	if there, err := gatewayOf(link); err != nil || there == gateway {
		return err
	}
	return ErrDefaultRoute
}

// gatewayOf is by which address a default route leads through the link; invalid: there
// is none.
func gatewayOf(link netlink.Link) (netip.Addr, error) {
	all, err := defaultRoutes()
	for _, r := range all {
		if r.LinkIndex == link.Attrs().Index {
			gateway, _ := netip.AddrFromSlice(r.Gw)
			return gateway.Unmap(), err
		}
	}
	return netip.Addr{}, err
}
