package plane

import (
	"net/netip"
	"os"
	"sync"
	"testing"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/tun"
)

// sink is a device and a socket that keep nothing but the last datagrams.
type sink struct {
	frames int
	last   [8][2048]byte
	length [8]int
	sent   int
}

func (s *sink) Name() string                       { return "sink" }
func (s *sink) Queues() []tun.Queue                { return []tun.Queue{s} }
func (s *sink) Capabilities() tun.Capabilities     { return tun.Capabilities{} }
func (s *sink) Close() error                       { return nil }
func (s *sink) ReadBatch([]tun.Frame) (int, error) { return 0, os.ErrClosed }

func (s *sink) WriteBatch(frames []tun.Frame) (int, error) {
	s.frames += len(frames)
	return len(frames), nil
}

// sinkSocket is the socket half: a second type, for Close has another meaning.
type sinkSocket struct{ *sink }

func (s sinkSocket) Receivers() []transport.ReceiveFunc { return nil }
func (s sinkSocket) MaxSegments() int                   { return 64 }
func (s sinkSocket) Port() uint16                       { return 6783 }
func (s sinkSocket) SetDF(bool) error                   { return nil }
func (s sinkSocket) Stats() transport.SocketStats       { return transport.SocketStats{} }

func (s sinkSocket) Send(msgs []transport.Message) int {
	for i := range msgs {
		k := s.sent % len(s.last)
		s.length[k] = copy(s.last[k][:], msgs[i].Bytes())
		s.sent++
	}
	return len(msgs)
}

// carrier hands datagrams over TCP to the plane of another host.
type carrier struct {
	to   *host
	from *Peer
	mu   sync.Mutex
	n    int
}

func (c *carrier) SendDatagram(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.to.Datagram(c.from, append([]byte(nil), b...))
	return true
}

// sinkLab is newLab with every plane over sinks, started by nobody.
func sinkLab(t testing.TB, n int, policy crypto.CipherPolicy) (*lab, []*sink) {
	l := newLab(t, n, policy)
	sinks := make([]*sink, n)
	for i, h := range l.hosts {
		sinks[i] = new(sink)
		cfg := h.cfg
		cfg.Device, cfg.Socket = sinks[i], sinkSocket{sinks[i]}
		h.Plane = New(cfg)
	}
	return l, sinks
}

// sinkRow is sinkLab with three hosts, of which the outer ones reach each other by way of the
// middle one.
func sinkRow(t testing.TB, policy crypto.CipherPolicy) (*lab, []*sink) {
	l, sinks := sinkLab(t, 3, policy)
	a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
	l.session(a, b, true)
	l.session(b, c, true)
	l.session(a, c, false)
	l.publish()
	return l, sinks
}

// TestAllocations: no frame costs an allocation, whichever way it goes.
func TestAllocations(t *testing.T) {
	for _, policy := range policies() {
		l, sinks := sinkRow(t, policy)
		a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
		out := a.newOutbound(0)
		atB, atC := b.newInbound(socketBatch), c.newInbound(socketBatch)
		load := func(to *host, size, n int) {
			for i := range out.frames[:n] {
				f := frame(a, to, uint32(i), size)
				out.frames[i].Off, out.frames[i].Len = tun.Headroom, copy(out.frames[i].Buf[tun.Headroom:], f)
			}
		}
		receive := func(in *inbound, from *sink, remote netip.AddrPort) {
			k := (from.sent - 1) % len(from.last)
			in.msgs[0].N = copy(in.msgs[0].Buf, from.last[k][:from.length[k]])
			in.msgs[0].Remote = remote
			in.turn(1)
		}
		super, o := superFrame(a, b, 25000, 1288) // more segments than load makes frames
		for _, way := range []struct {
			name string
			run  func()
		}{
			{"a large frame to a neighbour", func() { load(b, 1354, 1); out.turn(1); receive(atB, sinks[0], a.addr) }},
			{"small frames to a neighbour", func() { load(b, 100, 8); out.turn(8); receive(atB, sinks[0], a.addr) }},
			{"a super-frame to a neighbour", func() {
				out.frames[0].Off, out.frames[0].Offload = tun.Headroom, o
				out.frames[0].Len = copy(out.frames[0].Buf[tun.Headroom:], super)
				out.turn(1)
				out.frames[0].Offload = tun.Offload{}
				receive(atB, sinks[0], a.addr)
			}},
			{"a frame over a relay", func() {
				load(c, 1200, 1)
				out.turn(1)
				receive(atB, sinks[0], a.addr)
				receive(atC, sinks[1], b.addr)
			}},
			{"a broadcast", func() {
				load(b, 60, 1)
				copy(out.frames[0].Bytes(), "\xff\xff\xff\xff\xff\xff")
				out.turn(1)
			}},
			{"a question for an address", func() {
				load(b, 60, 1)
				copy(out.frames[0].Bytes(), arpQuestion(a, b))
				out.turn(1)
			}},
		} {
			way.run()
			frames := sinks[0].frames + sinks[1].frames + sinks[2].frames + sinks[0].sent
			// load allocates the frames it makes; it is measured apart.
			made := testing.AllocsPerRun(50, func() { load(b, 100, 8) })
			if n := testing.AllocsPerRun(50, way.run); n > made {
				t.Errorf("%s, cipher %s: %.1f allocations, %.1f of them the test's own at most", way.name, policy, n, made)
			}
			if sinks[0].frames+sinks[1].frames+sinks[2].frames+sinks[0].sent == frames {
				t.Errorf("%s, cipher %s: nothing moved; counters %v %v %v", way.name, policy, a.Counters().All(), b.Counters().All(), c.Counters().All())
			}
		}
	}
}

