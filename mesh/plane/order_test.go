package plane

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/tuntest"
)

// backwards is a socket's batch that a wire has turned round.
type backwards struct {
	sinkSocket
	msgs []transport.Message
}

func (s *backwards) Send(msgs []transport.Message) int {
	for i := range msgs {
		for b := range msgs[i].Datagrams {
			s.msgs = append(s.msgs, transport.Message{Buf: bytes.Clone(b), N: len(b)})
		}
	}
	return len(msgs)
}

// TestReorderedTrain: a train that comes in another order is joined to one super-frame.
func TestReorderedTrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		wire := &backwards{sinkSocket: sinkSocket{new(sink)}}
		cfg := a.cfg
		cfg.Socket = wire
		a.Plane = New(cfg)
		b.device = tuntest.NewDevice(tuntest.Config{Capabilities: tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true}})
		cfg = b.cfg
		cfg.Device = b.device
		b.Plane = New(cfg)
		l.session(a, b, true)
		l.publish()

		const payload, size = 20000, 1000
		f, o := superFrame(a, b, payload, size)
		out := a.newOutbound(0)
		out.frames[0].Off, out.frames[0].Offload = tun.Headroom, o
		out.frames[0].Len = copy(out.frames[0].Buf[tun.Headroom:], f)
		out.turn(1)
		if len(wire.msgs) < payload/size {
			t.Fatalf("%d datagrams left", len(wire.msgs))
		}
		slices.Reverse(wire.msgs)
		in := b.newInbound(len(wire.msgs))
		for i, m := range wire.msgs {
			in.msgs[i].N, in.msgs[i].Remote = copy(in.msgs[i].Buf, m.Bytes()), a.addr
		}
		in.turn(len(wire.msgs))
		w, ok := b.device.Taken()
		if !ok || !bytes.Equal(w.Bytes[54:], f[54:]) {
			t.Fatalf("%d bytes were written first; counters %v", len(w.Bytes), b.Counters().All())
		}
	})
}
