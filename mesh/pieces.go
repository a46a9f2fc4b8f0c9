package mesh

import (
	"encoding/binary"
	"errors"
	"slices"

	"ripstop/mesh/ipam"
	"ripstop/transport"
)

// A message that may be longer than a datagram goes in pieces, each the body of a
// request to which there is no reply:
//
//	number of the message 4 | piece 1 | pieces 1 | bytes
//
// All pieces but the last are full. Pieces may be lost, repeated and overtaken; a
// message of which one is lost is as if it had been lost whole.
const (
	pieceHead = 6
	pieceRoom = transport.MaxRequest - pieceHead
	maxPieces = (ipam.MaxMessage + pieceRoom - 1) / pieceRoom
)

// cutMessage cuts a message of 1 to ipam.MaxMessage bytes into pieces.
func cutMessage(number uint32, message []byte) (pieces [][]byte) {
	total := (len(message) + pieceRoom - 1) / pieceRoom
	for part := range slices.Chunk(message, pieceRoom) {
		b := binary.BigEndian.AppendUint32(nil, number)
		b = append(b, byte(len(pieces)), byte(total))
		pieces = append(pieces, append(b, part...))
	}
	return pieces
}

// joiner joins the pieces of one peer's messages. The last few that are not whole yet
// are kept; an older one is given up.
type joiner struct {
	open [4]struct {
		number uint32
		parts  [][]byte // nil: free
	}
	next int // the place that is given up next
}

var errPiece = errors.New("mesh: a piece of a message without its form")

// add takes a piece, which it copies, and returns the message that it makes whole, or nil.
func (j *joiner) add(b []byte) ([]byte, error) {
	if len(b) <= pieceHead {
		return nil, errPiece
	}
	number, part, total := binary.BigEndian.Uint32(b), int(b[4]), int(b[5])
	b = b[pieceHead:]
	if total > maxPieces || part >= total || len(b) > pieceRoom || part < total-1 && len(b) != pieceRoom {
		return nil, errPiece
	}
	if total == 1 {
		return slices.Clone(b), nil
	}
	at := -1
	for i, o := range j.open {
		if o.number == number && len(o.parts) == total {
			at = i
		}
	}
	if at < 0 {
		at = j.next
		j.next = (j.next + 1) % len(j.open)
		j.open[at].number, j.open[at].parts = number, make([][]byte, total)
	}
	parts := j.open[at].parts
	parts[part] = slices.Clone(b)
	if slices.ContainsFunc(parts, func(p []byte) bool { return p == nil }) {
		return nil, nil
	}
	j.open[at].parts = nil
	return slices.Concat(parts...), nil
}
