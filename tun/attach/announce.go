package attach

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Announce tells the neighbours where the plan's addresses are now: one gratuitous
// ARP (RFC 5227 section 3: a request for one's own address) for each IPv4 address
// and one unsolicited neighbour advertisement (RFC 4861 section 7.2.6) for each
// IPv6 address, sent from inside the namespace. It is to be called when the host
// end is on the bridge.
func Announce(plan Plan) error {
	plan, err := plan.filled()
	if err != nil {
		return err
	}
	ns, err := open(plan)
	if err != nil {
		return err
	}
	defer ns.Close()
	waitUp(plan.HostInterface)
	if err := ns.Do(func() error { return announce(plan) }); err != nil {
		return fmt.Errorf("attach: %s: announce: %w", plan.Netns, err)
	}
	return nil
}

// carrierWait bounds waitUp.
const carrierWait = 2 * time.Second

// waitUp waits until the kernel has noticed that a link has a carrier, which it does
// in its own time (linkwatch): until then an interface drops what it is to send and
// a bridge port what it receives. A link that is not there, or never gets a
// carrier, is only waited for.
func waitUp(name string) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(carrierWait); time.Now().Before(end); <-tick.C {
		link, err := find(name)
		if err != nil || link.Attrs().OperState == netlink.OperUp || link.Attrs().Flags&net.FlagUp == 0 {
			return
		}
	}
}

func announce(plan Plan) error {
	link, err := find(plan.Interface)
	if err != nil {
		return err
	}
	waitUp(plan.Interface)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(s)
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
	for _, a := range plan.Addresses {
		frame := gratuitousARP(plan.MAC, a.Addr())
		if a.Addr().Is6() {
			frame = unsolicitedNA(plan.MAC, a.Addr())
		}
		if err := unix.Sendto(s, frame, 0, to); err != nil {
			return fmt.Errorf("%s: %w", a.Addr(), err)
		}
	}
	return nil
}

// gratuitousARP is a broadcast request for ip by its owner: Ethernet 14, ARP 28.
func gratuitousARP(mac [6]byte, ip netip.Addr) []byte {
	b := make([]byte, 0, 42)
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	b = append(b, mac[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, lengths, request
	b = append(append(b, mac[:]...), ip.AsSlice()...)
	b = append(b, make([]byte, 6)...)
	return append(b, ip.AsSlice()...)
}

// unsolicitedNA is an advertisement of ip to all nodes, with the override flag and
// the MAC as target link-layer address: Ethernet 14, IPv6 40, ICMPv6 32.
func unsolicitedNA(mac [6]byte, ip netip.Addr) []byte {
	allNodes := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})
	m := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	m = append(append(m, ip.AsSlice()...), 2, 1)
	m = append(m, mac[:]...)
	pseudo := append(ip.AsSlice(), allNodes.AsSlice()...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(m))), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(m[2:], checksum(append(pseudo, m...)))

	b := make([]byte, 0, 86)
	b = append(b, 0x33, 0x33, 0, 0, 0, 1)
	b = append(b, mac[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, byte(len(m)), unix.IPPROTO_ICMPV6, 255)
	b = append(append(b, ip.AsSlice()...), allNodes.AsSlice()...)
	return append(b, m...)
}

// checksum is the Internet checksum (RFC 1071) over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
