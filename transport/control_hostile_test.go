package transport

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/crypto"
)

// rawPeer is an authenticated connection whose messages the test writes itself.
type rawPeer struct {
	t    testing.TB
	nc   net.Conn
	r    *crypto.ControlResult
	name crypto.Name
}

func rawDial(t testing.TB, nc net.Conn, id *crypto.Identity, network *crypto.Network, hello []byte) *rawPeer {
	t.Helper()
	r, err := crypto.ControlHandshake(nc, crypto.ControlConfig{Identity: id, Network: network, Initiator: true, Random: rand.Reader, Hello: hello})
	if err != nil {
		t.Fatal(err)
	}
	return &rawPeer{t: t, nc: nc, r: r, name: id.Name()}
}

func (p *rawPeer) write(messages ...[]byte) error {
	var b []byte
	var err error
	for _, m := range messages {
		if b, err = p.r.Send.Append(b, m); err != nil {
			p.t.Fatal(err)
		}
	}
	_, err = p.nc.Write(b)
	return err
}

// drain reads everything that comes, so that the other end never waits for us.
func (p *rawPeer) drain() {
	for {
		if _, err := p.r.Receive.Read(p.nc); err != nil {
			return
		}
	}
}

func TestControlStrangeMessages(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	// The raw end has the lower name, so it settles the connection itself.
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		h := n.start(t, ids[1], network, 1)
		nc, err := n.dial(t.Context(), netip.MustParseAddr("10.0.0.9"), h.addr)
		if err != nil {
			t.Fatal(err)
		}
		p := rawDial(t, nc, ids[0], network, Hello{UID: 77}.Append(nil))
		defer nc.Close()
		go p.drain()
		forged := makeProof(ids[0], network.ID(), 77, h.cfg.UID) // by a key that is not the host's
		p.write(
			[]byte{200}, []byte{0, 1, 2}, // kinds of another version
			[]byte{byte(messagePing), 1}, []byte{byte(messageAlive)}, []byte{byte(messageProof), 1, 2, 3}, // too short
			forged.append([]byte{byte(messageClone)}), forged.append([]byte{byte(messageProof)}),
			[]byte{byte(messageSettled)}, settlement{3, 3}.append([]byte{byte(messageSettled)}), // no number, none that rises
			settlement{number: 1}.append([]byte{byte(messageSettled)}), settlement{number: 1}.append([]byte{byte(messageSettled)}), []byte{byte(messageReady)},
			[]byte{byte(MessageGossip), 'x'},
		)
		synctest.Wait()
		if len(h.suspected()) != 0 {
			t.Fatal("a member can end another one by a forged proof")
		}
		if m := h.seen("message"); len(m) != 1 || m[0].body != "x" {
			t.Errorf("messages: %v", m)
		}
		c := h.Counters()
		if c["control_unknown_kind"] != 2 || c["control_malformed"] != 6 {
			t.Errorf("counters: %v", c)
		}
		// Questions without end are answered now and then only, and nothing grows.
		for range 200 {
			p.write(numberMessage(messageAlive, 5), numberMessage(messagePing, 6))
		}
		p.write([]byte{byte(MessageGossip), 'y'})
		synctest.Wait()
		if m := h.seen("message"); len(m) != 2 {
			t.Errorf("messages: %v", m)
		}
		nc.Close()
		synctest.Wait()
		if d := h.seen("down"); len(d) != 1 {
			t.Errorf("down: %v", d)
		}
	})
}

