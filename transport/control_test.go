package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"ripstop/crypto"
)

func TestControlConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 2)
		for i := range 2 {
			// Whoever dials, the lower or the higher name.
			a := n.start(t, ids[i], network, 1)
			b := n.start(t, ids[1-i], network, 2)
			a.SetTargets([]string{"10.0.0.2"})
			synctest.Wait()
			if s := a.target(); s.State != TargetUp || s.Peer != b.id.Name() || s.LastError != "" || !s.NextTry.IsZero() || s.Target != "10.0.0.2" {
				t.Fatalf("target: %+v", s)
			}
			ca, cb := a.Conn(b.id.Name()), b.Conn(a.id.Name())
			if ca == nil || cb == nil {
				t.Fatal("not connected")
			}
			if len(a.Conns()) != 1 || !ca.Dialled() || cb.Dialled() || ca.RemoteAddr() != b.addr || ca.PublicKeys() != b.id.Public() {
				t.Errorf("conn: dialled %v %v, remote %v", ca.Dialled(), cb.Dialled(), ca.RemoteAddr())
			}
			hello := cb.Hello()
			if hello.Nickname != "host 1" || hello.Port != 6783 || hello.Observed.Addr() != b.addr.Addr() || hello.UID != a.cfg.UID || ca.UID() != b.cfg.UID {
				t.Errorf("hello: %+v", hello)
			}
			for k := range 40 {
				for _, c := range []*Conn{ca, cb} {
					if err := c.Send(MessageGossip, fmt.Append(nil, k)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !ca.SendDatagram([]byte("datagram")) || ca.Send(MessageSession, nil) != nil {
				t.Fatal("not queued")
			}
			synctest.Wait()
			for _, h := range []*testHost{a, b} {
				messages := h.seen("message")
				for k := range 40 {
					if k >= len(messages) || messages[k].body != fmt.Sprint(k) || messages[k].kind != MessageGossip {
						t.Fatalf("message %d: %v", k, messages)
					}
				}
			}
			if m := b.seen("message"); len(m) != 42 || m[40].kind != MessageSession || m[41].body != "datagram" {
				t.Errorf("%d messages", len(m))
			}
			// An hour of silence but for the pings.
			before := n.writes.Load()
			wait(time.Hour)
			if writes, pings := n.writes.Load()-before, int64(time.Hour/pingEvery); writes > 2*pings+2 {
				t.Fatalf("%d writes; %d pings of one end, and their answers, say as much", writes, pings)
			}
			if len(a.seen("down"))+len(b.seen("down")) != 0 || len(n.dialled()) != i+1 { // one for each round
				t.Fatal("lost within an idle hour")
			}
			began := time.Now()
			b.stop()
			if d := time.Since(began); d > shutdownTime {
				t.Errorf("shutdown took %v", d)
			}
			synctest.Wait()
			if down := a.seen("down"); len(down) != 1 || !errors.Is(down[0].cause, ErrPeerClosed) || !strings.Contains(down[0].cause.Error(), "shuts down") {
				t.Errorf("down: %+v", down)
			}
			if down := b.seen("down"); len(down) != 1 || !errors.Is(down[0].cause, net.ErrClosed) {
				t.Errorf("down: %+v", down)
			}
			if err := ca.Send(MessageGossip, nil); !errors.Is(err, net.ErrClosed) || ca.SendDatagram(nil) {
				t.Errorf("send after the end: %v", err)
			}
			a.stop()
		}
	})
}

