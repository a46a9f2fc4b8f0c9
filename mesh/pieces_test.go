package mesh

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ripstop/mesh/ipam"
	"ripstop/transport"
)

// TestPieces: messages of every length come whole out of their pieces in any order,
// with repetitions, two under way at once; and not while one is lacking.
func TestPieces(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, pieceRoom - 1, pieceRoom, pieceRoom + 1, 3 * pieceRoom, ipam.MaxMessage} {
		a, b := bytes.Repeat([]byte{1}, size), bytes.Repeat([]byte{2}, size)
		a[size-1], b[size-1] = 3, 4
		pieces := append(cutMessage(7, a), cutMessage(8, b)...)
		each := len(pieces) / 2
		for _, p := range pieces {
			if len(p) > transport.MaxRequest || each > maxPieces {
				t.Fatalf("%d bytes: %d pieces, one of %d bytes", size, each, len(p))
			}
		}
		order := random.Perm(len(pieces))
		var j joiner
		var whole [][]byte
		for i, at := range order {
			message, err := j.add(pieces[at])
			if err != nil {
				t.Fatal(err)
			}
			if message != nil {
				whole = append(whole, message)
			} else if again, err := j.add(pieces[at]); again != nil || err != nil {
				t.Fatalf("piece %d twice: %v %v", i, again, err)
			}
		}
		if len(whole) != 2 || !bytes.Equal(whole[0], a) && !bytes.Equal(whole[0], b) || bytes.Equal(whole[0], whole[1]) {
			t.Errorf("%d bytes: %d messages came out", size, len(whole))
		}
		for lost := range each {
			var j joiner
			for i, p := range pieces[:each] {
				if i == lost {
					continue
				}
				if message, err := j.add(p); message != nil || err != nil {
					t.Errorf("%d bytes: whole without piece %d: %v", size, lost, err)
				}
			}
		}
	}
}

// TestPiecesAreBounded: a peer that begins messages and ends none takes no more room
// than the last few need, and a later one still comes through.
func TestPiecesAreBounded(t *testing.T) {
	var j joiner
	long := make([]byte, ipam.MaxMessage)
	for n := range uint32(1000) {
		if message, err := j.add(cutMessage(n, long)[0]); message != nil || err != nil {
			t.Fatal(message, err)
		}
	}
	var message []byte
	for _, p := range cutMessage(5000, long) {
		message, _ = j.add(p)
	}
	if !bytes.Equal(message, long) {
		t.Errorf("%d bytes came out", len(message))
	}
}

func FuzzPieces(f *testing.F) {
	for _, p := range cutMessage(1, make([]byte, 2*pieceRoom+1)) {
		for i := range min(len(p), 2*pieceHead) {
			f.Add(p[:i])
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var j joiner
		message, err := j.add(b)
		if len(message) > ipam.MaxMessage+pieceRoom {
			t.Errorf("%d bytes", len(message))
		}
		if err == nil && len(b) <= pieceHead {
			t.Error("accepted")
		}
	})
}
