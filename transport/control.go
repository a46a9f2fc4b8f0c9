package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"ripstop/crypto"
)

// Control keeps the control connections of one host: it listens, dials its targets
// and wanted peers for ever, proves every connection by the network's secret, and
// leaves one Conn for each peer.
//
//	listener ─ admission ─┐                                 ┌─ stream (one TCP connection)
//	                      ├─ handshake ─ settle ─▶ peer ─ Conn ─ ...  the one that counts
//	targets, wanted ─ dial┘        self, clones,            └─ stream (being retired)
//	                               restarts, crossing
//
// Settling: once both ends of an authenticated connection have said that they want it,
// the peer with the lower name decides and says so on that connection, with a number;
// the other waits for that.
// Of two crossing connections the one dialled by the lower name stays. The Conn that
// the Handler sees goes on over the change, with its queues, so no message is lost.
type Control struct {
	cfg       ControlConfig
	name      crypto.Name
	listeners []net.Listener
	counts    counters
	wg        sync.WaitGroup // everything that Run started
	clone     sync.Once      // one call of Handler.CloneSuspected
	started   time.Time

	mu          sync.Mutex
	ctx         context.Context          // of Run; nil before; guarded by mu
	closing     bool                     // guarded by mu
	admission   admission                // guarded by mu
	settlements uint64                   // decided so far, as the lower name; guarded by mu
	pending     []*pending               // unauthenticated accepted connections, oldest first; guarded by mu
	streams     map[*stream]struct{}     // authenticated; guarded by mu
	peers       map[crypto.Name]*peer    // guarded by mu
	targets     map[string]*dialler      // by Target.String(), or the text that could not be parsed; guarded by mu
	order       []string                 // of targets, as told; guarded by mu
	wanted      map[crypto.Name]*dialler // guarded by mu
}

// ControlConfig says who this host is and where it listens.
type ControlConfig struct {
	Identity *crypto.Identity // required
	Network  *crypto.Network  // required
	UID      crypto.UID       // of this run; required
	Listen   []netip.AddrPort // TCP; none: the wildcard addresses at Port
	Port     uint16           // default port of Listen (where it says 0), of targets and of the Hello
	Hello    func() Hello     // called at each handshake; UID, Age, Observed and a zero Port are filled in here; required
	Features uint32           // capability bits told to the peer
	Handler  Handler          // required
	Log      *slog.Logger     // nil: nothing is logged

	// Refuse says which addresses are never dialled and never accepted from,
	// because they lie inside the overlay; nil: none.
	Refuse func(netip.Addr) bool

	// Listeners replace Listen when not nil (in-memory networks, sockets passed in).
	Listeners []net.Listener
	// Dial makes the connection to an address; nil: TCP.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Resolve looks a target's name up; nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	Random  io.Reader      // nil: crypto/rand
	Jitter  func() float64 // from 0 up to 1, for back-off; nil: math/rand
}

// Handler hears of connections. Calls for one peer never overlap: ConnUp, then
// messages, then ConnDown, and only then the next ConnUp. They come from the
// connections' goroutines and must not block for long: until they return nothing
// more is read from that peer. They may call methods of Conn and Control.
type Handler interface {
	// ConnUp: c is authenticated and settled; it is the only Conn of its peer.
	ConnUp(c *Conn)
	// ConnMessage: kind is MessageGossip, MessageSession or MessageDatagram. body is
	// valid during the call and may be changed.
	ConnMessage(c *Conn, kind MessageKind, body []byte)
	// ConnDown: c is gone, and why. ErrRestarted: the peer's next run is about to come up.
	ConnDown(c *Conn, cause error)
	// CloneSuspected: another process with this host's key (name is our own), started
	// before us, has just proved that it lives: we must end. Called once at most.
	CloneSuspected(name crypto.Name, other crypto.UID)
}

// Causes that ConnDown gives, wrapped or as they are. What ends by a call of ours
// or by the end of Run also is net.ErrClosed.
var (
	ErrRestarted  = errors.New("the peer was started again")
	ErrCloned     = errors.New("another process has the same key and was there before")
	ErrSilent     = errors.New("nothing heard any more")
	ErrPeerClosed = errors.New("closed by the peer")
)

