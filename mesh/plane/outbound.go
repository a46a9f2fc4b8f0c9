package plane

import (
	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/offload"
)

const (
	// plainLimit is how large a datagram may be, without its relay header, on a path
	// of which nothing better is known: what fits, relay header in front, into one
	// packet of every underlay.
	plainLimit = transport.BaseLimit - transport.RelayLen
	// leastLimit is what a path over IPv4's least MTU of 576 carries, behind a relay header;
	// no path is measured to carry less.
	leastLimit = 576 - 40 - 8 - transport.RelayLen
	// overhead is what a datagram with one record has beside the frame.
	overhead = transport.HeaderLen + transport.RecordLen + transport.TagLen
	// arenaSize is how many bytes of datagrams are built before they are sent: a few
	// trains, and little enough to stay in a core's own cache.
	arenaSize = 256 << 10
	// minCut is the smallest payload worth cutting a super-frame to.
	minCut = 64
	// udpHeader is the length of a UDP header.
	udpHeader = 8
)

// entry is one frame of the batch on its way to one peer.
type entry struct {
	frame  int32 // index in frames
	next   int32 // 1 + index in entries of the peer's next one, 0 = the last
	flow   uint16
	shared bool // other entries may be of the same frame: it must stay as it is
}

// lane is the frames of the batch for one peer, in order.
type lane struct{ head, tail int32 } // 1 + index in entries

// outbound is the state of one device queue's loop: what was read, which peer each
// frame goes to, and the datagrams built of them.
//
//	frames ──FromLocal──▶ lanes, one a peer ──▶ arena: │relay?│header│record│frame│…│tag│ │header│…
//	                          super-frames                └── equal datagrams side by side: one train ──┘
//	                          └─▶ segments laid in place ─▶ sealed into the arena
type outbound struct {
	p     *Plane
	queue int
	s     *Snapshot // of this turn
	now   int64

	frames  []tun.Frame
	entries []entry
	lanes   []lane         // by PeerID
	touched []route.PeerID // with something in their lane, in order of first frames
	replies []tun.Frame
	answers int

	arena   []byte
	at      int    // end of what is built
	scratch []byte // one segment, or the headers of those that are laid
	open    datagram
	numbers uint16 // of frames that went in pieces
	train   bool   // a long one was cut since the worker asked
	sender
}

// datagram is the one that is being filled, at the end of the arena.
type datagram struct {
	to, hop *Outlet // hop is to itself when there is no relay between; nil: none is open
	flow    uint16
	start   int    // where its header stands
	limit   int    // bytes it may have, tag included
	aside   []byte // its body, where that stands outside the arena
}

// serves reports whether the datagram is open, and may carry a frame for to by way of hop.
func (d *datagram) serves(to, hop *Outlet, flow uint16) bool {
	return d.hop == hop && d.to == to && (hop == to || d.flow == flow)
}

func (p *Plane) newOutbound(queue int) *outbound {
	out := &outbound{
		p:       p,
		queue:   queue,
		frames:  make([]tun.Frame, deviceBatch),
		entries: make([]entry, 0, 4*deviceBatch),
		replies: make([]tun.Frame, deviceBatch),
		arena:   make([]byte, arenaSize),
		scratch: make([]byte, tun.MaxFrame),
		sender:  sender{p: p, msgs: make([]transport.Message, 0, arenaSize/256), aead: new(crypto.Scratch)},
	}
	for i := range out.frames {
		out.frames[i].Buf = make([]byte, tun.BufferSize)
		out.replies[i].Buf = make([]byte, tun.Headroom+route.ReplySize)
	}
	return out
}

// turn carries the first n frames read to where they belong.
func (out *outbound) turn(n int) {
	out.s, out.now = out.p.snapshot.Load(), out.p.Now()
	if out.s.Table == nil {
		return
	}
	if len(out.lanes) < len(out.s.Outlets) {
		out.lanes = make([]lane, len(out.s.Outlets))
	}
	for i := range out.frames[:n] {
		out.classify(i)
	}
	for _, id := range out.touched {
		out.emit(id)
	}
	out.flush()
	out.entries, out.touched = out.entries[:0], out.touched[:0]
	if out.answers > 0 {
		wrote, _ := out.p.queues[out.queue].WriteBatch(out.replies[:out.answers])
		out.p.counters.add(answered, wrote)
		out.p.counters.add(dropDevice, out.answers-wrote)
		out.answers = 0
	}
}

// classify asks the switch where frame i goes and puts it into the lanes.
func (out *outbound) classify(i int) {
	f := &out.frames[i]
	reply := &out.replies[out.answers]
	d, length := out.p.cfg.Switch.FromLocal(out.s.Table, out.now, out.p.cfg.VNI, f.Bytes(), reply.Buf[tun.Headroom:])
	if d.Verdict == route.ToPeer {
		d, length = d.Fit(single(f), reply.Buf[tun.Headroom:])
	}
	switch d.Verdict {
	case route.ToPeer:
		out.push(d.Peer, entry{frame: int32(i), flow: d.Flow})
	case route.Copies:
		for _, id := range out.s.Table.Copies(out.p.cfg.VNI) {
			out.push(id, entry{frame: int32(i), flow: d.Flow, shared: true})
		}
	case route.Answer:
		reply.Off, reply.Len = tun.Headroom, length
		out.answers++
	case route.DropFrame:
		out.p.counters.drop(d.Drop)
	}
}

