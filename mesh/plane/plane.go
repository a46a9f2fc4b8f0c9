// Package plane moves frames: from the device to other hosts, from other hosts
// to the device, and past this host for those who cannot reach each other.
//
//	outbound, of each device queue
//
//	  tun.Queue      route.Switch        one lane a peer          arena, equal datagrams side by side
//	  ReadBatch ──▶ FromLocal ──▶ to peer ──▶ lane ──▶ [cut | join | pieces] ──▶ Channel.Seal ──▶ [relay header] ──▶ Send
//	                  ├─▶ copies ───────────▶ lanes of all hosts
//	                  ├─▶ answer ─▶ WriteBatch (ARP, ND)
//	                  └─▶ drop, counted
//
//	inbound, of each socket (and of each TCP connection that carries data)
//
//	  ReceiveFunc ──▶ type? ── data ─────▶ Channel.Open ─▶ records ─▶ [pieces] ─▶ route.Switch.FromPeer ─▶ [join] ─▶ WriteBatch
//	                   ├────── control ──▶ Channel.Open ─▶ Events.Control (probes, requests)
//	                   └────── relay ────▶ Channel.Check ─▶ for us: as above, without the relay header
//	                                                     └▶ for others: next hop, new tag ─▶ Send
//
// A worker, one goroutine, serves a device queue and its share of the sockets by turns
// (worker.go). Both ways run to completion: no channel, no lock shared between peers, no
// allocation and no log line for a frame. They read one immutable Snapshot a
// batch; whoever owns the truth (mesh.Node) stores a new one when something
// changed. What is not delivered is counted under a name (Counters).
//
// Buffers: datagrams are built side by side in an arena that stays in a core's cache; those
// of one length leave as one train. A frame is copied there and sealed in place. The
// segments of a super-frame are laid in its own buffer (offload.Super.Lay) and sealed from
// there into the arena: no copy. A datagram received is opened in its own
// buffer and its frames are written from there: those of one train by one gathering
// write, in which a checksum is neither computed nor verified.
//
// Read worker.go, outbound.go, order.go and inbound.go first, then sender.go (trains, relay headers),
// fragment.go (frames longer than their path carries), rehearsal.go (what a worker does
// when it looks in vain) and snapshot.go.
package plane

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
)

// Batch sizes: how many frames one turn of a loop takes at most.
const (
	deviceBatch = 64
	socketBatch = 32
)

// Config says what a Plane works with. All fields but Log and Nice are required.
type Config struct {
	Device tun.Device
	Socket transport.Socket
	Switch *route.Switch
	VNI    route.VNI // the network that Device belongs to
	Self   crypto.Name
	Events Events
	Log    *slog.Logger
	Nice   int // of a worker's thread while super-frames go by, -20 to 19 (setpriority(2)), where it may be set; 0: as it is
}

// Events is what the loops tell the owner of the sessions. The calls come from
// the loops and must not block.
type Events interface {
	// Control hands over an opened control datagram: a probe, a request or a
	// reply. path is where it came from, the zero Path when it was relayed.
	// body is valid during the call.
	Control(peer *Peer, session *crypto.Session, path transport.Path, body []byte)
	// Handshake hands over a session message that came relayed; from is only what
	// the relay header says. body is valid during the call.
	Handshake(from crypto.ShortName, body []byte)
	// Strange says that an authenticated datagram of peer came from an address
	// that is not its path's.
	Strange(peer *Peer, remote netip.AddrPort)
	// TooBig says that this host refused to send a datagram of size bytes to remote in
	// one packet. Not every one is told.
	TooBig(remote netip.AddrPort, size int)
	// Wake says that a peer's flags changed: a session was confirmed or is wanted.
	Wake()
}

// Plane is the workers and what they share.
type Plane struct {
	cfg          Config
	start        time.Time
	snapshot     atomic.Pointer[Snapshot]
	counters     Counters
	queues       []tun.Queue
	capabilities tun.Capabilities
	closed       atomic.Bool
	toldTooBig   atomic.Int64 // plane clock plus 1: last Events.TooBig; 0: never

	control struct {
		sync.Mutex // guards the others
		buf        []byte
		msgs       [1]transport.Message
		aead       crypto.Scratch
	}
}

