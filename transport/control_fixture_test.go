package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/crypto"
)

// memNet joins hosts by in-memory connections; it works under synctest.
type memNet struct {
	writes    atomic.Int64 // so many there were, on all connections
	mu        sync.Mutex
	listeners map[netip.AddrPort]*memListener
	conns     []*memConn
	dials     []memDial
	port      uint16
	latency   func(from netip.Addr, to netip.AddrPort) time.Duration // of a dial; nil: none
}

type memDial struct {
	from netip.Addr
	to   netip.AddrPort
	at   time.Time
}

func newMemNet() *memNet {
	return &memNet{listeners: make(map[netip.AddrPort]*memListener), port: 40000}
}

type memListener struct {
	net    *memNet
	at     netip.AddrPort
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	fail   atomic.Int64 // so many Accepts fail with EMFILE
	failed []time.Time  // of one accept loop
}

func (n *memNet) listen(at netip.AddrPort) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{net: n, at: at, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[at] = l
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	if l.fail.Load() > 0 {
		l.fail.Add(-1)
		l.failed = append(l.failed, time.Now())
		return nil, syscall.EMFILE
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// memConn is one end of a connection. Once cut, what is written vanishes.
type memConn struct {
	net.Conn
	local, remote netip.AddrPort
	cut           *atomic.Bool
	wrote         atomic.Int64
	writes        *atomic.Int64 // of the whole network
}

func (c *memConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *memConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *memConn) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	c.wrote.Add(int64(len(b)))
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// Close of a cut connection tells the other end nothing.
func (c *memConn) Close() error {
	if c.cut.Load() {
		return c.Conn.SetDeadline(time.Unix(1, 0))
	}
	return c.Conn.Close()
}

func (n *memNet) dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, memDial{from, to, time.Now()})
	l := n.listeners[to]
	n.port++
	local := netip.AddrPortFrom(from, n.port)
	latency := time.Duration(0)
	if n.latency != nil {
		latency = n.latency(from, to)
	}
	n.mu.Unlock()
	if latency > 0 && !sleep(ctx, latency, nil) {
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	a, b := net.Pipe()
	cut := new(atomic.Bool)
	near := &memConn{Conn: a, local: local, remote: to, cut: cut, writes: &n.writes}
	far := &memConn{Conn: b, local: to, remote: local, cut: cut, writes: &n.writes}
	select {
	case l.conns <- far:
		n.mu.Lock()
		n.conns = append(n.conns, near)
		n.mu.Unlock()
		return near, nil
	case <-l.closed:
		a.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		a.Close()
		return nil, ctx.Err()
	}
}

// cutAll makes every connection that exists silent for ever.
func (n *memNet) cutAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.cut.Store(true)
	}
}

func (n *memNet) dialled() []memDial {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]memDial(nil), n.dials...)
}

// testHost is a Control with a Handler that writes down what it hears.
type testHost struct {
	*Control
	t      testing.TB
	id     *crypto.Identity
	addr   netip.AddrPort
	listen *memListener
	net    *memNet
	stop   func() // ends Run and waits

	mu     sync.Mutex
	events []testEvent
	up     map[crypto.Name]*Conn
	clones []crypto.UID
	onUp   func(*Conn)
	onMsg  func(*Conn, MessageKind, []byte)
}

type testEvent struct {
	at    time.Time
	what  string // "up", "down", "message"
	name  crypto.Name
	uid   crypto.UID
	kind  MessageKind
	body  string
	cause error
}

func (h *testHost) note(e testEvent) {
	e.at = time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch e.what {
	case "up":
		if h.up[e.name] != nil {
			h.t.Errorf("%v: ConnUp for %v, which is up", h.id, e.name)
		}
	default:
		if c := h.up[e.name]; c == nil || c.UID() != e.uid {
			h.t.Errorf("%v: %s for %v, which is not up", h.id, e.what, e.name)
		}
		if e.what == "down" {
			delete(h.up, e.name)
		}
	}
	h.events = append(h.events, e)
}

func (h *testHost) ConnUp(c *Conn) {
	h.note(testEvent{what: "up", name: c.Name(), uid: c.UID()})
	h.mu.Lock()
	h.up[c.Name()] = c
	f := h.onUp
	h.mu.Unlock()
	if f != nil {
		f(c)
	}
}

func (h *testHost) ConnMessage(c *Conn, kind MessageKind, body []byte) {
	h.note(testEvent{what: "message", name: c.Name(), uid: c.UID(), kind: kind, body: string(body)})
	h.mu.Lock()
	f := h.onMsg
	h.mu.Unlock()
	if f != nil {
		f(c, kind, body)
	}
}

func (h *testHost) ConnDown(c *Conn, cause error) {
	h.note(testEvent{what: "down", name: c.Name(), uid: c.UID(), cause: cause})
}

func (h *testHost) CloneSuspected(name crypto.Name, other crypto.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name != h.id.Name() {
		h.t.Errorf("clone of %v suspected", name)
	}
	h.clones = append(h.clones, other)
}

// seen are the events of a kind.
func (h *testHost) seen(what string) []testEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []testEvent
	for _, e := range h.events {
		if e.what == what {
			list = append(list, e)
		}
	}
	return list
}

func (h *testHost) suspected() []crypto.UID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]crypto.UID(nil), h.clones...)
}

// testIdentities are n identities by rising name.
func testIdentities(t testing.TB, n int) []*crypto.Identity {
	t.Helper()
	var ids []*crypto.Identity
	for range n {
		seed, err := crypto.NewSeed(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		id, err := crypto.NewIdentity(seed)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for i < len(ids) && ids[i].Name().Compare(id.Name()) < 0 {
			i++
		}
		ids = append(ids[:i], append([]*crypto.Identity{id}, ids[i:]...)...)
	}
	return ids
}

func testNetwork(t testing.TB) *crypto.Network {
	t.Helper()
	n, _, err := crypto.NewNetwork(rand.Reader, crypto.CipherAuto)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var testUID atomic.Uint64

// start runs a host at 10.0.0.last until the test ends. The configuration may be
// changed before.
func (n *memNet) start(t testing.TB, id *crypto.Identity, network *crypto.Network, last byte, change ...func(*ControlConfig)) *testHost {
	t.Helper()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), 6783)
	h := &testHost{t: t, id: id, addr: addr, net: n, listen: n.listen(addr), up: make(map[crypto.Name]*Conn)}
	cfg := ControlConfig{
		Identity: id, Network: network, UID: crypto.UID(testUID.Add(1)), Port: addr.Port(), Handler: h,
		Hello:     func() Hello { return Hello{Nickname: fmt.Sprintf("host %d", last), Software: "test"} },
		Listeners: []net.Listener{h.listen},
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return n.dial(ctx, addr.Addr(), to)
		},
		Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such name") },
		Jitter:  func() float64 { return 0.5 },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := NewControl(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Control = c
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	h.stop = func() { cancel(); <-done }
	t.Cleanup(h.stop)
	return h
}

// wait lets time pass in a synctest bubble until everything has settled.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// target is the status of a host's only target.
func (h *testHost) target() TargetStatus {
	h.t.Helper()
	list := h.Targets()
	if len(list) != 1 {
		h.t.Fatalf("%d targets", len(list))
	}
	return list[0]
}
