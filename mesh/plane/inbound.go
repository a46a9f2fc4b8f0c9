package plane

import (
	"errors"
	"net/netip"
	"slices"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/offload"
)

// frameRoom is how many bytes stand before every frame for the device's header, all of
// them of its own datagram: the datagram's header and the record's.
const frameRoom = transport.HeaderLen + transport.RecordLen

// strangeEvery is how often, in nanoseconds, one peer's unknown address is reported.
const strangeEvery = 100e6

// arrival is how a datagram came to this host.
type arrival struct {
	remote  netip.AddrPort // UDP: the sender's address
	carrier *Peer          // TCP: whose connection it was
	relayed bool           // it stood behind a relay header that was checked
}

// path is the direct path that a carries, the zero Path when it was relayed.
func (a arrival) path() transport.Path {
	switch {
	case a.relayed:
		return transport.Path{}
	case a.carrier != nil:
		return transport.Path{Kind: transport.PathTCP}
	}
	return transport.Path{Kind: transport.PathDirect, Remote: a.remote}
}

// inbound is the state of what one goroutine receives.
type inbound struct {
	p         *Plane
	snapshot  *Snapshot
	now       int64
	msgs      []transport.Message
	batch     []datagramIn  // of msgs
	writes    [][]tun.Frame // by device queue
	assembler assembler
	joiner    offload.Joiner
	joined    [1]tun.Frame // the first frame that it gathered, in its buffer
	from      *Peer        // who sent what it gathers
	queue     int          // of the flow that it gathers
	sender    sender

	// What the last datagram of this turn has found: the next one of its train finds the same.
	index    uint32
	receiver *Receiver // of index; nil: none yet
	noted    *Receiver // whose life was noted, by a datagram of the same message
	onward   onward

	tally    tally
	received int
	relayed  int
	train    bool // a long one was joined since the worker asked
}

// onward is where a datagram between two hosts goes on to.
type onward struct {
	source, destination crypto.ShortName
	flow                uint16
	from                *Peer
	hop                 *Outlet // nil: there is no way
}

func (p *Plane) newInbound(batch int) *inbound {
	in := &inbound{
		p:      p,
		msgs:   make([]transport.Message, batch),
		writes: make([][]tun.Frame, len(p.queues)),
		sender: sender{p: p, msgs: make([]transport.Message, 0, max(batch, 1)), aead: new(crypto.Scratch)},
	}
	for i := range in.msgs {
		in.msgs[i].Buf = make([]byte, 1<<16)
	}
	in.joiner.NoTCP, in.joiner.NoUDP = !p.capabilities.TCP, !p.capabilities.UDP
	in.joiner.NoTunnel, in.joiner.NoTunnelChecksum = !p.capabilities.Tunnel, !p.capabilities.TunnelChecksum
	return in
}

// turn handles the first n datagrams received.
func (in *inbound) turn(n int) {
	in.begin()
	message := int32(-1)
	for _, d := range in.inOrder(in.msgs[:n]) {
		if d.message != message {
			message, in.noted = d.message, nil
		}
		in.handle(d.b, arrival{remote: in.msgs[message].Remote})
	}
	in.finish()
}

func (in *inbound) begin() {
	in.snapshot, in.now = in.p.snapshot.Load(), in.p.Now()
	in.receiver, in.noted, in.onward = nil, nil, onward{}
}

// session is what is received under an index; nil: nothing.
func (in *inbound) session(index uint32) *Receiver {
	if in.receiver == nil || in.index != index {
		in.index, in.receiver = index, in.snapshot.Sessions[index]
	}
	return in.receiver
}

// finish writes the frames that were opened and sends the datagrams to be relayed.
func (in *inbound) finish() {
	in.sender.flush()
	in.flushFrames()
	in.tally.flush()
	in.p.counters.add(datagramsIn, in.received)
	in.p.counters.add(relayed, in.relayed)
	in.received, in.relayed = 0, 0
}

