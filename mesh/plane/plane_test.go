package plane

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/transport/transporttest"
	"ripstop/tun"
	"ripstop/tun/tuntest"
)

// host is one plane with an in-memory device and socket.
type host struct {
	*Plane
	id     *crypto.Identity
	addr   netip.AddrPort
	device *tuntest.Device
	socket *transporttest.Socket
	events *recorder
	mac    route.MAC // of its one endpoint
	mtu    uint16    // likewise
	ip     netip.Addr

	peers    map[crypto.Name]*Peer
	outlets  []*Outlet
	sessions map[uint32]*Receiver
}

// recorder notes what a plane tells its owner.
type recorder struct {
	mu         sync.Mutex
	controls   []string
	handshakes []string
	strange    []netip.AddrPort
	tooBig     []string
	wakes      int
}

func (r *recorder) Control(p *Peer, s *crypto.Session, path transport.Path, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.controls = append(r.controls, fmt.Sprintf("%s %s", path, body))
}

func (r *recorder) TooBig(remote netip.AddrPort, size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tooBig = append(r.tooBig, fmt.Sprintf("%s %d", remote, size))
}

func (r *recorder) Handshake(from crypto.ShortName, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handshakes = append(r.handshakes, string(body))
}

func (r *recorder) Strange(p *Peer, remote netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strange = append(r.strange, remote)
}

func (r *recorder) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakes++
}

// lab is some hosts on one in-memory network.
type lab struct {
	t       testing.TB
	network *crypto.Network
	net     *transporttest.Network
	hosts   []*host
	index   uint32
	links   []route.Link
}

func newLab(t testing.TB, n int, policy crypto.CipherPolicy) *lab {
	t.Helper()
	network, _, err := crypto.NewNetwork(rand.Reader, policy)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, network: network, net: transporttest.NewNetwork(transporttest.Config{Seed: 1, MTU: 1500})}
	for i := range n {
		l.hosts = append(l.hosts, l.host(i))
	}
	return l
}

func (l *lab) host(i int) *host {
	seed, err := crypto.NewSeed(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	id, err := crypto.NewIdentity(seed)
	if err != nil {
		l.t.Fatal(err)
	}
	h := &host{
		id:       id,
		addr:     netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 6783),
		device:   tuntest.NewDevice(tuntest.Config{Queues: 2}),
		events:   new(recorder),
		mac:      route.MAC{2, 0, 0, 0, 0, byte(i + 1)},
		ip:       netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
		peers:    make(map[crypto.Name]*Peer),
		outlets:  make([]*Outlet, 16),
		sessions: make(map[uint32]*Receiver),
	}
	if h.socket, err = l.net.Socket(h.addr); err != nil {
		l.t.Fatal(err)
	}
	h.Plane = New(Config{
		Device: h.device, Socket: h.socket, Switch: route.NewSwitch(route.SwitchConfig{}),
		Self: id.Name(), Events: h.events, Log: slog.New(slog.DiscardHandler),
	})
	return h
}

// session makes the session of two hosts. direct says that they have a path.
func (l *lab) session(a, b *host, direct bool) {
	l.t.Helper()
	l.index += 2
	ciphers := crypto.LocalCiphers(l.network.Policy())
	pending, m1, err := crypto.InitiateSession(crypto.SessionConfig{
		Identity: a.id, Network: l.network, Random: rand.Reader, Peer: b.id.Public(),
		Self: 1, PeerUID: 2, Attempt: 1, Index: l.index, Ciphers: ciphers,
	})
	if err != nil {
		l.t.Fatal(err)
	}
	request, err := crypto.ReadSessionRequest(b.id, l.network, m1)
	if err != nil {
		l.t.Fatal(err)
	}
	sb, m2, err := request.Accept(rand.Reader, l.index+1, ciphers)
	if err != nil {
		l.t.Fatal(err)
	}
	sa, err := pending.Finish(m2)
	if err != nil {
		l.t.Fatal(err)
	}
	a.learn(b, sa, direct)
	b.learn(a, sb, direct)
	if direct {
		l.links = append(l.links, route.Link{A: a.id.Name(), B: b.id.Name()}, route.Link{A: b.id.Name(), B: a.id.Name()})
	}
}