// Two connections of a peer with a lower name, which took the first and then the second
// into use; the word for the second is read first.
func TestControlSettledOutOfOrder(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for _, c := range []struct {
		name  string
		delay time.Duration // of the word for the first
		want  string
	}{
		{"soon", 300 * time.Millisecond, "one, two"},
		{"too late", 3 * time.Second, "two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				h := n.start(t, ids[1], network, 1)
				var peers [2]*rawPeer
				for i := range peers {
					nc, err := n.dial(t.Context(), netip.MustParseAddr("10.0.0.9"), h.addr)
					if err != nil {
						t.Fatal(err)
					}
					defer nc.Close()
					peers[i] = rawDial(t, nc, ids[0], network, Hello{UID: 7}.Append(nil))
					go peers[i].drain()
					peers[i].write([]byte{byte(messageReady)})
				}
				peers[1].write(settlement{2, 1}.append([]byte{byte(messageSettled)}), []byte{byte(MessageGossip), 't', 'w', 'o'})
				wait(c.delay)
				peers[0].write(settlement{1, 0}.append([]byte{byte(messageSettled)}), []byte{byte(MessageGossip), 'o', 'n', 'e'},
					[]byte{byte(messageClose), byte(closeSuperseded)})
				wait(4 * time.Second)
				var got []string
				for _, m := range h.seen("message") {
					got = append(got, m.body)
				}
				if s := strings.Join(got, ", "); s != c.want {
					t.Errorf("messages: %s", s)
				}
				if len(h.seen("up")) != 1 || len(h.seen("down")) != 0 {
					t.Errorf("up %v, down %v", h.seen("up"), h.seen("down"))
				}
				if conn := h.Conn(ids[0].Name()); conn == nil || conn.current().settlement().number != 2 {
					t.Error("the second connection is not in use")
				}
			})
		})
	}
}

// An end that has proved everything and then says nothing is not in use, and is not
// kept.
func TestControlUnsettled(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 2)
	for raw := range 2 {
		synctest.Test(t, func(t *testing.T) {
			n := newMemNet()
			h := n.start(t, ids[1-raw], network, 1)
			for i := range maxSettling + 2 {
				nc, err := n.dial(t.Context(), netip.MustParseAddr("10.0.0.9"), h.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				p := rawDial(t, nc, ids[raw], network, Hello{UID: crypto.UID(70)}.Append(nil))
				synctest.Wait()
				if i < maxSettling {
					go p.drain()
				} else if _, err := p.r.Receive.Read(nc); err == nil {
					t.Error("more unsettled connections than allowed")
				}
			}
			wait(settleTimeout + flushTime)
			if len(h.seen("up")) != 0 {
				t.Error("in use without a word")
			}
			h.Control.mu.Lock()
			if len(h.streams)+len(h.peers) != 0 {
				t.Errorf("%d connections, %d peers are kept", len(h.streams), len(h.peers))
			}
			h.Control.mu.Unlock()
		})
	}
}

// A peer that reads nothing costs a bounded queue and its own connection, and holds
// nobody else up.
func TestControlSlowReader(t *testing.T) {
	network, ids := testNetwork(t), testIdentities(t, 3)
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		h := n.start(t, ids[0], network, 1)
		quick := n.start(t, ids[1], network, 2)
		slow := n.start(t, ids[2], network, 3)
		release := make(chan struct{})
		slow.mu.Lock()
		slow.onMsg = func(*Conn, MessageKind, []byte) { <-release }
		slow.mu.Unlock()
		h.SetTargets([]string{"10.0.0.2", "10.0.0.3"})
		synctest.Wait()
		toSlow, toQuick := h.Conn(slow.id.Name()), h.Conn(quick.id.Name())

		queued := 0
		for {
			err := toSlow.Send(MessageGossip, make([]byte, 60<<10))
			if err == ErrQueueFull {
				break
			}
			if err != nil || queued > 20 {
				t.Fatalf("message %d: %v", queued, err)
			}
			queued++
			synctest.Wait()
		}
		if toSlow.Queued() > maxQueuedGossip {
			t.Errorf("%d bytes queued", toSlow.Queued())
		}
		if err := toSlow.Send(MessageSession, make([]byte, 200)); err != nil {
			t.Errorf("no room for a session's message beside gossip: %v", err)
		}
		for i := range 3 * maxDatagrams {
			b := make([]byte, 1400)
			binary.BigEndian.PutUint32(b, uint32(i))
			if !toSlow.SendDatagram(b) {
				t.Fatal("datagram refused")
			}
		}
		if c := h.Counters(); c["control_datagram_overflow"] != 2*maxDatagrams || c["control_queue_full"] != 1 {
			t.Errorf("counters: %v", c)
		}
		for range 100 {
			if err := toQuick.Send(MessageGossip, []byte("still here")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if len(quick.seen("message")) != 100 {
			t.Errorf("the other peer got %d messages", len(quick.seen("message")))
		}
		close(release)
		synctest.Wait()
		messages := slow.seen("message")
		if len(messages) != queued+1+maxDatagrams {
			t.Fatalf("%d messages arrived of %d", len(messages), queued+1+maxDatagrams)
		}
		first := binary.BigEndian.Uint32([]byte(messages[queued+1].body))
		if first != 2*maxDatagrams {
			t.Errorf("the oldest datagram that arrived is number %d, not %d", first, 2*maxDatagrams)
		}

		// For ever: its connection ends, the other stays.
		stuck := make(chan struct{})
		slow.mu.Lock()
		slow.onMsg = func(*Conn, MessageKind, []byte) { <-stuck }
		slow.mu.Unlock()
		for range 4 {
			toSlow.Send(MessageGossip, make([]byte, 60<<10))
		}
		wait(2 * silence)
		close(stuck)
		if len(h.seen("down")) != 1 || h.seen("down")[0].name != slow.id.Name() {
			t.Errorf("down: %v", h.seen("down"))
		}
	})
}