// arpQuestion asks for to's address on behalf of from's endpoint.
func arpQuestion(from, to *host) []byte {
	b := append([]byte{255, 255, 255, 255, 255, 255}, from.mac[:]...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, from.mac[:]...), from.ip.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), to.ip.AsSlice()...)
}

// TestOverTCP: a path over TCP carries frames, probes and relayed datagrams alike.
func TestOverTCP(t *testing.T) {
	for _, policy := range policies() {
		l, sinks := sinkLab(t, 3, policy)
		a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
		l.session(a, b, true)
		l.session(b, c, true)
		l.session(a, c, false)
		for _, pair := range [][2]*host{{a, b}, {b, a}, {b, c}, {c, b}} {
			o := pair[0].outlets[pair[0].peers[pair[1].id.Name()].ID]
			o.Path = transport.Path{Kind: transport.PathTCP}
			o.Carrier = &carrier{to: pair[1], from: pair[1].peers[pair[0].id.Name()]}
		}
		l.publish()
		for i, to := range []*host{b, c} {
			f := frame(a, to, 1, 500)
			out := a.newOutbound(0)
			out.frames[0].Off, out.frames[0].Len = tun.Headroom, copy(out.frames[0].Buf[tun.Headroom:], f)
			out.turn(1)
			if sinks[i+1].frames != 1 {
				t.Errorf("cipher %s: %d frames written; counters %v %v", policy, sinks[i+1].frames, a.Counters().All(), to.Counters().All())
			}
		}
		p := a.peers[b.id.Name()]
		o := a.outlets[p.ID]
		a.SendControl(p, o.Session, o.Path, o.Carrier, []byte("probe"), 0)
		if got := b.events.controls; len(got) != 1 || got[0] != "tcp probe" {
			t.Errorf("cipher %s: control datagrams %q", policy, got)
		}
		if sinks[0].sent != 0 {
			t.Errorf("%d datagrams left over UDP", sinks[0].sent)
		}
	}
}

func BenchmarkFrameToNeighbour(b *testing.B) {
	for _, size := range []int{100, 1354} {
		for _, policy := range policies() {
			b.Run(sizeName(size)+"/"+policy.String(), func(b *testing.B) {
				l, sinks := sinkLab(b, 2, policy)
				x, y := l.hosts[0], l.hosts[1]
				l.session(x, y, true)
				l.publish()
				out, in := x.newOutbound(0), y.newInbound(socketBatch)
				f := frame(x, y, 1, size)
				b.SetBytes(int64(deviceBatch * size))
				for b.Loop() {
					for i := range out.frames {
						out.frames[i].Off, out.frames[i].Len = tun.Headroom, copy(out.frames[i].Buf[tun.Headroom:], f)
					}
					out.turn(deviceBatch)
					k := (sinks[0].sent - 1) % len(sinks[0].last)
					in.msgs[0].N = copy(in.msgs[0].Buf, sinks[0].last[k][:sinks[0].length[k]])
					in.turn(1)
				}
			})
		}
	}
}

func sizeName(n int) string {
	if n < 1000 {
		return "small"
	}
	return "full"
}
