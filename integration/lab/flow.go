package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// FlowConfig describes numbered UDP datagrams from one place to another.
type FlowConfig struct {
	From, To *Place
	Addr     netip.Addr    // of To
	Port     uint16        // 0 = any free one
	Interval time.Duration // between datagrams, 0 = 5 ms
	Size     int           // payload bytes, 0 = 64, at least 8
	Marker   []byte        // put behind the number, as far as Size goes
}

// FlowReport is what came of the datagrams.
type FlowReport struct {
	Sent       int
	Received   int // different ones
	Duplicates int
	Reordered  int           // came after a later one
	Gap        time.Duration // longest time without an arrival between the first and the last
	GapLost    int           // numbers missing between the two arrivals around Gap
}

// Lost is how many never came.
func (r FlowReport) Lost() int { return r.Sent - r.Received }

// String is one line for people.
func (r FlowReport) String() string {
	return fmt.Sprintf("%d sent, %d received, %d lost, %d twice, %d out of order, longest gap %v",
		r.Sent, r.Received, r.Lost(), r.Duplicates, r.Reordered, r.Gap.Round(time.Millisecond))
}

// Flow is a running stream of datagrams.
type Flow struct {
	cfg    FlowConfig
	send   net.Conn
	listen *net.UDPConn
	stop   chan struct{} // closed by Stop
	drain  time.Duration // set before stop is closed
	wg     sync.WaitGroup
	sent   atomic.Uint64

	mu     sync.Mutex // guards the rest
	report FlowReport
	seen   map[uint64]bool
	last   time.Time // of the last arrival
	lastN  uint64    // its number
	top    uint64    // the greatest number that came
}

const flowHeader = 8

// flowBuffer is the receive buffer asked for: small datagrams take 768 bytes each of
// it, and what a receiver without the CPU for a second has no room for would look
// lost on the way.
const flowBuffer = 8 << 20

// StartFlow starts a stream, until Stop.
func StartFlow(cfg FlowConfig) (*Flow, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Millisecond
	}
	if cfg.Size == 0 {
		cfg.Size = 64
	}
	cfg.Size = max(cfg.Size, flowHeader)
	f := &Flow{cfg: cfg, stop: make(chan struct{}), seen: make(map[uint64]bool)}
	var err error
	if f.listen, err = cfg.To.ListenUDP(netip.AddrPortFrom(cfg.Addr, cfg.Port)); err != nil {
		return nil, fmt.Errorf("lab: flow %s→%s: %w", cfg.From.name, cfg.To.name, err)
	}
	if err := f.makeRoom(); err != nil {
		f.listen.Close()
		return nil, fmt.Errorf("lab: flow %s→%s: %w", cfg.From.name, cfg.To.name, err)
	}
	err = cfg.From.Do(func() (err error) {
		f.send, err = net.Dial("udp", f.listen.LocalAddr().String())
		return err
	})
	if err != nil {
		f.listen.Close()
		return nil, fmt.Errorf("lab: flow %s→%s: %w", cfg.From.name, cfg.To.name, err)
	}
	f.wg.Go(f.sender)
	f.wg.Go(f.receiver)
	return f, nil
}

func (f *Flow) sender() {
	b := make([]byte, f.cfg.Size)
	copy(b[flowHeader:], f.cfg.Marker)
	tick := time.NewTicker(f.cfg.Interval)
	defer tick.Stop()
	for {
		n := f.sent.Add(1)
		binary.BigEndian.PutUint64(b, n)
		f.send.Write(b) // one that the kernel has no way for is lost, as any other
		select {
		case <-tick.C:
		case <-f.stop:
			return
		}
	}
}

// makeRoom enlarges the receive buffer: as far as is asked for with the privilege
// to, else as far as the machine lets anybody.
func (f *Flow) makeRoom() error {
	return f.control(func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, flowBuffer) == nil {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, flowBuffer)
	})
}

// waiting says whether a datagram lies in the socket.
func (f *Flow) waiting() bool {
	var n int
	err := f.control(func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
		return err
	})
	return err == nil && n > 0
}

