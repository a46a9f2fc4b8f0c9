package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddServiceAddress puts one IPv4 address on a device, without a network and without
// a route: what listens there bound to the device answers the containers behind it
// though the host itself is not exposed, and nothing else of the host can.
//
// Strict reverse path filtering (rp_filter 1) would drop what containers send to it,
// there being no route back: on this device it becomes loose (2), which is the
// greater of it and what stands for all devices, and so holds.
func AddServiceAddress(device string, addr netip.Addr) error {
	link, err := find(device)
	if err != nil {
		return fmt.Errorf("attach: service address: %w", err)
	}
	if !addr.Is4() {
		return fmt.Errorf("attach: service address %s: not IPv4", addr)
	}
	if reversePath("all") == "1" || reversePath(device) == "1" {
		path := reversePathFile(device)
		if err := os.WriteFile(path, []byte("2"), 0); err != nil {
			return fmt.Errorf("attach: service address %s: strict reverse path filtering drops what is sent there, and %s cannot be set to 2: %w", addr, path, err)
		}
	}
	// Global scope, because systemd-resolved asks through no link that has less.
	a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, 32))}
	if err := netlink.AddrReplace(link, a); err != nil {
		return fmt.Errorf("attach: service address %s on %s: %w", addr, device, privilege(err))
	}
	return nil
}

// RemoveServiceAddress takes it away; it is no error when it, or the device, is gone.
func RemoveServiceAddress(device string, addr netip.Addr) error {
	link, err := find(device)
	if errors.Is(err, errNoLink) {
		return nil
	}
	if err == nil {
		err = netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, 32))})
	}
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("attach: service address %s on %s: %w", addr, device, privilege(err))
	}
	return nil
}

func reversePathFile(device string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", device, "rp_filter")
}

// reversePath is a device's setting; empty where it cannot be read.
func reversePath(device string) string {
	b, _ := os.ReadFile(reversePathFile(device))
	return strings.TrimSpace(string(b))
}