// flushFrames writes what there is to write.
func (in *inbound) flushFrames() {
	in.flushJoined()
	for q := range in.writes {
		in.flushQueue(q)
	}
	in.assembler.release()
}

// flushQueue writes the plain frames for one device queue.
func (in *inbound) flushQueue(q int) {
	frames := in.writes[q]
	if len(frames) == 0 {
		return
	}
	wrote, _ := in.p.queues[q].WriteBatch(frames)
	in.p.counters.add(dropDevice, len(frames)-wrote)
	clear(frames)
	in.writes[q] = frames[:0]
}

// flushJoined writes the super-frame that was gathered, behind the plain frames
// that came before it.
func (in *inbound) flushJoined() {
	if in.joiner.Len() == 0 {
		return
	}
	in.flushQueue(in.queue)
	in.train = in.train || in.joiner.Len() >= longTrain
	wrote := 0
	if in.joiner.Frame(&in.joined[0]) {
		wrote, _ = in.p.queues[in.queue].WriteBatch(in.joined[:])
	}
	if wrote == 0 {
		in.p.counters.add(dropDevice, in.joiner.Len())
	}
	in.joiner.Reset()
	in.joined[0] = tun.Frame{}
}

// handle takes one datagram, whatever it is.
func (in *inbound) handle(b []byte, from arrival) {
	if len(b) == 0 || in.snapshot.Table == nil {
		return
	}
	if transport.Type(b[0]) == transport.TypeRelay {
		in.relay(b, from)
		return
	}
	in.sealed(b, from)
}

// sealed takes a datagram that is for this host.
func (in *inbound) sealed(b []byte, from arrival) {
	h, err := transport.ParseHeader(b)
	if err != nil {
		in.p.counters.add(dropShort, 1)
		return
	}
	switch h.Type {
	case transport.TypeData, transport.TypeClear, transport.TypeControl:
	default:
		in.p.counters.add(dropUnknownType, 1)
		return
	}
	r := in.session(h.Index)
	if r == nil {
		in.p.counters.add(dropUnknownIndex, 1)
		return
	}
	if h.Type == transport.TypeControl {
		body, ok := in.open(r.Session.Control, h, b)
		if !ok {
			return
		}
		in.heard(r, from)
		in.p.cfg.Events.Control(r.Peer, r.Session, from.path(), body)
		return
	}
	// A network is sealed or clear as a whole: the type must say what the session is.
	if clear := r.Session.Data.Overhead() == 0; clear != (h.Type == transport.TypeClear) {
		in.p.counters.add(dropForged, 1)
		return
	} else if clear && !in.verified(r, from) {
		in.p.counters.add(dropUnverified, 1)
		return
	}
	body, ok := in.open(r.Session.Data, h, b)
	if !ok {
		return
	}
	if h.Type == transport.TypeData {
		in.heard(r, from)
	}
	in.records(r, b[:transport.HeaderLen+len(body)])
}

// verified reports whether a clear datagram came from where its peer was proven to
// be: from an address that answers probes, over the peer's own TCP connection, or
// behind a relay header that a neighbour's key vouched for.
func (in *inbound) verified(r *Receiver, from arrival) bool {
	if from.relayed || from.carrier == r.Peer {
		return true
	}
	to := in.snapshot.outlet(r.Peer.ID)
	return to != nil && from.carrier == nil && slices.Contains(to.Verified, from.remote)
}

// open opens b in place and counts what does not open.
func (in *inbound) open(c *crypto.Channel, h transport.Header, b []byte) ([]byte, bool) {
	body, err := c.Open(in.sender.aead, h.Counter, b[:transport.HeaderLen], b[transport.HeaderLen:])
	switch {
	case err == nil:
		in.received++
		return body, true
	case errors.Is(err, crypto.ErrReplay):
		in.p.counters.add(dropReplay, 1)
	default:
		in.p.counters.add(dropForged, 1)
	}
	return nil, false
}

