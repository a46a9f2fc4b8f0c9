package plane

import (
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
)

const (
	// maxShared is how large a datagram may grow by taking in further frames: what
	// fits, with a relay header in front, into one packet of an IPv6 underlay of
	// MTU 1500 (1500 - 48 IPv6 and UDP - 48 relay header - 2 of alignment).
	maxShared = 1402
	// maxSealed is the largest datagram without its relay header: the longest UDP
	// payload over IPv4 less that header. A frame that needs more is dropped.
	maxSealed = 65507 - transport.RelayLen
)

// datagram is one that is being filled: header, then records, in buf[start:end].
type datagram struct {
	buf        []byte
	start, end int
	to         *Outlet
	hop        *Outlet // who it is handed to; to itself when there is no relay between
	flow       uint16
}

// outbound is the state of one device queue's loop.
type outbound struct {
	p       *Plane
	queue   int
	s       *Snapshot // of this turn
	frames  []tun.Frame
	open    []datagram
	last    []int32  // by PeerID: 1 + index in open of the datagram that may still grow
	spare   [][]byte // buffers for copies
	used    int
	replies []tun.Frame
	answers int
	sender  sender
}

func (p *Plane) newOutbound(queue int) *outbound {
	out := &outbound{
		p:       p,
		queue:   queue,
		frames:  make([]tun.Frame, deviceBatch),
		open:    make([]datagram, 0, 2*deviceBatch),
		spare:   make([][]byte, deviceBatch),
		replies: make([]tun.Frame, deviceBatch),
		sender:  sender{p: p, msgs: make([]transport.Message, 0, 2*deviceBatch)},
	}
	for i := range out.frames {
		out.frames[i].Buf = make([]byte, tun.BufferSize)
		out.replies[i].Buf = make([]byte, tun.Headroom+route.ReplySize)
	}
	for i := range out.spare {
		out.spare[i] = make([]byte, tun.Headroom+2048+tun.Tailroom)
	}
	return out
}

// turn carries the first n frames read to where they belong.
func (out *outbound) turn(n int) {
	s := out.p.snapshot.Load()
	if s.Table == nil {
		return
	}
	out.s = s
	if len(out.last) < len(s.Outlets) {
		out.last = make([]int32, len(s.Outlets))
	}
	now := out.p.Now()
	for i := range out.frames[:n] {
		f := &out.frames[i]
		reply := &out.replies[out.answers]
		d, length := out.p.cfg.Switch.FromLocal(s.Table, now, out.p.cfg.VNI, f.Bytes(), reply.Buf[tun.Headroom:])
		switch d.Verdict {
		case route.ToPeer:
			out.unicast(d, f)
		case route.Copies:
			for _, id := range s.Table.Copies(out.p.cfg.VNI) {
				out.copy(id, d.Flow, f.Bytes(), now)
			}
		case route.Answer:
			reply.Off, reply.Len = tun.Headroom, length
			out.answers++
		case route.DropFrame:
			out.p.counters.drop(d.Drop)
		}
	}
	out.flush(now)
	if out.answers > 0 {
		wrote, _ := out.p.queues[out.queue].WriteBatch(out.replies[:out.answers])
		out.p.counters.add(answered, wrote)
		out.p.counters.add(dropDevice, out.answers-wrote)
		out.answers = 0
	}
}

// way finds how a frame of that flow gets to a peer, and counts when it does not.
func (out *outbound) way(id route.PeerID, flow uint16) (to, hop *Outlet) {
	to = out.s.outlet(id)
	if to == nil {
		out.p.counters.add(dropNoRoute, 1)
		return nil, nil
	}
	if to.Session == nil {
		out.p.counters.add(dropNoSession, 1)
		if !to.Peer.wanted.Swap(true) {
			out.p.cfg.Events.Wake()
		}
		return nil, nil
	}
	hop = out.s.hop(to, flow)
	if hop == nil {
		out.p.counters.add(dropNoRoute, 1)
		return nil, nil
	}
	return to, hop
}

