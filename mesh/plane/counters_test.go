package plane

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/tuntest"
)

// refusing is a queue that takes nothing.
type refusing struct{ tun.Queue }

func (refusing) WriteBatch([]tun.Frame) (int, error) { return 0, errors.New("refused") }

// full is a socket that has no room for anything.
type full struct{ sinkSocket }

func (full) Send(msgs []transport.Message) int {
	for i := range msgs {
		msgs[i].Err = syscall.ENOBUFS
	}
	return 0
}

// TestTrainsAreCounted: a train counts as the datagrams that it has, where it leaves,
// where it comes and where it is lost, and a super-frame that the device refuses as the
// frames that it was made of.
func TestTrainsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		sent := wired(a)
		cfg := b.cfg
		cfg.Device = tuntest.NewDevice(tuntest.Config{Capabilities: tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true}})
		b.Plane = New(cfg)
		for i := range b.queues {
			b.queues[i] = refusing{b.queues[i]}
		}
		l.publish()
		const payload, size, frames = 20000, 1000, 20
		f, o := superFrame(a, b, payload, size)
		out := a.newOutbound(0)
		turn := func() {
			out.frames[0].Off, out.frames[0].Offload = tun.Headroom, o
			out.frames[0].Len = copy(out.frames[0].Buf[tun.Headroom:], f)
			out.turn(1)
		}
		turn()
		receive(b, a, sent.msgs)
		if n := a.Counters().All()["datagrams_out"]; n != frames {
			t.Errorf("%d datagrams were counted that left, not %d", n, frames)
		}
		a.cfg.Socket = full{}
		turn()
		if n := a.Counters().All()["drop_send_error"]; n != frames {
			t.Errorf("%d datagrams were counted that did not leave, not %d", n, frames)
		}
		if n := b.Counters().All()["datagrams_in"]; n != frames {
			t.Errorf("%d datagrams were counted that came, not %d", n, frames)
		}
		if n := b.Counters().All()["drop_device_write"]; n != frames {
			t.Errorf("%d frames were counted that the device refused, not %d", n, frames)
		}
	})
}
