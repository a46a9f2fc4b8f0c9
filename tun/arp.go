package tun

import (
	"encoding/binary"
	"net/netip"
)

// Ethernet: destination 6, source 6, type 2.
const (
	etherSource  = 6
	etherType    = 12
	etherHeader  = 14
	etherMinimum = etherHeader

	etherIPv4        = 0x0800
	etherARP         = 0x0806
	etherIPv6        = 0x86dd
	etherVLAN        = 0x8100
	etherServiceVLAN = 0x88a8
)

// broadcast is the MAC address of everybody.
var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// putEthernet writes an Ethernet header at the start of b.
func putEthernet(b []byte, to, from [6]byte, kind uint16) {
	copy(b, to[:])
	copy(b[etherSource:], from[:])
	binary.BigEndian.PutUint16(b[etherType:], kind)
}

// groupMAC is the MAC address of an IP multicast group: 01:00:5e and 23 bits for
// IPv4 (RFC 1112 6.4), 33:33 and 32 bits for IPv6 (RFC 2464 7).
func groupMAC(group netip.Addr) [6]byte {
	if group.Is4() {
		a := group.As4()
		return [6]byte{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
	}
	a := group.As16()
	return [6]byte{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// stationMAC tells whether a MAC address can be one station's.
func stationMAC(mac [6]byte) bool { return mac[0]&1 == 0 && mac != [6]byte{} }

// An ARP message for IPv4 over Ethernet (RFC 826):
//
//	0        2        4   5   6       8           14        18          24        28
//	+--------+--------+---+---+-------+-----------+---------+-----------+---------+
//	| 1      | 0x0800 | 6 | 4 |  op   | sender MAC|sender IP| target MAC|target IP|
//	+--------+--------+---+---+-------+-----------+---------+-----------+---------+
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

type arpMessage struct {
	op        uint16
	senderMAC [6]byte
	sender    netip.Addr // IPv4; 0.0.0.0 in a probe (RFC 5227)
	targetMAC [6]byte
	target    netip.Addr
}

// parseARP reads a message; what follows it is padding. It is false for anything
// but a request or reply about IPv4 over Ethernet.
func parseARP(b []byte) (m arpMessage, ok bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != etherIPv4 || b[4] != 6 || b[5] != 4 {
		return m, false
	}
	m.op = binary.BigEndian.Uint16(b[6:])
	if m.op != arpRequest && m.op != arpReply {
		return m, false
	}
	copy(m.senderMAC[:], b[8:14])
	m.sender = netip.AddrFrom4([4]byte(b[14:18]))
	copy(m.targetMAC[:], b[18:24])
	m.target = netip.AddrFrom4([4]byte(b[24:28]))
	return m, true
}

// frame is the message as an Ethernet frame.
func (m arpMessage) frame(to [6]byte) []byte {
	b := make([]byte, etherHeader+arpLen)
	putEthernet(b, to, m.senderMAC, etherARP)
	a := b[etherHeader:]
	binary.BigEndian.PutUint16(a, 1)
	binary.BigEndian.PutUint16(a[2:], etherIPv4)
	a[4], a[5] = 6, 4
	binary.BigEndian.PutUint16(a[6:], m.op)
	copy(a[8:], m.senderMAC[:])
	sender, target := m.sender.As4(), m.target.As4()
	copy(a[14:], sender[:])
	copy(a[18:], m.targetMAC[:])
	copy(a[24:], target[:])
	return b
}
