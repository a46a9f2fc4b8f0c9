package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"
)

// What of a sweep is on its way at a time: what a socket's standard receive buffer holds
// in the form of answers, each of which takes up to twice its length.
const (
	sweepCount = 32
	sweepBytes = 48 << 10
	sweepWait  = 300 * time.Millisecond // for any answer
)

// Sweep sends one echo request of each size, in payload bytes, from the place, many of
// them on their way at a time, and returns the sizes whose answer did not come or was not
// what was sent.
func (p *Place) Sweep(ctx context.Context, to netip.Addr, sizes []int) (bad []int, err error) {
	fail := func(err error) ([]int, error) {
		return nil, fmt.Errorf("lab: %s: sweep to %s: %w", p.name, to, err)
	}
	if len(sizes) == 0 {
		return nil, nil
	}
	s, zone, err := p.pingSocket(to, slices.Max(sizes))
	if err != nil {
		return fail(err)
	}
	defer s.close()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	var (
		id      = uint16(rand.Uint32())
		text    = sweepText(slices.Max(sizes))
		waiting = make(map[uint16]int) // size, by number
		bytesUp = 0
		buf     = make([]byte, 1<<16)
	)
	for next := 0; next < len(sizes) || len(waiting) > 0; {
		for next < len(sizes) && (len(waiting) == 0 || len(waiting) < sweepCount && bytesUp+sizes[next] <= sweepBytes) {
			size := sizes[next]
			next++
			if err := s.sendEcho(to, zone, id, uint16(next), text[:size]); err != nil {
				return fail(err)
			}
			waiting[uint16(next)] = size
			bytesUp += size
		}
		s.setReadDeadline(time.Now().Add(sweepWait))
		seq, payload, _, err := s.receiveEcho(to, id, buf)
		switch size, asked := waiting[seq]; {
		case ctx.Err() != nil:
			return fail(ctx.Err())
		case errors.Is(err, os.ErrDeadlineExceeded):
			for _, size := range waiting {
				bad = append(bad, size)
			}
			clear(waiting)
			bytesUp = 0
		case err != nil:
			return fail(err)
		case asked:
			delete(waiting, seq)
			bytesUp -= size
			if !bytes.Equal(payload, text[:size]) {
				bad = append(bad, size)
			}
		}
	}
	slices.Sort(bad)
	return bad, nil
}

// sweepText is n bytes in which every place looks different from its surroundings.
func sweepText(n int) []byte {
	text := make([]byte, n)
	for i := range text {
		text[i] = byte(i*7) ^ byte(i>>8)
	}
	return text
}