// Another secret: no byte comes back, and the dialling end says what that means.
func TestControlOtherSecret(t *testing.T) {
	ids := testIdentities(t, 2)
	ours, theirs := testNetwork(t), testNetwork(t)
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		a := n.start(t, ids[0], ours, 1)
		b := n.start(t, ids[1], theirs, 2)
		a.SetTargets([]string{"10.0.0.2"})
		wait(time.Minute)
		if s := a.target(); s.State != TargetRefused && s.State != TargetConnecting || !strings.HasSuffix(s.LastError, "no answer: most often another secret") {
			t.Errorf("%+v", s)
		}
		if b.Counters()["control_foreign"] == 0 {
			t.Errorf("not counted: %v", b.Counters())
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, c := range n.conns {
			if c.wrote.Load() != crypto.FirstFlightLen {
				t.Errorf("the dialling end wrote %d bytes", c.wrote.Load())
			}
		}
	})
}

// Whatever a stranger sends or keeps back, it gets no byte, and its connection ends in
// 3 s, or in 5 s after a valid first flight.
func TestControlStranger(t *testing.T) {
	ids := testIdentities(t, 2)
	network := testNetwork(t)
	random := make([]byte, 4096)
	rand.Read(random)
	for _, c := range []struct {
		name    string
		send    []byte
		trickle bool
		lasts   time.Duration
		gets    int64
	}{
		{"nothing", nil, false, firstFlightTimeout, 0},
		{"too little", random[:crypto.FirstFlightLen-1], false, firstFlightTimeout, 0},
		{"a byte a second", random, true, firstFlightTimeout, 0},
		{"rubbish", random[:crypto.FirstFlightLen], false, 0, 0},
		{"a valid first flight, then nothing", nil, false, handshakeTimeout, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newMemNet()
				h := n.start(t, ids[0], network, 1)
				nc, err := n.dial(t.Context(), netip.MustParseAddr("10.0.0.9"), h.addr)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				written := make(chan struct{})
				go func() {
					defer close(written)
					if c.gets < 0 { // a member that stops after message 2
						crypto.ControlHandshake(&half{nc, crypto.FirstFlightLen}, crypto.ControlConfig{Identity: ids[1], Network: network, Initiator: true})
						return
					}
					for len(c.send) > 0 && c.trickle {
						if _, err := nc.Write(c.send[:1]); err != nil {
							return
						}
						c.send = c.send[1:]
						<-time.After(time.Second)
					}
					nc.Write(c.send)
				}()
				if c.gets < 0 {
					<-written
				}
				got, _ := io.Copy(io.Discard, nc)
				if d := time.Since(began); d != c.lasts {
					t.Errorf("ended after %v, not %v", d, c.lasts)
				}
				if c.gets == 0 && got != 0 {
					t.Errorf("%d bytes came back", got)
				}
				nc.Close()
				<-written
				synctest.Wait()
				h.Control.mu.Lock()
				defer h.Control.mu.Unlock()
				if h.admission.total != 0 || len(h.pending) != 0 || len(h.streams) != 0 {
					t.Errorf("left: %d places, %d connections", h.admission.total, len(h.pending))
				}
			})
		})
	}
}

