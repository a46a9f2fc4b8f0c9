package plane

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/tun"
)

// seen takes the bodies of control datagrams that a host has got.
func (h *host) seen() []string {
	synctest.Wait()
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	var bodies []string
	for _, c := range h.events.controls {
		_, body, _ := strings.Cut(c, ":6783 ")
		bodies = append(bodies, body)
	}
	h.events.controls = nil
	return bodies
}

// Probes of sizes are as long as they should be, and what this host does not send is told.
func TestSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		if err := a.socket.SetDF(true); err != nil {
			t.Fatal(err)
		}
		to := a.outlets[1]
		l.run(func() {
			for _, size := range []int{0, 20, 64, 1232, 1472} {
				if !a.SendControl(to.Peer, to.Session, to.Path, nil, []byte("probe"), size) {
					t.Fatalf("%d bytes are not sent", size)
				}
				bodies := b.seen()
				if len(bodies) != 1 || len(bodies[0]) != max(size-32, 5) || strings.TrimRight(bodies[0], "\x00") != "probe" {
					t.Fatalf("padded to %d bytes: %q", size, bodies)
				}
			}
			if a.SendControl(to.Peer, to.Session, to.Path, nil, []byte("probe"), 1473) {
				t.Error("a datagram longer than the interface's MTU is said to have left")
			}
			if n := a.Counters().All()["drop_send_error"]; n != 0 {
				t.Errorf("%d sizes that were tried count as drops", n)
			}
			if a.SendControl(to.Peer, to.Session, to.Path, nil, make([]byte, maxControl+1), 0); len(b.seen()) != 0 {
				t.Error("a body longer than allowed was sent")
			}
		})
	})
}

func TestNumberedTrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		a.socket.SetDF(true)
		to := a.outlets[1]
		l.run(func() {
			for _, c := range []struct{ count, size, last int }{{1, 1472, 1472}, {8, 1472, 1472}, {8, 1472, 736}, {64, 1015, 1015}, {64, 1015, 44}} {
				train := transport.TrainOut{ID: 7, Path: to.Path, Count: c.count, Size: c.size, Last: c.last}
				if !a.SendTrain(to.Peer, to.Session, train) {
					t.Fatalf("%+v is not sent", c)
				}
				bodies := b.seen()
				if len(bodies) != c.count {
					t.Fatalf("%+v: %d datagrams came", c, len(bodies))
				}
				for i, body := range bodies {
					want := c.size
					if i == c.count-1 {
						want = c.last
					}
					piece, err := transport.ParseTrainPiece([]byte(body))
					if err != nil || piece != (transport.TrainPiece{ID: 7, Place: uint8(i), Count: uint8(c.count)}) || len(body) != want-32 {
						t.Fatalf("%+v: number %d is %+v of %d bytes, %v", c, i, piece, len(body), err)
					}
				}
			}
			if a.SendTrain(to.Peer, to.Session, transport.TrainOut{Path: to.Path, Count: 8, Size: 1473, Last: 1473}) {
				t.Error("a train longer than the interface's MTU is said to have left")
			}
		})
	})
}

// A frame that this host does not send is told with its size.
func TestTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		a.outlets[1].Limit = 4000
		l.publish()
		a.socket.SetDF(true)
		l.run(func() {
			a.device.Inject(frame(a, b, 1, 2000))
			synctest.Wait()
			a.events.mu.Lock()
			defer a.events.mu.Unlock()
			if want := fmt.Sprintf("%s %d", b.addr, 2000+overhead); len(a.events.tooBig) != 1 || a.events.tooBig[0] != want {
				t.Errorf("told %q, want %q", a.events.tooBig, want)
			}
		})
	})
}

func TestLimit(t *testing.T) {
	to, hop := &Outlet{Limit: 1472, RelayLimit: 1424}, &Outlet{Limit: 8972}
	for _, c := range []struct {
		to, hop *Outlet
		want    int
	}{
		{to, to, 1472}, {to, hop, 1424}, {to, &Outlet{Limit: 1252}, 1204}, {to, &Outlet{}, plainLimit},
		{&Outlet{}, hop, plainLimit}, {hop, hop, 8972},
	} {
		if got := limit(c.to, c.hop); got != c.want {
			t.Errorf("%+v by way of %+v: %d, want %d", c.to, c.hop, got, c.want)
		}
	}
	if got := limit(&Outlet{}, &Outlet{}); got != plainLimit {
		t.Errorf("unknown: %d", got)
	}
}

