package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ripstop/crypto"
)

// loopbackHost runs a Control on real sockets.
func loopbackHost(t *testing.T, id *crypto.Identity, network *crypto.Network, listen string) *testHost {
	t.Helper()
	at := netip.MustParseAddr(listen)
	h := &testHost{t: t, id: id, up: make(map[crypto.Name]*Conn)}
	c, err := NewControl(ControlConfig{
		Identity: id, Network: network, UID: crypto.UID(testUID.Add(1)), Handler: h,
		Hello:  func() Hello { return Hello{Nickname: listen} },
		Listen: []netip.AddrPort{netip.AddrPortFrom(at, 0)},
	})
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skipf("no %s on this machine", listen)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.Control, h.addr = c, c.Addrs()[0]
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	var once sync.Once
	h.stop = func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(h.stop)
	return h
}

// eventually polls a condition for a while.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	until := time.Now().Add(d)
	for !ok() {
		if time.Now().After(until) {
			t.Fatalf("not within %v: %s", d, what)
		}
		runtime.Gosched()
		<-time.After(2 * time.Millisecond)
	}
}

func TestControlLoopbackPair(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	network, ids := testNetwork(t), testIdentities(t, 2)
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			a, b := loopbackHost(t, ids[0], network, address), loopbackHost(t, ids[1], network, address)
			a.SetTargets([]string{b.addr.String()})
			b.SetTargets([]string{a.addr.String(), b.addr.String()})
			eventually(t, 5*time.Second, "connected", func() bool {
				return a.Conn(b.id.Name()) != nil && b.Conn(a.id.Name()) != nil
			})
			big := bytes.Repeat([]byte("gossip"), 10<<10)
			sent := 0
			until := time.Now().Add(300 * time.Millisecond)
			for time.Now().Before(until) {
				if a.Conn(b.id.Name()).Send(MessageGossip, big) == nil {
					sent++
				}
				a.Conn(b.id.Name()).SendDatagram(big[:1400])
				runtime.Gosched()
			}
			messages := func() (n int) {
				for _, m := range b.seen("message") {
					if m.kind == MessageGossip && len(m.body) == len(big) {
						n++
					}
				}
				return n
			}
			eventually(t, 5*time.Second, "all gossip arrived", func() bool { return messages() == sent })
			eventually(t, 5*time.Second, "own address known", func() bool { return b.Targets()[1].State == TargetSelf })
			if len(a.seen("down"))+len(b.seen("down")) != 0 || sent == 0 {
				t.Errorf("%d sent, down %v %v", sent, a.seen("down"), b.seen("down"))
			}
			for _, h := range []*testHost{a, b} {
				began := time.Now()
				h.stop()
				if d := time.Since(began); d > 2*time.Second {
					t.Errorf("stopping took %v", d)
				}
			}
		})
	}
	goleak.VerifyNone(t, leaks)
}

// Strangers that hold connections open take bounded places and memory, get no byte, and
// keep no member out.
func TestControlLoopbackStrangers(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	network, ids := testNetwork(t), testIdentities(t, 2)
	h := loopbackHost(t, ids[0], network, "127.0.0.1")

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const crowd, addresses = 1000, 25
	var held []net.Conn
	defer func() {
		for _, nc := range held {
			nc.Close()
		}
	}()
	most := 0
	for i := range crowd {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%addresses)+1)}}
		nc, err := dialer.Dial("tcp", h.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, nc)
		nc.Write([]byte{1})
		h.mu.Lock()
		h.Control.mu.Lock()
		most = max(most, h.admission.total)
		h.Control.mu.Unlock()
		h.mu.Unlock()
	}
	if most > maxPending {
		t.Errorf("%d unauthenticated connections at once", most)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse); grown > 32<<20 {
		t.Errorf("%d bytes for strangers", grown)
	}

	// A member from an address of its own comes through, though all places are taken.
	began := time.Now()
	member := loopbackHost(t, ids[1], network, "127.0.0.2")
	member.SetTargets([]string{h.addr.String()})
	eventually(t, 3*time.Second, "a member connects", func() bool { return h.Conn(ids[1].Name()) != nil })
	t.Logf("%d at once; a member connected after %v; %v", most, time.Since(began), h.Counters())

	c := h.Counters()
	if c["control_refused_prefix"]+c["control_refused_rate"]+c["control_refused_total"]+c["control_evicted"] == 0 {
		t.Errorf("nobody was refused: %v", c)
	}
	for i, nc := range held {
		nc.SetReadDeadline(time.Now().Add(handshakeTimeout + 2*time.Second))
		got, err := io.Copy(io.Discard, nc)
		if got != 0 {
			t.Fatalf("stranger %d got %d bytes", i, got)
		}
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			t.Fatalf("stranger %d is still connected", i)
		}
		nc.Close()
	}
	held = nil
	eventually(t, 5*time.Second, "all places are free", func() bool {
		h.Control.mu.Lock()
		defer h.Control.mu.Unlock()
		return h.admission.total == 0 && len(h.pending) == 0
	})
	if len(h.seen("down")) != 0 {
		t.Error("the member lost its connection")
	}
	member.stop()
	h.stop()
	goleak.VerifyNone(t, leaks)
}

// Members that stop after a valid first flight cost no more than strangers.
func TestControlLoopbackHalfHandshakes(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	network, ids := testNetwork(t), testIdentities(t, 2)
	h := loopbackHost(t, ids[0], network, "127.0.0.1")
	var wg sync.WaitGroup
	began := time.Now()
	for i := range 60 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(i%5)+1)}}
		nc, err := dialer.Dial("tcp", h.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer nc.Close()
			crypto.ControlHandshake(&half{nc, crypto.FirstFlightLen}, crypto.ControlConfig{Identity: ids[1], Network: network, Initiator: true})
			io.Copy(io.Discard, nc)
		})
	}
	wg.Wait()
	// The sixty handshakes themselves take seconds on a busy machine.
	if d := time.Since(began); d < handshakeTimeout-time.Second || d > 4*handshakeTimeout {
		t.Errorf("they lasted %v, not %v", d, handshakeTimeout)
	}
	if len(h.seen("up")) != 0 {
		t.Error("connected")
	}
	h.stop()
	goleak.VerifyNone(t, leaks)
}

// With another secret, no try of many gives a byte.
func TestControlLoopbackOtherSecret(t *testing.T) {
	ids := testIdentities(t, 2)
	h := loopbackHost(t, ids[0], testNetwork(t), "127.0.0.1")
	other := testNetwork(t)
	for i := range 200 {
		nc, err := net.Dial("tcp", h.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = crypto.ControlHandshake(struct {
			io.Reader
			io.Writer
		}{io.TeeReader(nc, &got), nc}, crypto.ControlConfig{Identity: ids[1], Network: other, Initiator: true})
		if !errors.Is(err, crypto.ErrNoAnswer) || got.Len() != 0 {
			t.Fatalf("try %d: %v, %d bytes", i, err, got.Len())
		}
		nc.Close()
	}
	eventually(t, 5*time.Second, "all counted", func() bool {
		c := h.Counters()
		return c["control_foreign"]+c["control_refused_prefix"]+c["control_refused_rate"]+c["control_handshake_failed"] == 200
	})
}
