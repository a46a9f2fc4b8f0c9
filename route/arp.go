package route

import "encoding/binary"

const (
	arpLen     = 28 // Ethernet and IPv4 (RFC 826)
	arpRequest = 1
	arpReply   = 2
)

// ARP is a packet for IPv4 over Ethernet (RFC 826).
//
//	0      2      4  5  6       8           14          18          24          28
//	+------+------+--+--+-------+-----------+-----------+-----------+-----------+
//	| 1    | 0800 |6 |4 | op    | sender MAC| sender IP | target MAC| target IP |
//	+------+------+--+--+-------+-----------+-----------+-----------+-----------+
type ARP struct {
	Operation                    uint16
	SenderMAC, TargetMAC         MAC
	SenderAddress, TargetAddress [4]byte
}

// ParseARP reads the payload of a frame of type 0x0806. It reports false for other
// hardware or protocol kinds and when the packet is cut. Bytes behind are padding
// and ignored. It does not allocate.
func ParseARP(b []byte) (ARP, bool) {
	if len(b) < arpLen ||
		binary.BigEndian.Uint16(b[0:2]) != 1 || binary.BigEndian.Uint16(b[2:4]) != typeIPv4 ||
		b[4] != 6 || b[5] != 4 {
		return ARP{}, false
	}
	return ARP{
		Operation:     binary.BigEndian.Uint16(b[6:8]),
		SenderMAC:     MAC(b[8:14]),
		SenderAddress: [4]byte(b[14:18]),
		TargetMAC:     MAC(b[18:24]),
		TargetAddress: [4]byte(b[24:28]),
	}, true
}

// Probe reports whether the sender asks before using the address (RFC 5227).
func (a ARP) Probe() bool { return a.SenderAddress == [4]byte{} }

// Gratuitous reports whether the packet announces its sender's own address.
func (a ARP) Gratuitous() bool { return a.SenderAddress == a.TargetAddress }

// put writes the 28 bytes of the packet.
func (a ARP) put(b []byte) {
	binary.BigEndian.PutUint16(b[0:2], 1)
	binary.BigEndian.PutUint16(b[2:4], typeIPv4)
	b[4], b[5] = 6, 4
	binary.BigEndian.PutUint16(b[6:8], a.Operation)
	copy(b[8:14], a.SenderMAC[:])
	copy(b[14:18], a.SenderAddress[:])
	copy(b[18:24], a.TargetMAC[:])
	copy(b[24:28], a.TargetAddress[:])
}

// putARPReply writes the frame that tells the asker that address is at mac, and
// returns its length. b must have ReplySize bytes.
func putARPReply(b []byte, asker MAC, ask ARP, mac MAC) int {
	putEthernet(b, asker, mac, typeARP)
	ARP{
		Operation:     arpReply,
		SenderMAC:     mac,
		SenderAddress: ask.TargetAddress,
		TargetMAC:     ask.SenderMAC,
		TargetAddress: ask.SenderAddress,
	}.put(b[ethernetLen:])
	return ethernetLen + arpLen
}