func (h *host) learn(o *host, s *crypto.Session, direct bool) {
	p := NewPeer(route.PeerID(len(h.peers)+1), o.id.Name())
	h.peers[p.Name] = p
	h.outlets[p.ID] = &Outlet{Peer: p, Session: s, Limit: 1472, RelayLimit: 1472 - transport.RelayLen}
	if direct {
		h.outlets[p.ID].Path = transport.DirectPath(o.addr)
		h.outlets[p.ID].Verified = []netip.AddrPort{o.addr}
	}
	h.sessions[s.Local] = &Receiver{Session: s, Peer: p}
}

// trains lets every path carry trains of n datagrams.
func (l *lab) trains(n int) {
	for _, h := range l.hosts {
		for _, o := range h.outlets {
			if o != nil {
				o.Train = n
			}
		}
	}
}

// publish gives every host its snapshot, and runs the planes until stop.
func (l *lab) publish() {
	var endpoints []route.Endpoint
	for _, h := range l.hosts {
		endpoints = append(endpoints, route.Endpoint{MAC: h.mac, MTU: h.mtu, Addresses: []netip.Addr{h.ip}, Host: h.id.Name(), Claim: 1})
	}
	for _, h := range l.hosts {
		ids, up := make(map[crypto.Name]route.PeerID), make(map[crypto.Name]bool)
		for name, p := range h.peers {
			ids[name] = p.ID
			up[name] = h.outlets[p.ID].Path.Kind != 0
		}
		h.SetSnapshot(&Snapshot{
			Table: route.Build(route.TableConfig{
				Self: h.id.Name(), Peers: ids, Graph: route.BuildGraph(h.id.Name(), l.links), LinksUp: up, Endpoints: endpoints,
			}),
			Outlets: h.outlets, Sessions: h.sessions,
		})
	}
}

// run runs the planes during f.
func (l *lab) run(f func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, h := range l.hosts {
		wg.Go(func() {
			if err := h.Run(ctx); err != nil {
				l.t.Errorf("plane ended: %v", err)
			}
		})
	}
	defer func() {
		cancel()
		wg.Wait()
		l.net.Close()
	}()
	f()
}

// frame is a UDP frame of size bytes from one host's endpoint to another's, told
// apart by number.
func frame(from, to *host, number uint32, size int) []byte {
	b := make([]byte, max(size, 46))
	copy(b, to.mac[:])
	copy(b[6:], from.mac[:])
	b[12], b[13] = 8, 0
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-14))
	copy(ip[12:], from.ip.AsSlice())
	copy(ip[16:], to.ip.AsSlice())
	binary.BigEndian.PutUint32(b[42:], number)
	return b
}

// expect takes frames from the device until want came, in any order.
func (l *lab) expect(h *host, want ...[]byte) {
	l.t.Helper()
	synctest.Wait()
	for range want {
		got, ok := h.device.Taken()
		if !ok {
			l.t.Fatalf("a frame is missing; counters %v", h.Counters().All())
		}
		found := false
		for _, w := range want {
			found = found || bytes.Equal(got.Bytes, w)
		}
		if !found {
			l.t.Fatalf("unexpected frame %x", got.Bytes)
		}
	}
	if got, ok := h.device.Taken(); ok {
		l.t.Fatalf("a frame too many: %x", got.Bytes)
	}
}

func policies() []crypto.CipherPolicy {
	return []crypto.CipherPolicy{crypto.CipherAuto, crypto.CipherNone}
}

