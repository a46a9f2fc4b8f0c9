package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// InterfaceAddrs lists the addresses of the interfaces that are up, loopback left out, in
// the network namespace of the calling thread. It asks the kernel twice, however many
// interfaces there are: net.Interface.Addrs has all addresses listed for each of them.
func InterfaceAddrs() ([]InterfaceAddr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("tun: list interfaces: %w", err)
	}
	names := make(map[int]string, len(interfaces))
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			names[i.Index] = i.Name
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	for again := 0; errors.Is(err, netlink.ErrDumpInterrupted) && again < 10; again++ {
		addresses, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil {
		return nil, fmt.Errorf("tun: list addresses: %w", err)
	}
	var all []InterfaceAddr
	for _, a := range addresses {
		ip, ok := netip.AddrFromSlice(a.IP)
		if name := names[a.LinkIndex]; ok && name != "" {
			all = append(all, InterfaceAddr{Interface: name, Addr: ip.Unmap()})
		}
	}
	return all, nil
}
