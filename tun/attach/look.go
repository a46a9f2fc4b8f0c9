package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
	"ripstop/tun/netns"
)

// Inner is an interface inside a namespace as it stands.
type Inner struct {
	HostInterface string // its other end; empty when that is not a host end of ripstop's
	MAC           [6]byte
	MTU           int            // bytes
	Up            bool           // set up; whether the other end is up too is another matter
	Addresses     []netip.Prefix // of global scope, in the kernel's order
	Gateway       netip.Addr     // of the default route through it, IPv4; invalid: none
}

// Look looks at an interface of the namespace arg, as netns.Parse takes it. Where the
// namespace or the interface is gone, errors.Is(err, fs.ErrNotExist) holds.
func Look(arg, iface string) (Inner, error) {
	if err := checkName(iface); err != nil {
		return Inner{}, err
	}
	ns, err := netns.Parse(arg)
	if err != nil {
		return Inner{}, fmt.Errorf("attach: %w", err)
	}
	defer ns.Close()
	var link netlink.Link
	var addrs []netlink.Addr
	var gateway netip.Addr
	err = ns.Do(func() (err error) {
		if link, err = find(iface); err != nil {
			return err
		}
		if addrs, err = dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) }); err != nil {
			return err
		}
		gateway, err = gatewayOf(link)
		return err
	})
	if errors.Is(err, errNoLink) {
		return Inner{}, fmt.Errorf("attach: %s has no interface %s: %w", arg, iface, fs.ErrNotExist)
	}
	if err != nil {
		return Inner{}, fmt.Errorf("attach: look at %s in %s: %w", iface, arg, privilege(err))
	}
	a := link.Attrs()
	inner := Inner{HostInterface: hostEnd(link), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, Gateway: gateway}
	copy(inner.MAC[:], a.HardwareAddr)
	for _, addr := range addrs {
		if addr.Scope == unix.RT_SCOPE_UNIVERSE {
			inner.Addresses = append(inner.Addresses, prefixOf(addr))
		}
	}
	return inner, nil
}

// hostEnd is the name of the host end whose other end is inner; empty when there is
// none. The index that inner has of it may be another link's in this namespace.
func hostEnd(inner netlink.Link) string {
	if inner.Type() != "veth" {
		return ""
	}
	link, err := netlink.LinkByIndex(inner.Attrs().ParentIndex)
	if err != nil {
		return ""
	}
	a := link.Attrs()
	if link.Type() != "veth" || a.ParentIndex != inner.Attrs().Index || a.Alias != tun.Alias || checkHostName(a.Name) != nil {
		return ""
	}
	return a.Name
}

// prefixOf is an address as netlink has it.
func prefixOf(a netlink.Addr) netip.Prefix {
	addr, _ := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits)
}