func TestDirect(t *testing.T) {
	for _, policy := range policies() {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2, policy)
				a, b := l.hosts[0], l.hosts[1]
				l.session(a, b, true)
				l.publish()
				l.run(func() {
					for i, size := range []int{46, 100, 1354, 9014, 60000} {
						f := frame(a, b, uint32(i), size)
						a.device.Inject(f)
						l.expect(b, f)
						f = frame(b, a, uint32(i), size)
						b.device.Inject(f)
						l.expect(a, f)
					}
				})
			})
		})
	}
}

func TestRelayed(t *testing.T) {
	for _, policy := range policies() {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 4, policy)
				for i := range 3 {
					l.session(l.hosts[i], l.hosts[i+1], true)
				}
				l.session(l.hosts[0], l.hosts[3], false)
				l.session(l.hosts[0], l.hosts[2], false)
				l.session(l.hosts[1], l.hosts[3], false)
				l.publish()
				a, d := l.hosts[0], l.hosts[3]
				l.run(func() {
					for i := range uint32(5) {
						f := frame(a, d, i, 200)
						a.device.Inject(f)
						l.expect(d, f)
						f = frame(d, a, i, 1354)
						d.device.Inject(f)
						l.expect(a, f)
					}
					for _, relay := range l.hosts[1:3] {
						if n := relay.Counters().All()["datagrams_relayed"]; n != 10 {
							t.Errorf("relayed %d datagrams, want 10", n)
						}
					}
					// A broadcast reaches each of the others exactly once.
					f := frame(a, d, 99, 60)
					copy(f, bytes.Repeat([]byte{0xff}, 6))
					a.device.Inject(f)
					for _, h := range l.hosts[1:] {
						l.expect(h, f)
					}
					if !a.SendRequest(d.id.Name(), []byte("request")) || !a.SendHandshake(d.id.Name(), []byte("a handshake message")) {
						t.Error("nothing sent")
					}
					synctest.Wait()
					if got := fmt.Sprint(d.events.controls, d.events.handshakes); got != "[path kind 0 request] [a handshake message]" {
						t.Errorf("the other end heard %s", got)
					}
					for _, relay := range l.hosts[1:3] {
						if n := relay.Counters().All()["control_relayed"]; n != 2 {
							t.Errorf("relayed %d of the two", n)
						}
					}
				})
			})
		})
	}
}

// TestSmallFramesShare: frames that were read together and go to one peer share
// datagrams, and arrive in order.
func TestSmallFramesShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		const frames = 30
		for i := range uint32(frames) {
			a.device.InjectOffload(0, frame(a, b, i, 100), tun.Offload{})
		}
		l.run(func() {
			synctest.Wait()
			for i := range uint32(frames) {
				got, ok := b.device.Taken()
				if !ok || binary.BigEndian.Uint32(got.Bytes[42:]) != i {
					t.Fatalf("frame %d: %v", i, ok)
				}
			}
			if n := a.Counters().All()["datagrams_out"]; n > frames/5 {
				t.Errorf("%d frames of 100 bytes took %d datagrams", frames, n)
			}
		})
	})
}

