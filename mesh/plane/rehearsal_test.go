package plane

import (
	"maps"
	"testing"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/tun"
)

// scriptedQueue gives what it is told to.
type scriptedQueue struct {
	tun.Polled
	give []byte // the next frame; nil: there is none
	n    int    // how often it is there
}

func (q *scriptedQueue) TryReadBatch(frames []tun.Frame) (int, error) {
	n := q.n
	for i := range frames[:n] {
		frames[i].Off, frames[i].Len = tun.Headroom, copy(frames[i].Buf[tun.Headroom:], q.give)
	}
	q.n = 0
	return n, nil
}

// TestRehearsal: a look in vain seals the last frame once more, if it was alone and went to
// a neighbour; nothing leaves, and nothing but a counter of the session is used up.
func TestRehearsal(t *testing.T) {
	for _, policy := range policies() {
		l, sinks := sinkRow(t, policy)
		a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
		queue := new(scriptedQueue)
		w := &worker{p: a.Plane, queue: queue, out: a.newOutbound(0)}
		w.rehearsal = newRehearsal(w.out)
		look := func() {
			t.Helper()
			if err := w.serve([]readiness{{source: 0}}); err != nil {
				t.Fatal(err)
			}
		}
		stranger := frame(a, b, 0, 100)
		station := route.MAC{2, 9, 9, 9, 9, 9}
		copy(stranger[6:], station[:])
		copy(stranger[12:], "\x88\xb5") // no IP: its address would be forged
		unknown := frame(a, b, 0, 100)
		copy(unknown, []byte{2, 9, 9, 9, 9, 8})
		for _, way := range []struct {
			name  string
			to    *host // whose session is looked at
			frame []byte
			n     int
			seals uint64 // in each look
		}{
			{"no frame yet", b, nil, 0, 0},
			{"alone", b, frame(a, b, 1, 100), 1, 1},
			{"of a station that is no endpoint", b, stranger, 1, 1},
			{"of the path's size", b, frame(a, b, 1, 1472-overhead), 1, 1},
			{"longer than the path", b, frame(a, b, 1, 1472-overhead+1), 1, 0},
			{"not alone", b, frame(a, b, 1, 100), 2, 0},
			{"over a relay", c, frame(a, c, 1, 100), 1, 0},
			{"to all", b, unknown, 1, 0},
			{"a question that is answered", b, arpQuestion(a, b), 1, 0},
		} {
			queue.give, queue.n = way.frame, way.n
			look()
			// The station is at b now: a frame that is not sent does not fetch it back.
			a.cfg.Switch.Learned().Learn(a.Now(), 0, station, a.peers[b.id.Name()].ID)
			peer, session := a.peers[way.to.id.Name()], a.outlets[a.peers[way.to.id.Name()].ID].Session
			type state struct {
				sent, frames, wakes, learned int
				out, bytes                   uint64
				at                           int64
			}
			now := func() state {
				return state{sinks[0].sent, sinks[0].frames, a.events.wakes, a.cfg.Switch.Learned().CountLocal(0),
					peer.FramesOut.Load(), peer.BytesOut.Load(), peer.Sent()}
			}
			counters, before, sealed := a.Counters().All(), now(), session.Data.Sent()
			const looks = 3
			if n := testing.AllocsPerRun(looks-1, look); n != 0 {
				t.Errorf("%s, cipher %s: a look in vain makes %v allocations", way.name, policy, n)
			}
			if got := session.Data.Sent() - sealed; got != looks*way.seals {
				t.Errorf("%s, cipher %s: %d looks in vain sealed %d datagrams", way.name, policy, looks, got)
			}
			if after := now(); after != before || !maps.Equal(a.Counters().All(), counters) {
				t.Errorf("%s, cipher %s: a look in vain left %+v, was %+v; %v, was %v", way.name, policy, after, before, a.Counters().All(), counters)
			}
		}
	}
}

// TestFramesAfterRehearsal: what is sent after a rehearsal is that, and no more.
func TestFramesAfterRehearsal(t *testing.T) {
	l, sinks := sinkLab(t, 2, crypto.CipherAuto)
	a, b := l.hosts[0], l.hosts[1]
	l.session(a, b, true)
	l.publish()
	queue := new(scriptedQueue)
	w := &worker{p: a.Plane, queue: queue, out: a.newOutbound(0)}
	w.rehearsal = newRehearsal(w.out)
	in := b.newInbound(socketBatch)
	for i := range 20 {
		queue.give, queue.n = frame(a, b, uint32(i), 100+i), 1
		for range 3 {
			if err := w.serve([]readiness{{source: 0}}); err != nil {
				t.Fatal(err)
			}
		}
		k := (sinks[0].sent - 1) % len(sinks[0].last)
		in.msgs[0].N = copy(in.msgs[0].Buf, sinks[0].last[k][:sinks[0].length[k]])
		in.msgs[0].Remote = a.addr
		in.turn(1)
	}
	if peer := b.peers[a.id.Name()]; sinks[0].sent != 20 || peer.FramesIn.Load() != 20 || sinks[1].frames != 20 {
		t.Errorf("%d datagrams left, %d frames came, %d were written, want 20", sinks[0].sent, peer.FramesIn.Load(), sinks[1].frames)
	}
}