func (f *Flow) control(do func(fd int) error) error {
	raw, err := f.listen.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// receiver counts until Stop, and then until nothing came for the time to drain. A
// read past its deadline fails without a look into the socket, so a deadline alone
// says only that time went by, perhaps without the CPU: it is renewed, and the end is
// a whole interval without a datagram and a socket with none.
func (f *Flow) receiver() {
	b := make([]byte, 1<<16)
	quiet := false // nothing has come since the deadline was renewed
	for {
		n, _, err := f.listen.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			<-f.stop
			if quiet && !f.waiting() {
				return
			}
			quiet = true
			f.listen.SetReadDeadline(time.Now().Add(f.drain))
		case err == nil && n >= flowHeader:
			quiet = false
			f.arrived(time.Now(), binary.BigEndian.Uint64(b))
		}
	}
}

func (f *Flow) arrived(now time.Time, n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[n] {
		f.report.Duplicates++
		return
	}
	f.seen[n] = true
	f.report.Received++
	if n < f.top {
		f.report.Reordered++
	}
	f.top = max(f.top, n)
	if gap := now.Sub(f.last); !f.last.IsZero() && gap > f.report.Gap {
		f.report.Gap = gap
		f.report.GapLost = max(0, int(n)-int(f.lastN)-1)
	}
	f.last, f.lastN = now, n
}

// Report is what has come so far.
func (f *Flow) Report() FlowReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.report
	r.Sent = int(f.sent.Load())
	return r
}

// Silence is for how long nothing has come.
func (f *Flow) Silence() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last.IsZero() {
		return 0
	}
	return time.Since(f.last)
}

// Stop ends the sending, waits until nothing has come for drain, and reports.
func (f *Flow) Stop(drain time.Duration) FlowReport {
	f.drain = drain
	close(f.stop)
	f.listen.SetReadDeadline(time.Now()) // the receiver sets its own from here on
	f.wg.Wait()
	f.send.Close()
	f.listen.Close()
	return f.Report()
}

// Throughput sends TCP from one place to another for the given time and returns how
// many bytes arrived and how long that took.
func Throughput(ctx context.Context, from, to *Place, addr netip.Addr, duration time.Duration) (received int64, took time.Duration, err error) {
	fail := func(err error) (int64, time.Duration, error) {
		return 0, 0, fmt.Errorf("lab: throughput %s→%s: %w", from.name, to.name, err)
	}
	var listener net.Listener
	err = to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return fail(err)
	}
	defer listener.Close()
	type counted struct {
		n    int64
		took time.Duration
		err  error
	}
	result := make(chan counted, 1)
	go func() { // ends with the connection or the listener
		conn, err := listener.Accept()
		if err != nil {
			result <- counted{err: err}
			return
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(duration + connectTimeout))
		started := time.Now()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 1<<17))
		result <- counted{n, time.Since(started), err}
	}()
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: connectTimeout}).Dial("tcp", listener.Addr().String())
		return err
	})
	if err != nil {
		listener.Close()
		<-result
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	conn.SetWriteDeadline(time.Now().Add(duration))
	block := make([]byte, 1<<17)
	for err == nil {
		_, err = conn.Write(block)
	}
	if ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		conn.Close()
		listener.Close()
		<-result
		return fail(errors.Join(err, ctx.Err()))
	}
	conn.Close()
	r := <-result
	if r.err != nil {
		return fail(r.err)
	}
	return r.n, r.took, nil
}

// connectTimeout bounds the start of a TCP connection, and the end of one whose data
// is still under way.
const connectTimeout = 5 * time.Second

// DialTCP opens a TCP connection from the place.
func (p *Place) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := p.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", p.name, err)
	}
	return conn, nil
}

// ListenUDP opens a UDP socket in the place.
func (p *Place) ListenUDP(at netip.AddrPort) (*net.UDPConn, error) {
	var conn *net.UDPConn
	err := p.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", p.name, err)
	}
	return conn, nil
}

// ListenTCP opens a TCP listener in the place.
func (p *Place) ListenTCP(at netip.AddrPort) (*net.TCPListener, error) {
	var l *net.TCPListener
	err := p.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", p.name, err)
	}
	return l, nil
}