// TestTampered: a datagram changed anywhere, repeated, or sent to another is
// dropped under a name, and the ones around it arrive.
func TestTampered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, crypto.CipherAuto)
		a, b, c := l.hosts[0], l.hosts[1], l.hosts[2]
		l.session(a, b, true)
		l.session(b, c, true)
		l.session(a, c, false)
		l.publish()
		// The wire between a and b is a socket of ours.
		tap, err := l.net.Socket(netip.MustParseAddrPort("192.0.2.99:6783"))
		if err != nil {
			t.Fatal(err)
		}
		b.outlets[b.peers[a.id.Name()].ID].Path = transport.DirectPath(tap.AddrPort())
		a.outlets[a.peers[b.id.Name()].ID].Path = transport.DirectPath(tap.AddrPort())
		l.run(func() {
			flipped := uint64(0)
			catch := func() []byte {
				synctest.Wait()
				m := []transport.Message{{Buf: make([]byte, 1<<16)}}
				if _, err := tap.Receivers()[0](m); err != nil {
					t.Fatal(err)
				}
				return m[0].Bytes()
			}
			give := func(h *host, datagram []byte) {
				d := bytes.Clone(datagram)
				if tap.Send([]transport.Message{{Buf: d, N: len(d), Remote: h.addr}}) != 1 {
					t.Fatal("not sent")
				}
				synctest.Wait()
			}
			for _, to := range []*host{b, c} {
				f := frame(a, to, 7, 120)
				a.device.Inject(f)
				datagram := catch()
				for bit := range len(datagram) * 8 {
					// A hop's tag covers the inner seal's tag, not what that covers: a
					// changed payload is forwarded once, and refused where it ends.
					if at := bit / 8; to == c && at >= transport.RelayLen+transport.HeaderLen && at < len(datagram)-transport.TagLen {
						continue
					}
					forged := bytes.Clone(datagram)
					forged[bit/8] ^= 1 << (bit % 8)
					flipped++
					give(b, forged)
				}
				give(b, datagram[:len(datagram)-1])
				flipped += 1
				l.expect(b)
				l.expect(c)
				give(b, datagram)
				l.expect(to, f)
				give(b, datagram)
				give(c, datagram)
				l.expect(to)
			}
			if got := b.Counters().All()["drop_datagram_replayed"]; got < 2 {
				t.Errorf("%d replays counted, want 2 at least: %v", got, b.Counters().All())
			}
			total := uint64(0)
			for name, n := range b.Counters().All() {
				if len(name) > 5 && name[:5] == "drop_" {
					total += n
				}
			}
			if want := flipped + 2; total != want {
				t.Errorf("%d drops counted of %d: %v", total, want, b.Counters().All())
			}
		})
	})
}

// TestConfirmationAndStrangeAddress: the first datagram under a session confirms
// it, and one from another address is reported, at most ten times a second.
func TestConfirmationAndStrangeAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		time.Sleep(time.Second)
		l.run(func() {
			if err := a.socket.Move(a.addr.Addr(), netip.MustParseAddr("192.0.2.77")); err != nil {
				t.Fatal(err)
			}
			for i := range uint32(20) {
				f := frame(a, b, i, 100)
				a.device.Inject(f)
				l.expect(b, f)
			}
			b.events.mu.Lock()
			defer b.events.mu.Unlock()
			if len(b.events.strange) != 1 || b.events.strange[0].Addr() != netip.MustParseAddr("192.0.2.77") {
				t.Errorf("strange addresses %v, want the new one once", b.events.strange)
			}
			if b.events.wakes != 1 {
				t.Errorf("woken %d times, want once for the confirmation", b.events.wakes)
			}
			for _, r := range b.sessions {
				if !r.Confirmed() {
					t.Error("the session is not confirmed")
				}
			}
		})
	})
}

// TestClearNeedsItsAddress: in a network without a cipher a datagram from anywhere
// but the peer's verified address is dropped.
func TestClearNeedsItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherNone)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		l.run(func() {
			if err := a.socket.Move(a.addr.Addr(), netip.MustParseAddr("192.0.2.77")); err != nil {
				t.Fatal(err)
			}
			a.device.Inject(frame(a, b, 1, 100))
			l.expect(b)
			if n := b.Counters().All()["drop_datagram_address"]; n != 1 {
				t.Errorf("counters %v", b.Counters().All())
			}
		})
	})
}

// TestNoSession: a frame for a host without a session is counted and makes one wanted.
func TestNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, crypto.CipherAuto)
		a, b := l.hosts[0], l.hosts[1]
		l.session(a, b, true)
		l.publish()
		p := a.peers[b.id.Name()]
		a.outlets[p.ID].Session = nil
		l.run(func() {
			a.device.Inject(frame(a, b, 1, 100))
			l.expect(b)
			if !p.TakeWanted() || p.TakeWanted() {
				t.Error("the session is not wanted once")
			}
			if n := a.Counters().All()["drop_no_session"]; n != 1 {
				t.Errorf("counters %v", a.Counters().All())
			}
		})
	})
}