// Both dial at once, at every distance in time: one Conn each, no break, every message
// in order, and in the end one TCP connection, dialled by the lower name.
func TestControlCrossing(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for skew := -5; skew <= 5; skew++ {
		for _, latency := range []time.Duration{0, time.Millisecond, 40 * time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				n.latency = func(from netip.Addr, _ netip.AddrPort) time.Duration {
					if d := time.Duration(skew) * latency / 4; from == netip.MustParseAddr("10.0.0.1") == (d > 0) {
						return latency + d.Abs()
					}
					return latency
				}
				a := n.start(t, ids[0], network, 1)
				b := n.start(t, ids[1], network, 2)
				for _, h := range []*testHost{a, b} {
					h.mu.Lock()
					h.onUp = func(c *Conn) {
						h.wg.Go(func() {
							for k := range 300 {
								if err := c.Send(MessageGossip, fmt.Append(nil, k)); err != nil {
									h.t.Errorf("message %d: %v", k, err)
								}
								if k > 30 {
									<-time.After(4 * time.Millisecond)
								}
							}
						})
					}
					// Slow enough for messages of one connection to wait while the
					// next one is taken into use.
					h.onMsg = func(*Conn, MessageKind, []byte) { <-time.After(2 * time.Millisecond) }
					h.mu.Unlock()
				}
				a.SetTargets([]string{"10.0.0.2"})
				b.SetTargets([]string{"10.0.0.1"})
				wait(10 * time.Second)
				for i, h := range []*testHost{a, b} {
					if up, down := len(h.seen("up")), h.seen("down"); up != 1 || len(down) != 0 {
						t.Errorf("host %d: up %d times, down %v", i, up, down)
					}
					messages := h.seen("message")
					if len(messages) != 300 {
						t.Fatalf("host %d: %d messages", i, len(messages))
					}
					for k, m := range messages {
						if m.body != fmt.Sprint(k) {
							t.Fatalf("host %d: message %d is %s", i, k, m.body)
						}
					}
					if s := h.target(); s.State != TargetUp {
						t.Errorf("host %d: %+v", i, s)
					}
					h.Control.mu.Lock()
					if len(h.streams) != 1 {
						t.Errorf("host %d: %d TCP connections", i, len(h.streams))
					}
					h.Control.mu.Unlock()
					crossed := h.Counters()["control_crossed"] + h.Counters()["control_duplicate"]
					if latency == 40*time.Millisecond && skew == 0 && i == 0 && crossed == 0 {
						t.Error("nothing crossed, so nothing was tested")
					}
				}
				c := a.Counters()
				if c["control_crossed"]+c["control_duplicate"] > 0 && (!a.Conn(b.id.Name()).Dialled() || b.Conn(a.id.Name()).Dialled()) {
					t.Error("the connection that the higher name dialled was kept")
				}
			})
		}
	}
}

// A second connection of the same run and side is closed as long as the first lives.
func TestControlDuplicate(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for i := range 2 {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			a := n.start(t, ids[i], network, 1, func(c *ControlConfig) {
				c.Resolve = func(context.Context, string) ([]netip.Addr, error) {
					return []netip.Addr{netip.MustParseAddr("10.0.0.2")}, nil
				}
			})
			b := n.start(t, ids[1-i], network, 2)
			var targets []string
			for k := range 10 {
				targets = append(targets, fmt.Sprintf("name%d", k))
			}
			a.SetTargets(targets)
			wait(time.Minute)
			for _, h := range []*testHost{a, b} {
				if len(h.seen("up")) != 1 || len(h.seen("down")) != 0 {
					t.Errorf("up %d times, down %d times", len(h.seen("up")), len(h.seen("down")))
				}
			}
			for _, s := range a.Targets() {
				if s.State != TargetUp || s.Peer != b.id.Name() {
					t.Errorf("%+v", s)
				}
			}
			if d := len(n.dialled()); d > 40 {
				t.Errorf("%d dials within a minute of being connected", d)
			}
		})
	}
}

func TestControlSelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 1)
		a := n.start(t, ids[0], network, 1)
		a.SetTargets([]string{"10.0.0.1"})
		synctest.Wait()
		if s := a.target(); s.State != TargetSelf || s.LastError != "" || s.Peer != a.id.Name() {
			t.Errorf("%+v", s)
		}
		wait(10 * time.Minute)
		if d := len(n.dialled()); d > 12 {
			t.Errorf("%d dials to ourselves in 10 min", d)
		}
		if len(a.seen("up")) != 0 || len(a.suspected()) != 0 {
			t.Error("connected with ourselves, or taken for a clone")
		}
	})
}

// Of two processes with one key the older stays connected without a break, and the
// newer is told within 5 s, whichever name is lower and whoever dials.
func TestControlClone(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for lower := range 2 {
		for _, dials := range []string{"clone", "peer"} {
			t.Run(fmt.Sprintf("lower %d, %s dials", lower, dials), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newMemNet()
					peer := n.start(t, ids[lower], network, 1)
					old := n.start(t, ids[1-lower], network, 2)
					old.SetTargets([]string{"10.0.0.1"})
					wait(time.Minute)
					clone := n.start(t, ids[1-lower], network, 3)
					began := time.Now()
					if dials == "clone" {
						clone.SetTargets([]string{"10.0.0.1"})
					} else {
						peer.SetTargets([]string{"10.0.0.3"})
					}
					for len(clone.suspected()) == 0 {
						wait(10 * time.Millisecond)
						if time.Since(began) > 5*time.Second {
							t.Fatal("the clone was not told within 5 s")
						}
					}
					if s := clone.suspected(); len(s) != 1 || s[0] != old.cfg.UID {
						t.Errorf("told of %v, not of %v", s, old.cfg.UID)
					}
					wait(time.Minute)
					clone.stop()
					synctest.Wait()
					if len(old.suspected()) != 0 || len(old.seen("down")) != 0 || len(peer.seen("down")) != 0 || len(peer.seen("up")) != 1 {
						t.Errorf("the older run: suspected %v, down %v; its peer: %v up, %v down",
							old.suspected(), old.seen("down"), peer.seen("up"), peer.seen("down"))
					}
				})
			})
		}
	}
}