// NewControl checks cfg and listens at once.
func NewControl(cfg ControlConfig) (*Control, error) {
	switch {
	case cfg.Identity == nil, cfg.Network == nil, cfg.Hello == nil, cfg.Handler == nil:
		return nil, errors.New("transport: new control: identity, network, hello and handler are required")
	case cfg.UID == 0:
		return nil, errors.New("transport: new control: uid 0")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Jitter == nil {
		cfg.Jitter = mathrand.Float64
	}
	if cfg.Refuse == nil {
		cfg.Refuse = func(netip.Addr) bool { return false }
	}
	if cfg.Dial == nil {
		cfg.Dial = tcpDial(cfg.Listen)
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	c := &Control{
		cfg:     cfg,
		name:    cfg.Identity.Name(),
		started: time.Now(),
		streams: make(map[*stream]struct{}),
		peers:   make(map[crypto.Name]*peer),
		targets: make(map[string]*dialler),
		wanted:  make(map[crypto.Name]*dialler),
	}
	if cfg.Listeners != nil {
		c.listeners = cfg.Listeners
		return c, nil
	}
	listen := cfg.Listen
	if len(listen) == 0 {
		listen = []netip.AddrPort{{}}
	}
	for _, at := range listen {
		if err := c.listen(at); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// listen opens one TCP socket; the invalid address means the wildcard of both families.
func (c *Control) listen(at netip.AddrPort) error {
	port := at.Port()
	if port == 0 {
		port = c.cfg.Port
	}
	where := fmt.Sprintf(":%d", port)
	if at.Addr().IsValid() {
		where = netip.AddrPortFrom(at.Addr(), port).String()
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", where)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("transport: listen on TCP %s: another program, or another ripstop, has this port: %w", where, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("transport: listen on TCP %s: this host does not have that address: %w", where, err)
	case err != nil:
		return fmt.Errorf("transport: listen on TCP %s: %w", where, err)
	}
	c.listeners = append(c.listeners, l)
	return nil
}

// Addrs are the addresses that are listened on, with the ports the kernel chose.
func (c *Control) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, l := range c.listeners {
		addrs = append(addrs, addrPortOf(l.Addr()))
	}
	return addrs
}

// Close stops listening. Run does so when it ends; Close is for a Control that is
// never run.
func (c *Control) Close() error {
	var errs []error
	for _, l := range c.listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run accepts and dials until ctx is done, tells every peer that it ends, and
// returns nil when all it started has ended. It is called once.
func (c *Control) Run(ctx context.Context) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	if c.ctx != nil || c.closing {
		c.mu.Unlock()
		return errors.New("transport: run control: called twice")
	}
	c.ctx = run
	for _, d := range c.targets {
		c.startLocked(d)
	}
	for _, d := range c.wanted {
		c.startLocked(d)
	}
	for _, l := range c.listeners {
		c.wg.Go(func() { c.accept(run, l) })
	}
	c.mu.Unlock()

	<-ctx.Done()
	c.mu.Lock()
	c.closing = true
	for _, p := range c.pending {
		p.nc.Close()
	}
	for s := range c.streams {
		s.finish(closeShutdown, errShutdown)
	}
	c.mu.Unlock()
	c.Close()
	c.wg.Wait()
	return nil
}

// errShutdown ends connections when Run ends.
var errShutdown = fmt.Errorf("this host shuts down: %w", net.ErrClosed)

// Conns are the peers connected now, sorted by name.
func (c *Control) Conns() []*Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	var conns []*Conn
	for _, p := range c.peers {
		if p.conn != nil {
			conns = append(conns, p.conn)
		}
	}
	slices.SortFunc(conns, func(a, b *Conn) int { return a.name.Compare(b.name) })
	return conns
}

// Conn is the connection of a peer, or nil.
func (c *Control) Conn(name crypto.Name) *Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[name]; p != nil {
		return p.conn
	}
	return nil
}

// Counters are the events counted since the start, by reason.
func (c *Control) Counters() map[string]uint64 { return c.counts.read() }

// hello is this host's Hello toward remote.
func (c *Control) hello(remote netip.AddrPort) []byte {
	h := c.cfg.Hello()
	h.UID, h.Age, h.Observed = c.cfg.UID, time.Since(c.started), remote
	if h.Port == 0 {
		h.Port = c.cfg.Port
	}
	return h.Append(nil)
}

// addrPortOf is a net.Addr as a value; the zero value for what is no address and port.
func addrPortOf(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// sleep waits for d; false when ctx ended or wake came first with ctx ended.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