// half is a connection of which only so many bytes are written.
type half struct {
	net.Conn
	left int
}

func (h *half) Write(b []byte) (int, error) {
	if len(b) > h.left {
		return 0, errors.New("test: enough")
	}
	h.left -= len(b)
	return h.Conn.Write(b)
}

func TestControlAcceptErrors(t *testing.T) {
	ids := testIdentities(t, 2)
	network := testNetwork(t)
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		h := n.start(t, ids[0], network, 1)
		other := n.start(t, ids[1], network, 2)
		synctest.Wait()
		h.listen.fail.Store(100)
		// The Accept under way still works; then no descriptor is left.
		other.SetTargets([]string{"10.0.0.1"})
		synctest.Wait()
		began := time.Now()
		wait(60 * time.Second)
		h.listen.fail.Store(0)
		if f := len(h.listen.failed); f < 55 || f > 70 {
			t.Errorf("%d tries in a minute without descriptors", f)
		}
		if c := h.Counters()["control_accept_errors"]; c != uint64(len(h.listen.failed)) {
			t.Errorf("%d counted", c)
		}
		if len(h.seen("down")) != 0 {
			t.Error("a connection was lost for it")
		}
		wait(acceptPauseMax)
		nc, err := n.dial(t.Context(), netip.MustParseAddr("10.0.0.9"), h.addr)
		if err != nil {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		nc.Close()
	})
}

// Addresses inside the overlay can no more dial in than be dialled.
func TestControlRefusesOverlay(t *testing.T) {
	ids := testIdentities(t, 2)
	network := testNetwork(t)
	synctest.Test(t, func(t *testing.T) {
		n := newMemNet()
		h := n.start(t, ids[0], network, 1, func(c *ControlConfig) {
			c.Refuse = func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.2") }
		})
		inside := n.start(t, ids[1], network, 2)
		inside.SetTargets([]string{"10.0.0.1"})
		wait(10 * time.Second)
		if len(inside.seen("up")) != 0 || h.Counters()["control_refused_overlay"] == 0 {
			t.Errorf("accepted from inside the overlay: %v", h.Counters())
		}
	})
}

func TestNewControlRefuses(t *testing.T) {
	id, network := testIdentities(t, 1)[0], testNetwork(t)
	h := &testHost{t: t, id: id, up: make(map[crypto.Name]*Conn)}
	good := ControlConfig{Identity: id, Network: network, UID: 1, Hello: func() Hello { return Hello{} }, Handler: h,
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}}
	for name, change := range map[string]func(*ControlConfig){
		"no identity": func(c *ControlConfig) { c.Identity = nil },
		"no network":  func(c *ControlConfig) { c.Network = nil },
		"no uid":      func(c *ControlConfig) { c.UID = 0 },
		"no hello":    func(c *ControlConfig) { c.Hello = nil },
		"no handler":  func(c *ControlConfig) { c.Handler = nil },
	} {
		cfg := good
		change(&cfg)
		if c, err := NewControl(cfg); err == nil {
			c.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	first, err := NewControl(good)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	taken := good
	taken.Listen = first.Addrs()
	if _, err := NewControl(taken); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("port in use: %v", err)
	}
	foreign := good
	foreign.Listen = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:0")}
	if _, err := NewControl(foreign); err == nil || !strings.Contains(err.Error(), "does not have that address") {
		t.Errorf("foreign address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := first.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
	if err := first.Run(ctx); err == nil {
		t.Error("run twice")
	}
}
