package plane

import (
	"bytes"
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

// TestRelayedTrainStaysOne: what a relay receives as one train leaves it as one, and
// only the relay headers have changed.
func TestRelayedTrainStaysOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, crypto.CipherAuto)
		from, relay, to := l.hosts[0], l.hosts[1], l.hosts[2]
		l.session(from, relay, true)
		l.session(relay, to, true)
		l.session(from, to, false)
		var sent, passed trains
		for h, wire := range map[*host]*trains{from: &sent, relay: &passed} {
			wire.sinkSocket = sinkSocket{new(sink)}
			cfg := h.cfg
			cfg.Socket = wire
			h.Plane = New(cfg)
			for _, o := range h.outlets {
				if o != nil {
					o.Train = 64
				}
			}
		}
		l.publish()

		const payload, size = 20000, 1000
		f, o := superFrame(from, to, payload, size)
		out := from.newOutbound(0)
		out.frames[0].Off, out.frames[0].Offload = tun.Headroom, o
		out.frames[0].Len = copy(out.frames[0].Buf[tun.Headroom:], f)
		out.turn(1)
		in := relay.newInbound(len(sent.msgs))
		for i, m := range sent.msgs {
			in.msgs[i].N, in.msgs[i].Segment, in.msgs[i].Remote = copy(in.msgs[i].Buf, m.Bytes()), m.Segment, from.addr
		}
		in.turn(len(sent.msgs))

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