// heard notes that an authenticated datagram came under r's session.
func (in *inbound) heard(r *Receiver, from arrival) {
	if r == in.noted {
		return
	}
	if !r.confirmed.Load() && !r.confirmed.Swap(true) {
		r.Peer.confirmations.Add(1)
		in.p.cfg.Events.Wake()
	}
	if from.relayed {
		return
	}
	in.noted = r
	to := in.snapshot.outlet(r.Peer.ID)
	if to == nil {
		return
	}
	if to.Path == from.path() {
		r.Peer.heard.Store(in.now)
		return
	}
	if from.carrier == nil && in.now-r.Peer.strange.Load() > strangeEvery {
		r.Peer.strange.Store(in.now)
		in.p.cfg.Events.Strange(r.Peer, from.remote)
	}
}

// records takes the frames out of a datagram that was opened in place.
func (in *inbound) records(r *Receiver, b []byte) {
	for body := b[transport.HeaderLen:]; len(body) > 0; {
		rec, frame, rest, err := transport.ParseRecord(body)
		if err != nil {
			in.p.counters.add(dropRecord, 1)
			return
		}
		end := len(b) - len(rest)
		body = rest
		if rec.VNI != uint16(in.p.cfg.VNI) {
			in.p.counters.add(dropNetwork, 1)
			continue
		}
		if rec.Flags&transport.RecordFragment != 0 {
			in.piece(r, rec, frame)
			continue
		}
		if rec.Flags&^(transport.RecordPartial|transport.RecordTrain|transport.RecordTunnel) != 0 ||
			rec.Flags&(transport.RecordPartial|transport.RecordTunnel) == transport.RecordTunnel {
			in.p.counters.add(dropRecord, 1)
			continue
		}
		in.deliver(r, b[end-len(frame)-frameRoom:end], rec.Flags, int(rec.Aux))
	}
}

// deliver gives a frame that r's peer sent to the device, if the switch lets it. It
// stands in b behind frameRoom bytes; aux is its record's. What continues the train that
// is being gathered has the headers of its first frame, and so goes where that one went.
func (in *inbound) deliver(r *Receiver, b []byte, flags transport.RecordFlags, aux int) {
	frame := b[frameRoom:]
	t := in.tally.of(r.Peer)
	t.frames++
	t.bytes += uint64(len(frame))
	if in.from == r.Peer && flags&transport.RecordPartial != 0 && in.joiner.Len() > 0 && in.join(frame, flags, aux) {
		return
	}
	d := in.p.cfg.Switch.FromPeer(in.snapshot.Table, in.now, in.p.cfg.VNI, r.Peer.ID, frame)
	if d.Verdict != route.Deliver {
		in.p.counters.drop(d.Drop)
		return
	}
	in.write(r.Peer, b, int(d.Flow)%len(in.writes), flags, aux)
}

// join gives a partial frame to the joiner.
func (in *inbound) join(frame []byte, flags transport.RecordFlags, aux int) bool {
	if flags&transport.RecordTunnel != 0 {
		return in.joiner.AddTunnelled(frame, aux)
	}
	return in.joiner.Add(frame)
}

// piece takes a piece of a frame.
func (in *inbound) piece(r *Receiver, rec transport.Record, piece []byte) {
	const known = transport.RecordFragment | transport.RecordLast | transport.RecordPartial
	frame, lost, ok := in.assembler.add(in.now, r.Peer, rec, piece)
	in.p.counters.add(dropIncomplete, lost)
	switch {
	case !ok || rec.Flags&^known != 0:
		in.p.counters.add(dropRecord, 1)
	case frame != nil:
		b := in.assembler.keep(frame)
		if b == nil {
			in.flushFrames()
			b = in.assembler.keep(frame)
		}
		in.deliver(r, b, rec.Flags&transport.RecordPartial, 0)
	}
}