// TestLongerThanReceiver: what the receiver's interface does not take is answered at once,
// whether it is a frame or the datagrams of a super-frame; TCP super-frames pass.
func TestLongerThanReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		b.mtu = 1000
		l.session(a, b, true)
		l.publish()
		datagrams := func(size int) ([]byte, tun.Offload) {
			f := frame(a, b, 1, 14+20+8+3*size)
			binary.BigEndian.PutUint16(f[38:], uint16(len(f)-34))
			binary.BigEndian.PutUint16(f[24:], ^sum16(f[14:34]))
			return f, tun.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6, HeaderLen: 42, Type: tun.GSOUDP, SegmentSize: uint16(size)}
		}
		l.run(func() {
			f := frame(a, b, 1, 1014)
			a.device.Inject(f)
			l.expect(b, f)
			for i, inject := range []func(){
				func() { a.device.Inject(frame(a, b, 1, 1015)) },
				func() { f, o := datagrams(973); a.device.InjectOffload(0, f, o) },
			} {
				inject()
				synctest.Wait()
				got, ok := a.device.Taken()
				if !ok || len(got.Bytes) < 70 || got.Bytes[23] != 1 || got.Bytes[34] != 3 || got.Bytes[35] != 4 {
					t.Errorf("%d: answered by %x, %v", i, got.Bytes, ok)
				}
				l.expect(b)
			}
			passed := func(what string, f []byte, o tun.Offload) {
				a.device.InjectOffload(0, f, o)
				synctest.Wait()
				n := 0
				for _, ok := b.device.Taken(); ok; _, ok = b.device.Taken() {
					n++
				}
				if n == 0 {
					t.Errorf("%s: nothing came", what)
				}
				l.expect(a)
			}
			f, o := datagrams(972)
			passed("datagrams", f, o)
			f, o = superFrame(a, b, 20000, 900)
			passed("TCP", f, o)
		})
	})
}

// TestNoLimitIsTooSmall: a figure that no path measures, which some host of the network has
// made up, does not end what is relayed.
func TestNoLimitIsTooSmall(t *testing.T) {
	for _, limit := range []int{-47, 1, 60, 200} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, 3, crypto.CipherAuto)
			a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
			l.session(a, b, true)
			l.session(b, c, true)
			l.session(a, c, false)
			a.outlets[a.peers[c.id.Name()].ID].RelayLimit = limit
			l.publish()
			l.run(func() {
				for n, size := range []int{46, 1354, 9014} {
					f := frame(a, c, uint32(n), size)
					a.device.Inject(f)
					l.expect(c, f)
				}
			})
		})
	}
}

// TestWayIsWhatIsSent: the size of frames that go in one datagram, as it is told, is that
// of those which do, directly and relayed; where nothing would be sent, that is told.
func TestWayIsWhatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, crypto.CipherAuto)
		a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
		l.session(a, b, true)
		l.session(b, c, true)
		l.session(a, c, false)
		toB, toC := a.peers[b.id.Name()], a.peers[c.id.Name()]
		a.outlets[toB.ID].Limit = 1472
		a.outlets[toC.ID].RelayLimit = 1300
		l.publish()
		l.run(func() {
			for _, to := range []struct {
				*host
				peer     *Peer
				datagram int
			}{{b, toB, 1472}, {c, toC, 1300}} {
				w := a.Snapshot().Way(to.peer.ID, 7)
				if w.To == nil || w.To.Peer != to.peer || w.Hop == nil || w.Hop.Peer != toB || w.Datagram != to.datagram {
					t.Fatalf("the way to %v is told as %+v", to.addr, w)
				}
				for size, want := range map[int]uint64{w.Frame: 0, w.Frame + 1: 1} {
					before := a.Counters().All()["frames_fragmented"]
					f := frame(a, to.host, uint32(size), size)
					a.device.Inject(f)
					l.expect(to.host, f)
					if got := a.Counters().All()["frames_fragmented"] - before; got != want {
						t.Errorf("of %d bytes %d frames went in pieces, want %d", size, got, want)
					}
				}
			}
		})
		if w := a.Snapshot().Way(99, 0); w.To != nil || w.Hop != nil {
			t.Errorf("nobody is told as %+v", w)
		}
		a.outlets[toB.ID].Session = nil
		l.publish()
		if w := a.Snapshot().Way(toC.ID, 0); w.To == nil || w.Hop != nil {
			t.Errorf("without a session with the relay it is told as %+v", w)
		}
	})
}
