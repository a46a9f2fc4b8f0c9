package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the first byte of every datagram. Numbers are never used again for
// something else.
type Type uint8

const (
	// TypeRunt is padding that a sender puts behind a train of equal datagrams; any
	// length from one byte on, thrown away by the receiver.
	TypeRunt Type = 0
	// TypeRelay has a relay header in front of the datagram proper.
	TypeRelay Type = 1
	// TypeData carries records sealed under the session's data key.
	TypeData Type = 2
	// TypeControl carries one control body sealed under the session's control key.
	TypeControl Type = 3
	// TypeClear carries records of a network whose cipher is none: no tag.
	TypeClear Type = 4
	// TypeHandshake carries message 1 or 2 of the session handshake, and only behind
	// a relay header; Index and Counter are zero.
	TypeHandshake Type = 5
)

// String is the type's name.
func (t Type) String() string {
	switch t {
	case TypeRunt:
		return "runt"
	case TypeRelay:
		return "relay"
	case TypeData:
		return "data"
	case TypeControl:
		return "control"
	case TypeClear:
		return "clear"
	case TypeHandshake:
		return "handshake"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Lengths of the formats' fixed parts, in bytes.
const (
	HeaderLen = 16
	RelayLen  = 48
	RecordLen = 12
	TagLen    = 16
)

// What is wrong with a datagram that cannot be parsed. The values are fixed, so that
// refusing a datagram costs no allocation.
var (
	// ErrDatagramShort: the bytes end before the format does.
	ErrDatagramShort = errors.New("transport: parse datagram: cut short")
	// ErrDatagramField: a field has a value that no sender of this version writes.
	ErrDatagramField = errors.New("transport: parse datagram: field out of range")
)

// Offsets in the header.
const (
	headerType    = 0
	headerFlags   = 1
	headerZero    = 2
	headerIndex   = 4
	headerCounter = 8
)

// Header is the clear start of every datagram but a runt. It is the associated data of
// the seal behind it.
type Header struct {
	Type    Type
	Flags   uint8  // none is defined: sent as 0, unknown ones are the caller's to count and drop
	Index   uint32 // the receive index, chosen by the receiver of this datagram
	Counter uint64 // the seal's nonce counter
}

// Put writes the header to the first HeaderLen bytes of b, which must be there.
func (h Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	b[headerType] = byte(h.Type)
	b[headerFlags] = h.Flags
	binary.BigEndian.PutUint16(b[headerZero:], 0)
	binary.BigEndian.PutUint32(b[headerIndex:], h.Index)
	binary.BigEndian.PutUint64(b[headerCounter:], h.Counter)
}

// ParseHeader reads the header at the start of b. Unknown types are returned, for the
// caller to count; of a runt and of a relayed datagram only Type is set: the latter is
// for ParseRelayHeader.
func ParseHeader(b []byte) (Header, error) {
	if len(b) == 0 {
		return Header{}, ErrDatagramShort
	}
	switch t := Type(b[headerType]); t {
	case TypeRunt, TypeRelay:
		return Header{Type: t}, nil
	}
	if len(b) < HeaderLen {
		return Header{}, ErrDatagramShort
	}
	if binary.BigEndian.Uint16(b[headerZero:]) != 0 {
		return Header{}, ErrDatagramField
	}
	return Header{
		Type:    Type(b[headerType]),
		Flags:   b[headerFlags],
		Index:   binary.BigEndian.Uint32(b[headerIndex:]),
		Counter: binary.BigEndian.Uint64(b[headerCounter:]),
	}, nil
}
