package plane

import "ripstop/transport"

// A frame that is longer than its path carries, and can't be cut, travels in
// pieces: one record each, in datagrams of their own.
//
//	record:  Length     bytes of this piece
//	         Flags      RecordFragment, RecordLast on the last, RecordPartial as of the frame
//	         Aux        offset of the piece in units of 8 bytes
//	         ChecksumStart    length of the whole frame
//	         ChecksumOffset   the frame's number, from the sending queue's counter
//
// All pieces but the last have one length, a multiple of 8, so that a piece is
// known by offset / length and 64 bits say which have come. What is incomplete
// when its place is needed, or after fragmentLife, is dropped and counted.
const (
	fragmentSlots = 16      // frames being put together, in one loop
	fragmentsEach = 4       // of them of one peer
	maxFragments  = 64      // pieces of one frame
	maxAssembled  = 1 << 16 // bytes of one frame
	fragmentLife  = 1e9     // nanoseconds
)

// fragment sends a frame in pieces.
func (out *outbound) fragment(to, hop *Outlet, flow uint16, frame []byte, flags transport.RecordFlags) {
	size := (limit(to, hop) - overhead) &^ 7
	if len(frame) > maxAssembled || len(frame) > size*maxFragments {
		out.p.counters.add(dropTooBig, 1)
		return
	}
	out.numbers++
	number := out.numbers*uint16(len(out.p.queues)) + uint16(out.queue)
	for off := 0; off < len(frame); off += size {
		piece := frame[off:min(off+size, len(frame))]
		r := transport.Record{
			Length: uint16(len(piece)), Flags: flags | transport.RecordFragment, VNI: uint16(out.p.cfg.VNI),
			Aux: uint16(off / 8), ChecksumStart: uint16(len(frame) - 1), ChecksumOffset: number,
		}
		if off+len(piece) == len(frame) {
			r.Flags |= transport.RecordLast
		}
		out.close()
		out.begin(to, hop, flow, len(piece))
		r.Put(out.arena[out.at:])
		out.at += transport.RecordLen
		out.at += copy(out.arena[out.at:], piece)
	}
	out.close()
	out.p.counters.add(fragmented, 1)
}

// assembly is one frame being put together.
type assembly struct {
	peer   *Peer // nil: the slot is free
	number uint16
	length int    // of the whole frame
	size   int    // of every piece but the last; 0 until one of those has come
	have   uint64 // which of those have come
	last   bool   // the last piece has come
	bytes  int    // that have come
	since  int64
	buf    []byte // room for a record header, then the frame
}

// assembler puts frames together for one inbound loop.
type assembler struct{ slots [fragmentSlots]assembly }

// add takes a piece. When it completes its frame, the frame is returned behind room
// for a record header, valid until the next add. It reports the frames that were
// given up for this one, and whether the piece made sense.
func (as *assembler) add(now int64, peer *Peer, r transport.Record, piece []byte) (frame []byte, lost int, ok bool) {
	length, off := int(r.ChecksumStart)+1, int(r.Aux)*8
	last := r.Flags&transport.RecordLast != 0
	if off+len(piece) > length || last != (off+len(piece) == length) || !last && len(piece)%8 != 0 {
		return nil, 0, false
	}
	a, lost := as.find(now, peer, r.ChecksumOffset, length)
	if !a.place(off, length, len(piece), last) {
		a.peer = nil
		return nil, lost + 1, true
	}
	copy(a.buf[transport.RecordLen+off:], piece)
	if a.bytes < length {
		return nil, lost, true
	}
	a.peer = nil
	return a.buf[:transport.RecordLen+length], lost, true
}

// place notes a piece, and reports whether it fits with those that came before.
func (a *assembly) place(off, length, n int, last bool) bool {
	if a.length != length {
		return false
	}
	if last {
		// Its place among the others need not be known: there is one last piece.
		if a.last {
			return false
		}
		a.last = true
		a.bytes += n
		return true
	}
	if a.size == 0 {
		a.size = n
	}
	at := off / n
	if a.size != n || off%n != 0 || at >= maxFragments || a.have&(1<<at) != 0 {
		return false
	}
	a.have |= 1 << at
	a.bytes += n
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
		buf = make([]byte, transport.RecordLen+maxAssembled)
	}
	*a = assembly{peer: peer, number: number, length: length, since: now, buf: buf}
	return a, lost
}