// The older run comes back to a peer that knows the newer one only.
func TestControlCloneMetFirst(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for lower := range 2 {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			peer := n.start(t, ids[lower], network, 1)
			old := n.start(t, ids[1-lower], network, 2)
			wait(time.Minute)
			clone := n.start(t, ids[1-lower], network, 3)
			clone.SetTargets([]string{"10.0.0.1"})
			wait(time.Minute)
			old.SetTargets([]string{"10.0.0.1"})
			wait(5 * time.Second)
			if len(clone.suspected()) != 1 || len(old.suspected()) != 0 {
				t.Errorf("clone told %v, older run told %v", clone.suspected(), old.suspected())
			}
			if c := peer.Conn(old.id.Name()); c == nil || c.UID() != old.cfg.UID {
				t.Error("the older run is not connected")
			}
			clone.stop()
			wait(time.Minute)
			if len(old.seen("down")) != 0 {
				t.Error("the older run lost its connection")
			}
		})
	}
}

// Two processes with one key that meet directly: the newer is told.
func TestControlCloneDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 1)
		old := n.start(t, ids[0], network, 1)
		wait(time.Minute)
		clone := n.start(t, ids[0], network, 2)
		old.SetTargets([]string{"10.0.0.2"})
		wait(time.Second)
		if len(old.suspected()) != 0 || len(clone.suspected()) != 1 || clone.suspected()[0] != old.cfg.UID {
			t.Errorf("older told %v, newer told %v", old.suspected(), clone.suspected())
		}
		if s := old.target(); s.State != TargetRefused || !strings.Contains(s.LastError, "copy of this host") {
			t.Errorf("%+v", s)
		}
	})
}

// A restarted peer is taken at once when its old connection is gone, and after a
// second when that is merely silent.
func TestControlRestart(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for lower := range 2 {
		for _, silent := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				peer := n.start(t, ids[lower], network, 1)
				first := n.start(t, ids[1-lower], network, 2)
				first.SetTargets([]string{"10.0.0.1"})
				wait(time.Minute)
				most := time.Duration(0)
				if silent {
					n.cutAll()
					most = probePatience
				}
				first.stop()
				wait(time.Millisecond)
				second := n.start(t, ids[1-lower], network, 2)
				began := time.Now()
				second.SetTargets([]string{"10.0.0.1"})
				for c := peer.Conn(second.id.Name()); c == nil || c.UID() != second.cfg.UID; c = peer.Conn(second.id.Name()) {
					wait(10 * time.Millisecond)
					if time.Since(began) > most+50*time.Millisecond {
						t.Fatalf("lower %d, silent %v: not connected after %v", lower, silent, time.Since(began))
					}
				}
				down := peer.seen("down")
				if len(down) != 1 || silent && !errors.Is(down[0].cause, ErrRestarted) {
					t.Errorf("down: %+v", down)
				}
				if len(second.suspected()) != 0 {
					t.Error("a restart was taken for a clone")
				}
			})
		}
	}
}

// A connection that has died without a word ends at both ends after three pings' time (and
// sooner where there is a kernel to ask), and the same run that comes again before that is
// taken after a second.
func TestControlSilence(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		a := n.start(t, ids[0], network, 1)
		b := n.start(t, ids[1], network, 2)
		a.SetTargets([]string{"10.0.0.2"})
		wait(2*pingEvery + time.Second)
		n.cutAll() // last heard a second ago
		cut := time.Now()
		wait(silence + 5*time.Second)
		for i, h := range []*testHost{a, b} {
			down := h.seen("down")
			if len(down) != 1 || !errors.Is(down[0].cause, ErrSilent) {
				t.Fatalf("host %d: %+v", i, down)
			}
			if d := down[0].at.Sub(cut); d != silence-time.Second {
				t.Errorf("host %d: ended %v after the cut", i, d)
			}
			if len(h.seen("up")) != 2 {
				t.Errorf("host %d: up %d times", i, len(h.seen("up")))
			}
		}
	})
	for lower := range 2 {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			a := n.start(t, ids[lower], network, 1)
			b := n.start(t, ids[1-lower], network, 2)
			a.SetTargets([]string{"10.0.0.2"})
			wait(time.Minute)
			conn := b.Conn(a.id.Name())
			n.cutAll()
			conn.Close(errors.New("test: this end alone knows"))
			b.SetTargets([]string{"10.0.0.1"})
			wait(7 * time.Second)
			if c := b.Conn(a.id.Name()); c == nil || c == conn {
				t.Errorf("lower %d: not connected again: %+v", lower, b.target())
			}
		})
	}
}

func TestControlPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 2)
		a := n.start(t, ids[0], network, 1)
		a.SetTargets([]string{"10.0.0.2"})
		wait(24 * time.Hour)
		s := a.target()
		if s.State != TargetWaiting || !strings.Contains(s.LastError, "connection refused") || s.NextTry.Before(time.Now()) || s.NextTry.After(time.Now().Add(backoffMax)) {
			t.Errorf("%+v", s)
		}
		dials := n.dialled()
		for i := 1; i < len(dials); i++ {
			gap := dials[i].at.Sub(dials[i-1].at)
			if want := backoff(i-1, 0.5); gap != want || gap > backoffMax {
				t.Fatalf("pause %d is %v, not %v", i, gap, want)
			}
		}
		if len(dials) < 24*3600/5 {
			t.Errorf("%d dials in a day", len(dials))
		}
		b := n.start(t, ids[1], network, 2)
		wait(backoffMax)
		if a.Conn(b.id.Name()) == nil {
			t.Error("not connected within the longest pause after the peer came")
		}
		// A lasting connection that ends is made again soon.
		wait(time.Minute)
		a.Conn(b.id.Name()).Close(nil)
		wait(time.Second)
		if a.Conn(b.id.Name()) == nil {
			t.Error("not connected again within a second")
		}
	})
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		tries    int
		low, top time.Duration
	}{{0, 125, 250}, {1, 250, 500}, {2, 500, 1000}, {3, 1000, 2000}, {4, 2000, 4000}, {5, 2500, 5000}, {1 << 30, 2500, 5000}} {
		if d := backoff(c.tries, 0); d != c.low*time.Millisecond {
			t.Errorf("after %d tries at least %v", c.tries, d)
		}
		if d := backoff(c.tries, 0.999999); d > c.top*time.Millisecond || d < c.top*time.Millisecond*99/100 {
			t.Errorf("after %d tries at most %v", c.tries, d)
		}
	}
}

// Names are resolved at every dial, and all answers are tried.
func TestControlNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 2)
		var mu sync.Mutex // guards lookups and answers
		lookups := 0
		answers := []string{"10.0.0.7", "10.0.0.8"}
		n.latency = func(_ netip.Addr, to netip.AddrPort) time.Duration {
			if to.Addr() == netip.MustParseAddr("10.0.0.8") {
				return time.Hour // a firewall that drops
			}
			return 0
		}
		a := n.start(t, ids[0], network, 1, func(c *ControlConfig) {
			c.Resolve = func(_ context.Context, host string) (addrs []netip.Addr, err error) {
				if host != "vm2.example" {
					t.Errorf("asked for %q", host)
				}
				mu.Lock()
				defer mu.Unlock()
				lookups++
				for _, s := range answers {
					addrs = append(addrs, netip.MustParseAddr(s))
				}
				return addrs, nil
			}
		})
		b := n.start(t, ids[1], network, 2)
		a.SetTargets([]string{"VM2.example"})
		wait(10 * time.Second)
		mu.Lock()
		if s := a.target(); s.State == TargetUp || lookups < 2 {
			t.Errorf("%+v after %d lookups", s, lookups)
		}
		answers = []string{"10.0.0.8", "10.0.0.7", "::ffff:10.0.0.2"}
		mu.Unlock()
		wait(backoffMax + dialTimeout)
		if s := a.target(); s.State != TargetUp || s.Peer != b.id.Name() {
			t.Errorf("%+v", s)
		}
	})
}

func TestControlTargetsAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 2)
		n.latency = func(_ netip.Addr, to netip.AddrPort) time.Duration {
			if to.Addr() == netip.MustParseAddr("10.0.0.9") {
				return time.Hour
			}
			return 0
		}
		a := n.start(t, ids[0], network, 1, func(c *ControlConfig) {
			c.Refuse = func(addr netip.Addr) bool { return addr == netip.MustParseAddr("10.32.0.1") }
		})
		b := n.start(t, ids[1], network, 2)
		a.SetTargets([]string{"10.0.0.2", "10.0.0.9", "10.0.0.2:6783", "10.0.0.2", "not a peer", "10.32.0.1"})
		wait(time.Second)
		states := make(map[string]TargetStatus)
		for _, s := range a.Targets() {
			states[s.Target] = s
		}
		if len(states) != 5 || states["10.0.0.2"].State != TargetUp || states["10.0.0.9"].State != TargetConnecting ||
			states["not a peer"].State != TargetRefused || states["not a peer"].LastError == "" {
			t.Errorf("%+v", a.Targets())
		}
		if s := states["10.32.0.1"]; s.State != TargetRefused || !strings.Contains(s.LastError, "inside the overlay") {
			t.Errorf("%+v", s)
		}
		for _, d := range n.dialled() {
			if d.to.Addr() == netip.MustParseAddr("10.32.0.1") {
				t.Error("an address of the overlay was dialled")
			}
		}
		// What is no longer wanted is not dialled, what is connected stays.
		a.SetTargets(nil)
		synctest.Wait()
		dials := len(n.dialled())
		wait(time.Minute)
		if len(n.dialled()) != dials || len(a.Targets()) != 0 {
			t.Errorf("%d dials after the targets were taken away", len(n.dialled())-dials)
		}
		if a.Conn(b.id.Name()) == nil || len(a.seen("down")) != 0 {
			t.Error("the connection ended with its target")
		}
	})
}

func TestControlWanted(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 3)
	for self := range 3 {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			a := n.start(t, ids[self], network, 1)
			b := n.start(t, ids[(self+1)%3], network, 2)
			other := n.start(t, ids[(self+2)%3], network, 3)
			// The address that gossip gave is by now another host's.
			a.SetWanted(map[crypto.Name][]netip.AddrPort{b.id.Name(): {other.addr}, a.id.Name(): {a.addr}})
			wait(time.Minute)
			if len(other.seen("up")) != 0 || len(a.seen("up")) != 0 {
				t.Error("connected with another host than wanted")
			}
			if w := a.Wanted(); len(w) != 1 || w[0].State != TargetRefused || !strings.Contains(w[0].LastError, other.id.Name().String()) {
				t.Errorf("%+v", w)
			}
			a.SetWanted(map[crypto.Name][]netip.AddrPort{b.id.Name(): {other.addr, b.addr}})
			wait(time.Second)
			if w := a.Wanted(); w[0].State != TargetUp || len(b.seen("up")) != 1 || len(other.seen("up")) != 0 {
				t.Errorf("%+v", w)
			}
			// Connected already: not dialled.
			dials := len(n.dialled())
			other.SetTargets([]string{"10.0.0.1"})
			wait(time.Second)
			a.SetWanted(map[crypto.Name][]netip.AddrPort{b.id.Name(): {b.addr}, other.id.Name(): {other.addr}})
			wait(time.Minute)
			if d := len(n.dialled()) - dials; d != 1 {
				t.Errorf("%d dials", d)
			}
			a.SetWanted(nil)
			if len(a.Wanted()) != 0 {
				t.Error("still wanted")
			}
		})
	}
}

// Where there is no IPv6 or a peer list is wrong nobody waits for the bad addresses.
func TestControlAddressesInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, network, ids := newMemNet(), testNetwork(t), testIdentities(t, 2)
		n.latency = func(_ netip.Addr, to netip.AddrPort) time.Duration {
			if to.Addr().As4()[3] > 100 {
				return time.Hour
			}
			return 0
		}
		a := n.start(t, ids[0], network, 1)
		b := n.start(t, ids[1], network, 2)
		var addrs []netip.AddrPort
		for i := range 6 {
			addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(101 + i)}), 6783))
		}
		a.SetWanted(map[crypto.Name][]netip.AddrPort{b.id.Name(): append(addrs, b.addr)})
		wait(6*dialStagger + 10*time.Millisecond)
		if a.Conn(b.id.Name()) == nil {
			t.Error("not connected though the good address was tried")
		}
	})
}

// The kernel, which asks the other host's kernel, is sooner than our own ping.
func TestControlKernelGivesUp(t *testing.T) {
	cause := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
	s := &stream{open: new(crypto.RecordOpener)}
	if err := s.readMessages(iotest.ErrReader(cause)); err != ErrSilent {
		t.Errorf("%v", err)
	}
}
