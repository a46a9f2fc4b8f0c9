package plane

import "ripstop/transport"

// A frame that is longer than its path carries, and can't be cut, travels in
// pieces, one record each. A piece fills what is left of its datagram, and the frame
// behind it goes on in the same one, so that datagrams are full and equal, one train:
//
//	│header│ frame 1 ······ │tag│header│ ·· frame 1 │ frame 2 ·· │tag│header│ ····· frame 2 │ …
//
//	record:  Length     bytes of this piece
//	         Flags      RecordFragment, RecordLast on the last, RecordPartial as of the frame
//	         Aux        offset of the piece
//	         ChecksumStart    length of the whole frame, less 1
//	         ChecksumOffset   the frame's number, from the sending queue's counter
//
// What is incomplete when its place is needed, or after fragmentLife, is dropped and
// counted.
const (
	fragmentSlots = 16               // frames being put together, in one loop
	fragmentsEach = 4                // of them of one peer
	maxFragments  = 64               // pieces of one frame
	maxSpans      = 32               // parts of one frame with gaps between them
	maxAssembled  = 1 << 16          // bytes of one frame
	keptFrames    = 2 * maxAssembled // bytes of whole frames that wait to be written
	fragmentLife  = 1e9              // nanoseconds
)

// fragment sends a frame in pieces.
func (out *outbound) fragment(to, hop *Outlet, flow uint16, frame []byte, flags transport.RecordFlags) {
	size := limit(to, hop) - overhead
	if len(frame) > maxAssembled || len(frame) > size*maxFragments {
		out.p.counters.add(dropTooBig, 1)
		return
	}
	out.numbers++
	number := out.numbers*uint16(len(out.p.queues)) + uint16(out.queue)
	for off := 0; off < len(frame); {
		rest := len(frame) - off
		room := 0
		if out.open.serves(to, hop, flow) {
			room = out.open.start + out.open.limit - out.at - transport.RecordLen - transport.TagLen
		}
		if room <= 0 || parts(rest-room, size) == parts(rest, size) {
			// To begin here would take one datagram more, and be lost with it.
			out.close()
			out.begin(to, hop, flow, min(rest, size))
			room = size
		}
		piece := frame[off:min(off+room, len(frame))]
		r := transport.Record{
			Length: uint16(len(piece)), Flags: flags | transport.RecordFragment, VNI: uint16(out.p.cfg.VNI),
			Aux: uint16(off), ChecksumStart: uint16(len(frame) - 1), ChecksumOffset: number,
		}
		off += len(piece)
		if off == len(frame) {
			r.Flags |= transport.RecordLast
		}
		r.Put(out.arena[out.at:])
		out.at += transport.RecordLen
		out.at += copy(out.arena[out.at:], piece)
	}
	out.p.counters.add(fragmented, 1)
}

// parts is how many pieces of size bytes at most n bytes make.
func parts(n, size int) int { return (max(n, 0) + size - 1) / size }

// assembly is one frame being put together.
type assembly struct {
	peer   *Peer // nil: the slot is free
	number uint16
	length int            // of the whole frame
	spans  [maxSpans]span // that have come, ascending, with gaps between them
	count  int            // of them
	since  int64
	buf    []byte // room for a header, then the frame
}

// span is a part of a frame.
type span struct{ from, to int }

// assembler puts frames together for one inbound loop.
type assembler struct {
	slots [fragmentSlots]assembly
	kept  []byte // whole frames, each behind frameRoom bytes
	at    int    // end of them
}

// add takes a piece. When it completes its frame, the frame is returned behind frameRoom
// bytes, valid until the next add. It reports the frames that were
// given up for this one, and whether the piece made sense.
func (as *assembler) add(now int64, peer *Peer, r transport.Record, piece []byte) (frame []byte, lost int, ok bool) {
	length, off := int(r.ChecksumStart)+1, int(r.Aux)
	if end := off + len(piece); end > length || (end == length) != (r.Flags&transport.RecordLast != 0) {
		return nil, 0, false
	}
	a, lost := as.find(now, peer, r.ChecksumOffset, length)
	if !a.place(length, span{off, off + len(piece)}) {
		a.peer = nil
		return nil, lost + 1, true
	}
	copy(a.buf[frameRoom+off:], piece)
	if a.count > 1 || a.spans[0] != (span{0, length}) {
		return nil, lost, true
	}
	a.peer = nil
	return a.buf[:frameRoom+length], lost, true
}

// keep copies a frame that add returned to where it stays until release; nil: there is
// no room, until then.
func (as *assembler) keep(frame []byte) []byte {
	if as.kept == nil {
		as.kept = make([]byte, keptFrames)
	}
	if as.at+len(frame) > len(as.kept) {
		return nil
	}
	b := as.kept[as.at : as.at+len(frame) : as.at+len(frame)]
	as.at += copy(b, frame)
	return b
}

// release ends the life of what was kept.
func (as *assembler) release() { as.at = 0 }

// place notes a part, and reports whether it fits with those that came before: is one of
// them, or beside them.
func (a *assembly) place(length int, s span) bool {
	i := 0 // the first of them behind s
	for i < a.count && a.spans[i].from < s.from {
		i++
	}
	if a.length == length && (i > 0 && a.spans[i-1].to >= s.to || i < a.count && a.spans[i].from == s.from && a.spans[i].to >= s.to) {
		return true // once more, in a network without a cipher
	}
	if a.length != length || i > 0 && a.spans[i-1].to > s.from || i < a.count && a.spans[i].from < s.to {
		return false
	}
	before := i > 0 && a.spans[i-1].to == s.from
	behind := i < a.count && a.spans[i].from == s.to
	switch {
	case before && behind:
		a.spans[i-1].to = a.spans[i].to
		a.count--
		copy(a.spans[i:a.count], a.spans[i+1:])
	case before:
		a.spans[i-1].to = s.to
	case behind:
		a.spans[i].from = s.from
	case a.count == maxSpans:
		return false
	default:
		copy(a.spans[i+1:a.count+1], a.spans[i:a.count])
		a.spans[i] = s
		a.count++
	}
	return true
}

// find returns the slot of a frame, making room for one that is new.
func (as *assembler) find(now int64, peer *Peer, number uint16, length int) (slot *assembly, lost int) {
	own, oldestOwn, oldest, free := 0, -1, -1, -1
	for i := range as.slots {
		a := &as.slots[i]
		if a.peer != nil && now-a.since > fragmentLife {
			a.peer = nil
			lost++
		}
		switch {
		case a.peer == nil:
			free = i
			continue
		case a.peer == peer && a.number == number:
			return a, lost
		case a.peer == peer:
			own++
			if oldestOwn < 0 || a.since < as.slots[oldestOwn].since {
				oldestOwn = i
			}
		}
		if oldest < 0 || a.since < as.slots[oldest].since {
			oldest = i
		}
	}
	pick := free
	switch {
	case own >= fragmentsEach:
		pick = oldestOwn
		lost++
	case pick < 0:
		pick = oldest
		lost++
	}
	a := &as.slots[pick]
	buf := a.buf
	if buf == nil {
		buf = make([]byte, frameRoom+maxAssembled)
	}
	*a = assembly{peer: peer, number: number, length: length, since: now, buf: buf}
	return a, lost
}