// single is what f is as a single frame of its receiver's: itself, or the first datagram
// of a super-frame. Of a TCP super-frame it is nothing: its segments fit anyway, for the
// two ends have told each other how long they may be.
func single(f *tun.Frame) []byte {
	b, o := f.Bytes(), &f.Offload
	switch o.Type {
	case tun.GSONone:
		return b
	case tun.GSOUDP:
		return b[:min(len(b), int(o.ChecksumStart)+udpHeader+int(o.SegmentSize))]
	}
	return nil
}

// push puts e at the end of a peer's lane.
func (out *outbound) push(id route.PeerID, e entry) {
	if int(id) >= len(out.lanes) {
		out.p.counters.add(dropNoRoute, 1)
		return
	}
	out.entries = append(out.entries, e)
	n := int32(len(out.entries))
	l := &out.lanes[id]
	if l.head == 0 {
		l.head = n
		out.touched = append(out.touched, id)
	} else {
		out.entries[l.tail-1].next = n
	}
	l.tail = n
}

// emit makes datagrams of what is in a peer's lane, and empties it.
func (out *outbound) emit(id route.PeerID) {
	l := out.lanes[id]
	out.lanes[id] = lane{}
	to := out.s.outlet(id)
	for k := l.head; k != 0; k = out.entries[k-1].next {
		e := out.entries[k-1]
		hop := out.way(to, e.flow)
		if hop == nil {
			continue
		}
		f := &out.frames[e.frame]
		to.Peer.FramesOut.Add(1)
		to.Peer.BytesOut.Add(uint64(f.Len))
		if f.Offload == (tun.Offload{}) {
			out.plain(to, hop, e.flow, f.Bytes(), 0)
		} else {
			out.unfinished(to, hop, e, f)
		}
	}
	out.close()
}

// way finds whom to hand a frame for to, and counts when it cannot go.
func (out *outbound) way(to *Outlet, flow uint16) *Outlet {
	switch {
	case to == nil:
		out.p.counters.add(dropNoRoute, 1)
		return nil
	case to.Session == nil:
		out.p.counters.add(dropNoSession, 1)
		if !to.Peer.wanted.Swap(true) {
			out.p.cfg.Events.Wake()
		}
		return nil
	}
	hop := out.s.hop(to, flow)
	if hop == nil {
		out.p.counters.add(dropNoRoute, 1)
	}
	return hop
}

// hop returns the outlet to hand a datagram for to to, nil when there is none
// that can take it.
func (s *Snapshot) hop(to *Outlet, flow uint16) *Outlet {
	if to.Direct && to.Session != nil {
		return to
	}
	id, ok := s.Table.NextHopTo(to.Peer.ID, flow)
	if !ok {
		return nil
	}
	hop := s.outlet(id)
	if hop == nil || hop.Session == nil || hop.Path.Kind == 0 {
		return nil
	}
	return hop
}

// limit is how large a datagram to to by way of hop should be, without relay header.
func limit(to, hop *Outlet) int {
	known := hop.Limit
	if hop != to {
		known = min(to.RelayLimit, hop.Limit-transport.RelayLen)
	}
	if known < leastLimit { // nothing is known, or nothing true
		return plainLimit
	}
	return known
}

// unfinished takes a frame whose checksum, or whose cutting, the kernel left to us.
func (out *outbound) unfinished(to, hop *Outlet, e entry, f *tun.Frame) {
	frame, flow := f.Bytes(), e.flow
	super, ok := offload.Parse(frame, f.Offload)
	size := limit(to, hop) - overhead - super.HeaderLen
	switch {
	case ok && super.InnerL3() == 0 && (super.Count(max(size, minCut)) == 1 || f.Offload.Type == tun.GSONone && super.Whole):
		// One piece, finished but for its checksum, which the seal makes needless.
		super.Normalise(frame)
		out.plain(to, hop, flow, frame, transport.RecordPartial)
	case ok && e.shared:
		out.cut(to, hop, flow, frame, &super, max(size, minCut), nil)
	case ok:
		out.cut(to, hop, flow, frame, &super, max(size, minCut), f.Buf[f.Off-transport.RecordLen:])
	case f.Offload.Type == tun.GSONone && offload.Complete(frame, f.Offload):
		f.Offload = tun.Offload{} // its copies for other peers are finished by this, too
		out.plain(to, hop, flow, frame, 0)
	default:
		out.p.counters.add(dropOffload, 1)
	}
}

