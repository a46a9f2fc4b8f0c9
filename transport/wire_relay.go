package transport

import (
	"encoding/binary"

	"ripstop/crypto"
)

// Offsets in the relay header.
const (
	relayType        = 0
	relayHopLimit    = 1
	relayFlow        = 2
	relayIndex       = 4
	relayCounter     = 8
	relayDestination = 16
	relaySource      = 24
	relayMAC         = 32
)

// RelayADLen is the length of what a hop MAC is computed over: the relay header
// without its MAC, the inner header and the last TagLen bytes of the datagram.
const RelayADLen = relayMAC + HeaderLen + TagLen

// RelayMin is the length of the shortest datagram with a relay header.
const RelayMin = RelayLen + HeaderLen + TagLen

// RelayHeader stands in front of a datagram that other hosts carry. Every hop checks
// the MAC, writes the header anew for the next neighbour and leaves the rest alone.
type RelayHeader struct {
	HopLimit    uint8  // hops that are left, at least 1 on the wire
	Flow        uint16 // set by the source; relays spread equal paths by it
	Index       uint32 // the neighbour's receive index of its session with the sending hop
	Counter     uint64 // of the hop channel
	Destination crypto.ShortName
	Source      crypto.ShortName // a hint: only the inner session says who sent
	MAC         [TagLen]byte
}

// Put writes the header to the first RelayLen bytes of b, which must be there.
func (h *RelayHeader) Put(b []byte) {
	_ = b[RelayLen-1]
	b[relayType] = byte(TypeRelay)
	b[relayHopLimit] = h.HopLimit
	binary.BigEndian.PutUint16(b[relayFlow:], h.Flow)
	binary.BigEndian.PutUint32(b[relayIndex:], h.Index)
	binary.BigEndian.PutUint64(b[relayCounter:], h.Counter)
	copy(b[relayDestination:], h.Destination[:])
	copy(b[relaySource:], h.Source[:])
	copy(b[relayMAC:], h.MAC[:])
}

// PutRelayHop writes what a hop writes anew, its MAC apart, into the first bytes of b.
func PutRelayHop(b []byte, limit uint8, index uint32, counter uint64) {
	_ = b[relayDestination-1]
	b[relayHopLimit] = limit
	binary.BigEndian.PutUint32(b[relayIndex:], index)
	binary.BigEndian.PutUint64(b[relayCounter:], counter)
}

// PutRelayMAC writes the hop MAC alone into the relayed datagram b, whose other fields
// are written and bound by it.
func PutRelayMAC(b []byte, mac [TagLen]byte) { copy(b[relayMAC:RelayLen], mac[:]) }

// ParseRelayHeader reads the relay header of the whole datagram b. The inner datagram
// is b[RelayLen:]; it is at least an inner header and TagLen bytes long and is itself
// neither relayed nor a runt.
func ParseRelayHeader(b []byte) (RelayHeader, error) {
	if len(b) < RelayMin {
		return RelayHeader{}, ErrDatagramShort
	}
	h := RelayHeader{
		HopLimit:    b[relayHopLimit],
		Flow:        binary.BigEndian.Uint16(b[relayFlow:]),
		Index:       binary.BigEndian.Uint32(b[relayIndex:]),
		Counter:     binary.BigEndian.Uint64(b[relayCounter:]),
		Destination: crypto.ShortName(b[relayDestination:relaySource]),
		Source:      crypto.ShortName(b[relaySource:relayMAC]),
		MAC:         [TagLen]byte(b[relayMAC:RelayLen]),
	}
	inner := Type(b[RelayLen])
	if Type(b[relayType]) != TypeRelay || h.HopLimit == 0 || inner == TypeRelay || inner == TypeRunt {
		return RelayHeader{}, ErrDatagramField
	}
	return h, nil
}

// RelayAD gathers what the hop MAC of the whole relayed datagram b is computed over
// into scratch, which needs room for RelayADLen bytes to keep this free of
// allocations. b must be at least RelayMin bytes long.
func RelayAD(b []byte, scratch []byte) []byte {
	ad := append(scratch[:0], b[:relayMAC]...)
	ad = append(ad, b[RelayLen:RelayLen+HeaderLen]...)
	return append(ad, b[len(b)-TagLen:]...)
}