// write takes a frame for the device. It stands behind the headers that it came with,
// or the end of another frame: the room for the kernel's header. Frames of one train are
// gathered; others keep their order with them.
func (in *inbound) write(from *Peer, b []byte, queue int, flags transport.RecordFlags, aux int) {
	frame := b[frameRoom:]
	if flags&transport.RecordPartial != 0 {
		if in.p.capabilities.Checksum {
			in.gather(from, b, queue, flags, aux)
			return
		}
		if !complete(frame, flags, aux) {
			in.p.counters.add(dropRecord, 1)
			return
		}
	}
	in.flushJoined()
	in.writes[queue] = append(in.writes[queue], tun.Frame{Buf: b, Off: frameRoom, Len: len(frame)})
}

// complete makes a partial frame a finished one.
func complete(frame []byte, flags transport.RecordFlags, aux int) bool {
	if flags&transport.RecordTunnel != 0 {
		return offload.CompleteTunnelled(frame, aux)
	}
	return offload.CompleteSegment(frame)
}

// gather begins a super-frame with a partial frame that continues no other.
func (in *inbound) gather(from *Peer, b []byte, queue int, flags transport.RecordFlags, aux int) {
	frame := b[frameRoom:]
	in.flushJoined()
	if !in.join(frame, flags, aux) {
		in.p.counters.add(dropRecord, 1)
		return
	}
	in.from, in.queue = from, queue
	in.joined[0] = tun.Frame{Buf: b, Off: frameRoom, Len: len(frame)}
}

// relay takes a datagram that a neighbour handed over for us or for another.
func (in *inbound) relay(b []byte, from arrival) {
	h, err := transport.ParseRelayHeader(b)
	if err != nil {
		in.p.counters.add(dropShort, 1)
		return
	}
	r := in.session(h.Index)
	if r == nil {
		in.p.counters.add(dropUnknownIndex, 1)
		return
	}
	switch err := r.Session.Hop.Check(in.sender.aead, h.Counter, transport.RelayAD(b, in.sender.ad[:]), h.MAC); {
	case err == nil:
	case errors.Is(err, crypto.ErrReplay):
		in.p.counters.add(dropReplay, 1)
		return
	default:
		in.p.counters.add(dropRelayTag, 1)
		return
	}
	in.received++
	in.heard(r, from)
	self := in.p.cfg.Self.Short()
	inner := b[transport.RelayLen:]
	switch {
	case h.Source == self:
		in.p.counters.add(dropRelayLoop, 1)
	case h.Destination == self:
		if transport.Type(inner[0]) == transport.TypeHandshake {
			if !r.Peer.AllowRequest(in.now) {
				in.p.counters.add(dropRequests, 1)
				return
			}
			in.p.cfg.Events.Handshake(h.Source, inner[transport.HeaderLen:])
			return
		}
		in.sealed(inner, arrival{relayed: true})
	case h.HopLimit <= 1:
		in.p.counters.add(dropHopLimit, 1)
	default:
		hop := in.next(h, r.Peer)
		if hop == nil {
			in.p.counters.add(dropNoRoute, 1)
			return
		}
		in.tally.of(r.Peer).relayed++
		if t := transport.Type(inner[0]); t == transport.TypeData || t == transport.TypeClear {
			in.relayed++
		} else {
			in.p.counters.add(relayedControl, 1)
		}
		in.sender.pass(hop, h.HopLimit-1, b, in.now)
	}
}

// next finds whom to hand a relayed datagram that came from a neighbour; nil: nobody.
func (in *inbound) next(h transport.RelayHeader, from *Peer) *Outlet {
	if o := &in.onward; o.from != from || o.source != h.Source || o.destination != h.Destination || o.flow != h.Flow {
		*o = onward{source: h.Source, destination: h.Destination, flow: h.Flow, from: from}
		id, ok := in.snapshot.Table.Relay(h.Source, h.Destination, h.Flow, from.ID)
		if hop := in.snapshot.outlet(id); ok && hop != nil && hop.Session != nil && hop.Path.Kind != 0 {
			o.hop = hop
		}
	}
	return in.onward.hop
}
