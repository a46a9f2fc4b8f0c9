package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun"
)

// Netlink as this package needs it, in the namespace of the calling thread.

// errNoLink: there is no link of that name.
var errNoLink = errors.New("no such interface")

// dumpTries is how often a listing is asked for while links change under it.
const dumpTries = 10

// dump asks again when the kernel says that its answer may be inconsistent.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumpTries {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}

// find returns the link of that name, or an error for which errors.Is(err,
// errNoLink) holds.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("%s: %w", name, errNoLink)
	}
	return link, err
}

// ours returns the host end of that name, and refuses a link that is not ripstop's.
func ours(name string) (netlink.Link, error) {
	if err := checkHostName(name); err != nil {
		return nil, err
	}
	link, err := find(name)
	if err != nil {
		return nil, err
	}
	if link.Type() != "veth" || link.Attrs().Alias != tun.Alias {
		return nil, fmt.Errorf("%s exists and is not ripstop's (a %s with alias %q)", name, link.Type(), link.Attrs().Alias)
	}
	return link, nil
}

// privilege adds the remedy to a refusal.
func privilege(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (CAP_NET_ADMIN is needed: run as root)", err)
	}
	return err
}

func sysctlPath(link, key string) string {
	return filepath.Join("/proc/sys/net/ipv6/conf", link, key)
}

// setSysctl sets one of a link's IPv6 settings in the calling thread's namespace.
func setSysctl(link, key, value string) error {
	path := sysctlPath(link, key)
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil // /proc/sys may be read-only
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", key, value, err)
	}
	return nil
}

// hasIPv6 reports whether the kernel speaks IPv6 on a link at all.
func hasIPv6(link string) bool {
	_, err := os.Stat(sysctlPath(link, "accept_ra"))
	return !errors.Is(err, fs.ErrNotExist)
}

// deafen keeps IPv6 away from a link that is only a bridge port: the host neither
// listens nor speaks on it.
func deafen(link string) error {
	if !hasIPv6(link) {
		return nil
	}
	if err := setSysctl(link, "accept_ra", "0"); err != nil {
		return err
	}
	return setSysctl(link, "disable_ipv6", "1")
}

// ipNet is a prefix as netlink takes it, host bits kept.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// putAddress adds an address, or does nothing when it is there. IPv6 skips
// duplicate detection: the endpoint map settles who has an address, and a
// container's first packet need not wait a second.
func putAddress(link netlink.Link, p netip.Prefix, flags int) error {
	addr := &netlink.Addr{IPNet: ipNet(p), Flags: flags}
	if p.Addr().Is6() {
		addr.Flags |= unix.IFA_F_NODAD
	}
	if p.Addr().IsLinkLocalUnicast() {
		addr.Scope = unix.RT_SCOPE_LINK
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("put address %s on %s: %w", p, link.Attrs().Name, privilege(err))
	}
	return nil
}

// linkLocal is the link-local address made of a MAC, RFC 4291 appendix A.
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}
