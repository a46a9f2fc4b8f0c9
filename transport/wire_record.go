package transport

import "encoding/binary"

// Offsets in the record header.
const (
	recordLength         = 0
	recordFlags          = 2
	recordPosition       = 3
	recordVNI            = 4
	recordChecksumStart  = 6
	recordChecksumOffset = 8
	recordAux            = 10
)

// RecordFlags say how a record's bytes are to be made a frame again. A receiver counts
// and drops a record with a flag that it does not know.
type RecordFlags uint8

const (
	// RecordPartial: the layer 4 checksum is unfinished; ChecksumStart and
	// ChecksumOffset say where it belongs. The seal protects the bytes instead.
	RecordPartial RecordFlags = 1 << 0
	// RecordTrain: one of the frames cut from a super-frame; Position counts them.
	RecordTrain RecordFlags = 1 << 1
	// RecordLast: the last of its train, or of its fragments.
	RecordLast RecordFlags = 1 << 2
	// RecordFragment: a piece of a frame; Aux is the piece's offset.
	RecordFragment RecordFlags = 1 << 3
	// RecordTunnel, only with RecordPartial and never with RecordFragment: the frame is a
	// UDP datagram that carries an IP packet, which stands Aux bytes from the start of the
	// frame. What is unfinished is the checksum inside that packet, and the outer one
	// unless its field is 0.
	RecordTunnel RecordFlags = 1 << 4
)

// Record is the header of one frame inside a datagram's sealed body.
type Record struct {
	Length         uint16 // bytes of frame behind the header, at least 1
	Flags          RecordFlags
	Position       uint8  // place in the train, from 0
	VNI            uint16 // the virtual network
	ChecksumStart  uint16 // from the start of the frame, with RecordPartial
	ChecksumOffset uint16 // from ChecksumStart, with RecordPartial
	Aux            uint16 // with RecordFragment or RecordTunnel
}

// Put writes the record header to the first RecordLen bytes of b, which must be there.
func (r Record) Put(b []byte) {
	_ = b[RecordLen-1]
	binary.BigEndian.PutUint16(b[recordLength:], r.Length)
	b[recordFlags] = byte(r.Flags)
	b[recordPosition] = r.Position
	binary.BigEndian.PutUint16(b[recordVNI:], r.VNI)
	binary.BigEndian.PutUint16(b[recordChecksumStart:], r.ChecksumStart)
	binary.BigEndian.PutUint16(b[recordChecksumOffset:], r.ChecksumOffset)
	binary.BigEndian.PutUint16(b[recordAux:], r.Aux)
}

// ParseRecord reads the record at the start of an opened body: its header, its frame
// (Length bytes of b, not a copy) and what stands behind, which is empty after the last
// record. Every call takes at least RecordLen+1 bytes, so a loop over a body ends.
func ParseRecord(b []byte) (r Record, frame, rest []byte, err error) {
	if len(b) < RecordLen {
		return Record{}, nil, nil, ErrDatagramShort
	}
	r = Record{
		Length:         binary.BigEndian.Uint16(b[recordLength:]),
		Flags:          RecordFlags(b[recordFlags]),
		Position:       b[recordPosition],
		VNI:            binary.BigEndian.Uint16(b[recordVNI:]),
		ChecksumStart:  binary.BigEndian.Uint16(b[recordChecksumStart:]),
		ChecksumOffset: binary.BigEndian.Uint16(b[recordChecksumOffset:]),
		Aux:            binary.BigEndian.Uint16(b[recordAux:]),
	}
	b = b[RecordLen:]
	if int(r.Length) > len(b) {
		return Record{}, nil, nil, ErrDatagramShort
	}
	if r.Length == 0 {
		return Record{}, nil, nil, ErrDatagramField
	}
	return r, b[:r.Length:r.Length], b[r.Length:], nil
}