// New makes a Plane that drops everything until it is given a Snapshot.
func New(cfg Config) *Plane {
	p := &Plane{cfg: cfg, start: time.Now(), queues: cfg.Device.Queues(), capabilities: cfg.Device.Capabilities()}
	p.snapshot.Store(&Snapshot{})
	p.control.buf = make([]byte, tun.BufferSize)
	return p
}

// SetSnapshot publishes s: the next batch of every loop reads it.
func (p *Plane) SetSnapshot(s *Snapshot) { p.snapshot.Store(s) }

// Snapshot is what the next batch of every loop reads.
func (p *Plane) Snapshot() *Snapshot { return p.snapshot.Load() }

// Counters are the plane's counters, running.
func (p *Plane) Counters() *Counters { return &p.counters }

// Now is the plane's clock in nanoseconds, as Peer.Heard and Peer.Sent use it.
func (p *Plane) Now() int64 { return int64(time.Since(p.start)) }

// Time turns a reading of the plane's clock into a time.
func (p *Plane) Time(t int64) time.Time { return p.start.Add(time.Duration(t)) }

// Run runs the loops until ctx ends, and then closes the device and the socket.
// It returns early, with the cause, when the device or the socket fails.
func (p *Plane) Run(ctx context.Context) error {
	workers, err := p.newWorkers()
	if err != nil {
		return errors.Join(err, p.cfg.Device.Close(), p.cfg.Socket.Close())
	}
	defer closeWorkers(workers)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { cancel(w.run()) })
	}
	// What cannot be polled has a goroutine of its own.
	for q, queue := range p.queues {
		if _, ok := queue.(tun.Polled); !ok {
			wg.Go(func() { cancel(p.runOutbound(q)) })
		}
	}
	if _, ok := p.cfg.Socket.(transport.Polled); !ok {
		for _, receive := range p.cfg.Socket.Receivers() {
			wg.Go(func() { cancel(p.runInbound(receive)) })
		}
	}
	<-ctx.Done()
	p.closed.Store(true)
	for _, w := range workers {
		w.poller.stop()
	}
	err = errors.Join(p.cfg.Device.Close(), p.cfg.Socket.Close())
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// ending reports whether err comes of the plane's end.
func (p *Plane) ending(err error) bool {
	return p.closed.Load() || errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed)
}

// runOutbound carries frames from one device queue until it is closed.
func (p *Plane) runOutbound(queue int) error {
	out := p.newOutbound(queue)
	for {
		n, err := p.queues[queue].ReadBatch(out.frames)
		if err != nil {
			return p.readError(err)
		}
		out.turn(n)
	}
}

// runInbound carries datagrams from one kernel socket until it is closed.
func (p *Plane) runInbound(receive transport.ReceiveFunc) error {
	in := p.newInbound(socketBatch)
	for {
		n, err := receive(in.msgs)
		if err != nil {
			return p.receiveError(err)
		}
		in.turn(n)
	}
}

// Datagram takes one datagram that came over peer's TCP connection. It opens b in
// place. Calls for one peer must not overlap.
func (p *Plane) Datagram(peer *Peer, b []byte) {
	if peer.stream == nil {
		peer.stream = p.newInbound(0)
	}
	in := peer.stream
	in.begin()
	in.handle(b, arrival{carrier: peer})
	in.finish()
}

// Inject writes frames to the device on behalf of the node: announcements of
// addresses that moved. The bytes are copied.
func (p *Plane) Inject(frame []byte) error {
	buf := make([]byte, tun.Headroom+len(frame))
	copy(buf[tun.Headroom:], frame)
	_, err := p.queues[0].WriteBatch([]tun.Frame{{Buf: buf, Off: tun.Headroom, Len: len(frame)}})
	return err
}