// hop returns the outlet to hand a datagram for to to, nil when there is none
// that can take it.
func (s *Snapshot) hop(to *Outlet, flow uint16) *Outlet {
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

// unicast puts f into a datagram for the peer that d names: into the one that is
// still open when both are small, else into one made around f in its own buffer.
func (out *outbound) unicast(d route.Decision, f *tun.Frame) {
	to, hop := out.way(d.Peer, d.Flow)
	if to == nil || out.join(to, hop, d.Flow, f.Bytes()) {
		return
	}
	start := f.Off - transport.RecordLen - transport.HeaderLen
	if transport.HeaderLen+transport.RecordLen+f.Len+transport.TagLen > maxSealed {
		out.p.counters.add(dropTooBig, 1)
		return
	}
	out.record(f.Buf[f.Off-transport.RecordLen:], f.Len)
	out.begin(datagram{buf: f.Buf, start: start, end: f.Off + f.Len, to: to, hop: hop, flow: d.Flow})
}

// copy puts a copy of frame into a datagram for one peer.
func (out *outbound) copy(id route.PeerID, flow uint16, frame []byte, now int64) {
	to, hop := out.way(id, flow)
	if to == nil || out.join(to, hop, flow, frame) {
		return
	}
	const start = tun.Headroom - transport.RecordLen - transport.HeaderLen
	if transport.HeaderLen+transport.RecordLen+len(frame)+transport.TagLen > maxSealed {
		out.p.counters.add(dropTooBig, 1)
		return
	}
	if out.used == len(out.spare) {
		out.flush(now)
	}
	buf := out.spare[out.used]
	if need := tun.Headroom + len(frame) + tun.Tailroom; len(buf) < need {
		// Rare: a copied frame beyond 2 KiB. The larger buffer stays.
		buf = make([]byte, tun.BufferSize)
		out.spare[out.used] = buf
	}
	out.used++
	out.record(buf[tun.Headroom-transport.RecordLen:], len(frame))
	copy(buf[tun.Headroom:], frame)
	out.begin(datagram{buf: buf, start: start, end: tun.Headroom + len(frame), to: to, hop: hop, flow: flow})
}

// join appends frame to the peer's open datagram if it fits and goes the same way.
func (out *outbound) join(to, hop *Outlet, flow uint16, frame []byte) bool {
	i := out.last[to.Peer.ID]
	if i == 0 {
		return false
	}
	d := &out.open[i-1]
	if d.hop != hop || hop != to && d.flow != flow ||
		d.end-d.start+transport.RecordLen+len(frame)+transport.TagLen > maxShared {
		return false
	}
	out.record(d.buf[d.end:], len(frame))
	copy(d.buf[d.end+transport.RecordLen:], frame)
	d.end += transport.RecordLen + len(frame)
	out.count(to, len(frame))
	return true
}

// record writes the record header of a plain, finished frame.
func (out *outbound) record(b []byte, length int) {
	transport.Record{Length: uint16(length), VNI: uint16(out.p.cfg.VNI)}.Put(b)
}

// begin opens d: it is the peer's last one, so order within the pair is kept.
func (out *outbound) begin(d datagram) {
	out.open = append(out.open, d)
	out.last[d.to.Peer.ID] = int32(len(out.open))
	out.count(d.to, d.end-d.start-transport.HeaderLen-transport.RecordLen)
}

func (out *outbound) count(to *Outlet, length int) {
	to.Peer.FramesOut.Add(1)
	to.Peer.BytesOut.Add(uint64(length))
}

// flush seals and sends what is open.
func (out *outbound) flush(now int64) {
	for i := range out.open {
		d := &out.open[i]
		out.last[d.to.Peer.ID] = 0
		channel, typ := d.to.Session.Data, transport.TypeData
		if channel.Overhead() == 0 {
			typ = transport.TypeClear
		}
		counter, err := channel.Next()
		if err != nil {
			out.p.counters.add(dropExhausted, 1)
			continue
		}
		header := d.buf[d.start : d.start+transport.HeaderLen]
		transport.Header{Type: typ, Index: d.to.Session.Remote, Counter: counter}.Put(header)
		sealed := channel.Seal(counter, header, d.buf[d.start+transport.HeaderLen:d.end])
		end := d.start + transport.HeaderLen + len(sealed)
		if d.hop == d.to {
			out.sender.send(d.hop, d.buf[d.start:end], now)
		} else {
			out.sender.relay(d.hop, d.to.Peer.Short, d.flow, out.s.Table.HopLimit(d.to.Peer.ID), d.buf[d.start-transport.RelayLen:end], now)
		}
	}
	clear(out.open)
	out.open = out.open[:0]
	out.used = 0
	out.sender.flush()
}
