package route

import "encoding/binary"

// EtherTypes that the views look into (IANA "IEEE 802 numbers").
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeIPv6 = 0x86dd
	typeQinQ = 0x88a8
)

const (
	ethernetLen = 14
	vlanLen     = 4
	maxTags     = 2
)

// Ethernet is what the header of a frame says:
//
//	0            6            12          12+4·Tags  Payload
//	+------------+------------+-----------+----------+------
//	| destination| source     | 0-2 tags  | type     | ...
//	+------------+------------+-----------+----------+------
type Ethernet struct {
	Destination, Source MAC
	// Type is the EtherType behind at most two VLAN tags (0x8100 or 0x88a8), or
	// the length of an 802.3 frame, or the third tag's type.
	Type uint16
	// Payload is where the bytes behind Type start.
	Payload int
	// Tags is the number of VLAN tags, VLAN the ID of the outermost that has one:
	// 0 is the untagged network, which a priority tag does not leave.
	Tags int
	VLAN uint16
}

// ParseEthernet reads the header of frame. It reports false when the frame ends
// before the payload. It does not allocate.
func ParseEthernet(frame []byte) (Ethernet, bool) {
	if len(frame) < ethernetLen {
		return Ethernet{}, false
	}
	e := Ethernet{
		Destination: MAC(frame[0:6]),
		Source:      MAC(frame[6:12]),
		Type:        binary.BigEndian.Uint16(frame[12:14]),
		Payload:     ethernetLen,
	}
	for e.Tags < maxTags && (e.Type == typeVLAN || e.Type == typeQinQ) {
		if len(frame) < e.Payload+vlanLen {
			return Ethernet{}, false
		}
		if e.VLAN == 0 {
			e.VLAN = binary.BigEndian.Uint16(frame[e.Payload:]) & 0x0fff
		}
		e.Type = binary.BigEndian.Uint16(frame[e.Payload+2:])
		e.Payload += vlanLen
		e.Tags++
	}
	return e, true
}

// putEthernet writes an untagged header of 14 bytes.
func putEthernet(b []byte, destination, source MAC, etherType uint16) {
	copy(b[0:6], destination[:])
	copy(b[6:12], source[:])
	binary.BigEndian.PutUint16(b[12:14], etherType)
}
