package plane

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/tun"
)

// trains keeps the messages that are sent, whole.
type trains struct {
	sinkSocket
	msgs []transport.Message
}

func (s *trains) Send(msgs []transport.Message) int {
	for _, m := range msgs {
		m.Buf = bytes.Clone(m.Bytes())
		s.msgs = append(s.msgs, m)
	}
	return len(msgs)
}

// wired gives h a socket that keeps what it sends, and trains on all its paths.
func wired(h *host) *trains {
	wire := &trains{sinkSocket: sinkSocket{new(sink)}}
	cfg := h.cfg
	cfg.Socket = wire
	h.Plane = New(cfg)
	for _, o := range h.outlets {
		if o != nil {
			o.Train = 64
		}
	}
	return wire
}

// receive gives h messages of another host in one turn.
func receive(h, from *host, msgs []transport.Message) {
	in := h.newInbound(len(msgs))
	for i, m := range msgs {
		in.msgs[i].N, in.msgs[i].Segment, in.msgs[i].Remote = copy(in.msgs[i].Buf, m.Bytes()), m.Segment, from.addr
	}
	in.turn(len(msgs))
}

// TestRelayedTrainStaysOne: what a relay receives as one train leaves it as one, and
// only the relay headers have changed.
func TestRelayedTrainStaysOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, crypto.CipherAuto)
		from, relay, to := l.hosts[0], l.hosts[1], l.hosts[2]
		l.session(from, relay, true)
		l.session(relay, to, true)
		l.session(from, to, false)
		sent, passed := wired(from), wired(relay)
		l.publish()

		const payload, size = 20000, 1000
		f, o := superFrame(from, to, payload, size)
		out := from.newOutbound(0)
		out.frames[0].Off, out.frames[0].Offload = tun.Headroom, o
		out.frames[0].Len = copy(out.frames[0].Buf[tun.Headroom:], f)
		out.turn(1)
		receive(relay, from, sent.msgs)

		if len(sent.msgs) != 1 || len(passed.msgs) != 1 {
			t.Fatalf("%d messages reached the relay, %d left it; counters %v", len(sent.msgs), len(passed.msgs), relay.Counters().All())
		}
		in1, out1 := sent.msgs[0], passed.msgs[0]
		if out1.Segment != in1.Segment || out1.N != in1.N || out1.Remote != to.addr {
			t.Fatalf("a train of %d bytes by %d left as %d by %d, to %v", in1.N, in1.Segment, out1.N, out1.Segment, out1.Remote)
		}
		for at := 0; at < in1.N; at += in1.Segment {
			end := min(at+in1.Segment, in1.N)
			if !bytes.Equal(in1.Buf[at+transport.RelayLen:end], out1.Buf[at+transport.RelayLen:end]) {
				t.Fatalf("what is sealed in the datagram at %d has changed", at)
			}
			if bytes.Equal(in1.Buf[at:at+transport.RelayLen], out1.Buf[at:at+transport.RelayLen]) {
				t.Fatalf("the relay header of the datagram at %d has not changed", at)
			}
		}
	})
}

// TestRelayedApart: what a relay receives in one turn, for two hosts and from two, goes to
// each, and is counted of each.
func TestRelayedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 4, crypto.CipherAuto)
		a, relay, b, c := l.hosts[0], l.hosts[1], l.hosts[2], l.hosts[3]
		for _, h := range []*host{a, b, c} {
			l.session(relay, h, true)
		}
		l.session(a, b, false)
		l.session(a, c, false)
		l.session(b, c, false)
		sent := map[*host]*trains{a: wired(a), b: wired(b)}
		passed := wired(relay)
		l.publish()
		var msgs []transport.Message
		for i := range uint32(3) {
			for _, way := range [][2]*host{{a, b}, {a, c}, {b, c}, {b, a}} {
				out := way[0].newOutbound(0)
				out.frames[0].Off = tun.Headroom
				out.frames[0].Len = copy(out.frames[0].Buf[tun.Headroom:], frame(way[0], way[1], i, 200))
				wire := sent[way[0]]
				wire.msgs = nil
				to := way[0].peers[way[1].id.Name()].ID
				out.s = way[0].snapshot.Load()
				out.lanes = make([]lane, len(out.s.Outlets))
				out.push(to, entry{frame: 0, flow: 7}) // flows whose labels are the same
				out.emit(to)
				out.flush()
				msgs = append(msgs, wire.msgs...)
			}
		}
		receive(relay, a, msgs)
		count := make(map[netip.AddrPort]int)
		for i := range passed.msgs {
			for d := range passed.msgs[i].Datagrams {
				h, err := transport.ParseRelayHeader(d)
				if err != nil {
					t.Fatal(err)
				}
				for _, to := range l.hosts {
					if to.id.Name().Short() == h.Destination && to.addr != passed.msgs[i].Remote {
						t.Errorf("a datagram for %v left to %v", to.addr, passed.msgs[i].Remote)
					}
				}
				count[passed.msgs[i].Remote]++
			}
		}
		if count[a.addr] != 3 || count[b.addr] != 3 || count[c.addr] != 6 {
			t.Errorf("%v; counters %v", count, relay.Counters().All())
		}
		for _, h := range []*host{a, b} {
			if n := relay.peers[h.id.Name()].Relayed.Load(); n != 6 {
				t.Errorf("%d datagrams of %v were counted", n, h.addr)
			}
		}
	})
}
