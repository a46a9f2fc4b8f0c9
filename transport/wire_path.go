package transport

import "encoding/binary"

// Control kinds by which two hosts learn what a path carries. A host that does not
// know them ignores them: then the path keeps what every path can do.
const (
	// ControlTrain is one datagram of a numbered train.
	ControlTrain ControlKind = 4
	// ControlTrainReport says what came of a numbered train.
	ControlTrainReport ControlKind = 5
)

// Lengths of the formats, in bytes, and how many datagrams a numbered train has at most.
//
//	 0        1        2        3        4                 12                20
//	+--------+--------+--------+--------+-----------------+-----------------+
//	| 4      | place  | count  | 0      | ID              | padding ...       a datagram of a train
//	+--------+--------+--------+--------+-----------------+-----------------+
//	| 5      | late   | count  | 0      | ID              | arrived         | its report
//	+--------+--------+--------+--------+-----------------+-----------------+
const (
	TrainPieceLen  = 12
	TrainReportLen = 20
	MaxTrainCount  = 64
)

// Offsets in both.
const (
	trainPlace   = 1
	trainLate    = 1
	trainCount   = 2
	trainZero    = 3
	trainID      = 4
	trainArrived = 12
)

// TrainPiece is one datagram of a numbered train. All of a train leave by one call to
// the kernel, so that the other end can tell what the path makes of such calls.
type TrainPiece struct {
	ID    uint64 // of the train, chosen by its sender
	Place uint8  // from 0
	Count uint8  // datagrams in the train, 1 to MaxTrainCount
}

// Append writes the piece, TrainPieceLen bytes, behind b.
func (t TrainPiece) Append(b []byte) []byte {
	b = append(b, byte(ControlTrain), t.Place, t.Count, 0)
	return binary.BigEndian.AppendUint64(b, t.ID)
}

// ParseTrainPiece reads a piece. Bytes behind it are padding, by which a piece becomes
// as long as the datagrams it speaks for.
func ParseTrainPiece(b []byte) (TrainPiece, error) {
	if len(b) < TrainPieceLen {
		return TrainPiece{}, ErrDatagramShort
	}
	t := TrainPiece{ID: binary.BigEndian.Uint64(b[trainID:]), Place: b[trainPlace], Count: b[trainCount]}
	if ControlKind(b[controlKind]) != ControlTrain || b[trainZero] != 0 || t.Count == 0 || t.Count > MaxTrainCount || t.Place >= t.Count {
		return TrainPiece{}, ErrDatagramField
	}
	return t, nil
}

// TrainReport says which datagrams of a train came. Those that did not were lost or
// came damaged: what is damaged does not open, and nobody can tell whose it was.
type TrainReport struct {
	ID      uint64
	Count   uint8  // datagrams in the train, 1 to MaxTrainCount
	Late    uint8  // of those that came: how many came after one that was sent later
	Arrived uint64 // bit n: place n came
}

// Whole reports whether every datagram of the train came, and three in four of them in
// their order.
func (r TrainReport) Whole() bool {
	return r.Arrived == ^uint64(0)>>(64-uint(r.Count)) && 4*int(r.Late) <= int(r.Count)
}

// Append writes the report, TrainReportLen bytes, behind b.
func (r TrainReport) Append(b []byte) []byte {
	b = append(b, byte(ControlTrainReport), r.Late, r.Count, 0)
	b = binary.BigEndian.AppendUint64(b, r.ID)
	return binary.BigEndian.AppendUint64(b, r.Arrived)
}

// ParseTrainReport reads a report; bytes behind it are ignored.
func ParseTrainReport(b []byte) (TrainReport, error) {
	if len(b) < TrainReportLen {
		return TrainReport{}, ErrDatagramShort
	}
	r := TrainReport{
		ID: binary.BigEndian.Uint64(b[trainID:]), Late: b[trainLate], Count: b[trainCount],
		Arrived: binary.BigEndian.Uint64(b[trainArrived:]),
	}
	if ControlKind(b[controlKind]) != ControlTrainReport || b[trainZero] != 0 || r.Count == 0 || r.Count > MaxTrainCount ||
		r.Late >= r.Count || r.Arrived&^(^uint64(0)>>(64-uint(r.Count))) != 0 {
		return TrainReport{}, ErrDatagramField
	}
	return r, nil
}

// WithoutPadding is the part of a control body that says something: probes and train
// pieces are padded to the size that is measured.
func WithoutPadding(body []byte) []byte {
	if len(body) == 0 {
		return body
	}
	switch ControlKind(body[controlKind]) {
	case ControlProbe:
		return body[:min(ProbeLen, len(body))]
	case ControlTrain:
		return body[:min(TrainPieceLen, len(body))]
	}
	return body
}