// cut makes one datagram of each segment of a super-frame. room is frame with RecordLen
// bytes in front of it, if frame is not needed any more: then the segments are laid and
// sealed there, and not copied first.
func (out *outbound) cut(to, hop *Outlet, flow uint16, frame []byte, super *offload.Super, size int, room []byte) {
	out.train = out.train || super.Count(size) >= longTrain
	longest := super.HeaderLen + super.Step(size)
	if super.Step(size) > size {
		// Datagrams may not be cut smaller: each is a frame longer than its path.
		// One of a tunnel is finished: a fragment has no room to say where it isn't.
		for i := range super.Count(size) {
			segment, flags := out.scratch[:super.Put(out.scratch, frame, i, size)], transport.RecordPartial
			if super.InnerL3() != 0 && offload.CompleteTunnelled(segment, super.InnerL3()) {
				flags = 0
			}
			out.plain(to, hop, flow, segment, flags)
		}
		return
	}
	r := transport.Record{Flags: transport.RecordPartial | transport.RecordTrain, VNI: uint16(out.p.cfg.VNI)}
	if super.InnerL3() != 0 {
		r.Flags |= transport.RecordTunnel
		r.Aux = uint16(super.InnerL3())
	}
	head := out.scratch[:copy(out.scratch, frame[:super.HeaderLen])]
	for i := range super.Count(size) {
		out.close()
		out.begin(to, hop, flow, longest)
		if room == nil {
			n := super.Put(out.arena[out.at+transport.RecordLen:], frame, i, size)
			r.Length = uint16(n)
			r.Put(out.arena[out.at:])
			out.at += transport.RecordLen + n
			continue
		}
		from, end := super.Lay(frame, head, i, size)
		r.Length = uint16(end - from)
		out.open.aside = room[from : transport.RecordLen+end]
		r.Put(out.open.aside)
	}
	out.close()
}

// plain puts one frame as it is into the open datagram, or into a new one.
func (out *outbound) plain(to, hop *Outlet, flow uint16, frame []byte, flags transport.RecordFlags) {
	if overhead+len(frame) > limit(to, hop) {
		out.long(to, hop, flow, frame, flags)
		return
	}
	d := &out.open
	if !d.serves(to, hop, flow) || out.at-d.start+transport.RecordLen+len(frame)+transport.TagLen > d.limit {
		out.close()
		out.begin(to, hop, flow, len(frame))
	}
	out.record(len(frame), flags)
	out.at += transport.RecordLen
	out.at += copy(out.arena[out.at:], frame)
}

// long takes a frame that is longer than its path carries: a TCP segment is cut, as
// its sender might have done, anything else goes in pieces.
func (out *outbound) long(to, hop *Outlet, flow uint16, frame []byte, flags transport.RecordFlags) {
	if flags&transport.RecordPartial == 0 {
		super, ok := offload.Parse(frame, tun.Offload{})
		if size := limit(to, hop) - overhead - super.HeaderLen; ok && !super.Whole && size >= minCut && super.Sound(frame) {
			out.cut(to, hop, flow, frame, &super, size, nil)
			return
		}
	}
	out.fragment(to, hop, flow, frame, flags)
}

// record writes a record header at the end of the arena.
func (out *outbound) record(length int, flags transport.RecordFlags) {
	transport.Record{Length: uint16(length), Flags: flags, VNI: uint16(out.p.cfg.VNI)}.Put(out.arena[out.at:])
}

// begin opens a datagram with room for a frame of so many bytes, and for as many
// more as fit.
func (out *outbound) begin(to, hop *Outlet, flow uint16, length int) {
	most := limit(to, hop)
	if out.at+transport.RelayLen+max(overhead+length, most) > len(out.arena) {
		out.flush()
	}
	start := out.at
	if hop != to {
		start += transport.RelayLen
	}
	out.open = datagram{to: to, hop: hop, flow: flow, start: start, limit: most}
	out.at = start + transport.HeaderLen
}

// close seals the open datagram, if there is one, and hands it to the sender.
func (out *outbound) close() {
	d := out.open
	if d.hop == nil {
		return
	}
	out.open = datagram{}
	if !out.seal(&d) {
		out.p.counters.add(dropExhausted, 1)
		out.at = d.start
		return
	}
	if d.hop == d.to {
		out.send(d.hop, out.arena[d.start:out.at], out.now)
		return
	}
	out.relay(d.hop, d.to.Peer.Short, d.flow, out.s.Table.HopLimit(d.to.Peer.ID), out.arena[d.start-transport.RelayLen:out.at], out.now)
}

// seal seals d, which ends where the arena does, under its session's next counter; false:
// there is none left.
func (out *outbound) seal(d *datagram) bool {
	channel, typ := d.to.Session.Data, transport.TypeData
	if channel.Overhead() == 0 {
		typ = transport.TypeClear
	}
	counter, err := channel.Next()
	if err != nil {
		return false
	}
	header := out.arena[d.start : d.start+transport.HeaderLen]
	transport.Header{Type: typ, Index: d.to.Session.Remote, Counter: counter}.Put(header)
	dst := out.arena[d.start+transport.HeaderLen : out.at]
	body := dst
	if d.aside != nil {
		body = d.aside
	}
	sealed := channel.Seal(out.aead, dst[:0], counter, header, body)
	out.at = d.start + transport.HeaderLen + len(sealed)
	return true
}

// flush sends what is built. No datagram may be open.
func (out *outbound) flush() {
	out.sender.flush()
	out.at = 0
}
