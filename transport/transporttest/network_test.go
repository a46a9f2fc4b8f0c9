package transporttest

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/transport"
)

func TestConformance(t *testing.T) {
	for _, family := range []struct {
		name   string
		first  string
		second string
		gather bool
	}{
		{"IPv4", "10.0.0.1", "10.0.1.0", false},
		{"IPv6", "2001:db8::1:0", "2001:db8::2:0", false},
		{"IPv4 gathered", "10.0.0.1", "10.0.1.0", true},
		{"IPv6 gathered", "2001:db8::1:0", "2001:db8::2:0", true},
	} {
		t.Run(family.name, func(t *testing.T) {
			n := NewNetwork(Config{MTU: 1500, Gather: family.gather})
			defer n.Close()
			addr := netip.MustParseAddr(family.first)
			second := netip.MustParseAddr(family.second)
			Conformance(t, Kit{
				Open: func(t *testing.T) (transport.Socket, netip.AddrPort) {
					s, err := n.Socket(netip.AddrPortFrom(addr, 0), second)
					if err != nil {
						t.Fatal(err)
					}
					return s, s.AddrPort()
				},
				Second:        second,
				MTU:           1500,
				NoBufferSizes: true,
			})
		})
	}
}

var (
	addrA = netip.MustParseAddr("10.0.0.1")
	addrB = netip.MustParseAddr("10.0.0.2")
	addrC = netip.MustParseAddr("10.0.0.3")
)

// host is a socket at port 6783 whose arrivals are noted with their time.
type host struct {
	*Socket
	start time.Time
	got   []arrival
}

type arrival struct {
	text  string
	from  string
	after time.Duration
}

// newHost opens a socket. It belongs in a bubble: Wait, then read got.
func newHost(t *testing.T, n *Network, addr netip.Addr) *host {
	t.Helper()
	s, err := n.Socket(netip.AddrPortFrom(addr, 6783))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Socket: s, start: time.Now()}
	go func() {
		msgs := make([]transport.Message, 4)
		for i := range msgs {
			msgs[i].Buf = make([]byte, 9000)
		}
		for {
			n, err := s.Receivers()[0](msgs)
			if err != nil {
				return
			}
			for _, m := range msgs[:n] {
				h.got = append(h.got, arrival{string(m.Bytes()), m.Remote.String(), time.Since(h.start)})
			}
		}
	}()
	return h
}

// say sends text to addr, from port to port.
func (h *host) say(t *testing.T, to netip.AddrPort, text string) {
	t.Helper()
	msgs := []transport.Message{{Buf: []byte(text), N: len(text), Remote: to}}
	if h.Send(msgs) != 1 {
		t.Errorf("say %q: %v", text, msgs[0].Err)
	}
}

// texts are the arrivals' texts, taken.
func (h *host) texts() string {
	var all []string
	for _, a := range h.got {
		all = append(all, a.text)
	}
	h.got = nil
	return strings.Join(all, " ")
}

func at(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, 6783) }

func TestDelayAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{Link: Link{Delay: 10 * time.Millisecond}})
		defer n.Close()
		a, b := newHost(t, n, addrA), newHost(t, n, addrB)
		a.say(t, at(addrB), "one")
		time.Sleep(3 * time.Millisecond)
		a.say(t, at(addrB), "two")
		time.Sleep(time.Second)
		synctest.Wait()
		want := []arrival{{"one", "10.0.0.1:6783", 10 * time.Millisecond}, {"two", "10.0.0.1:6783", 13 * time.Millisecond}}
		if !slices.Equal(b.got, want) {
			t.Errorf("got %v, want %v", b.got, want)
		}
		// A shorter delay does not let what comes later overtake, jitter neither.
		b.got = nil
		a.say(t, at(addrB), "0")
		n.SetLink(addrA, addrB, Link{Jitter: 5 * time.Millisecond})
		for i := 1; i < 50; i++ {
			a.say(t, at(addrB), strconv.Itoa(i))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i, x := range b.got {
			if x.text != strconv.Itoa(i) {
				t.Fatalf("arrival %d is %q", i, x.text)
			}
		}
		if len(b.got) != 50 {
			t.Errorf("%d arrivals", len(b.got))
		}
	})
}

// TestSameInstant: what is sent at the very instant when an earlier one arrives comes
// behind it.
func TestSameInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{})
		defer n.Close()
		a, b := newHost(t, n, addrA), newHost(t, n, addrB)
		for range 100 {
			n.SetLink(addrA, addrB, Link{Delay: time.Millisecond})
			a.say(t, at(addrB), "first")
			n.SetLink(addrA, addrB, Link{})
			time.Sleep(time.Millisecond)
			a.say(t, at(addrB), "second")
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if got := b.texts(); got != "first second" {
				t.Fatalf("got %q", got)
			}
		}
	})
}

func TestNoDelayIsAtOnce(t *testing.T) {
	n := NewNetwork(Config{})
	defer n.Close()
	a, err := n.Socket(at(addrA))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		a.Send([]transport.Message{{Buf: []byte("x"), N: 1, Remote: at(addrA)}})
		if got := n.Counts().Delivered; got != uint64(i+1) {
			t.Fatalf("%d delivered after %d", got, i+1)
		}
	}
}

// TestImpairments: what is counted is what arrives, and near the probability asked for.
func TestImpairments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{Seed: 1})
		defer n.Close()
		a, b := newHost(t, n, addrA), newHost(t, n, addrB)
		n.SetLink(addrA, addrB, Link{Delay: time.Millisecond, Loss: 0.1, Duplicate: 0.05, Reorder: 0.02, ReorderBy: 5 * time.Millisecond})
		const count = 2000
		for i := range count {
			a.say(t, at(addrB), strconv.Itoa(i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		c := n.Counts()
		near := func(what string, got uint64, p float64) {
			if g := float64(got) / count; g < p*0.7 || g > p*1.4 {
				t.Errorf("%s: %d of %d, asked for %v", what, got, count, p)
			}
		}
		near("lost", c.Lost, 0.1)
		near("duplicated", c.Duplicated, 0.045)
		near("reordered", c.Reordered, 0.018)
		if c.Delivered != count-c.Lost+c.Duplicated || uint64(len(b.got)) != c.Delivered {
			t.Errorf("%d arrivals, counts %+v", len(b.got), c)
		}
		late, last := 0, -1
		for _, x := range b.got {
			if i, _ := strconv.Atoi(x.text); i < last {
				late++
			} else {
				last = i
			}
		}
		if late == 0 || late > 2*int(c.Reordered) {
			t.Errorf("%d arrivals were overtaken, %d reordered", late, c.Reordered)
		}
	})
}

// TestSeed: equal seeds decide alike, also when another pair sends in between; another
// seed decides otherwise.
func TestSeed(t *testing.T) {
	run := func(seed uint64, loss float64, between bool) (texts string) {
		synctest.Test(t, func(t *testing.T) {
			n := NewNetwork(Config{Seed: seed, Link: Link{Loss: loss, Duplicate: 0.2}})
			defer n.Close()
			a, b, c := newHost(t, n, addrA), newHost(t, n, addrB), newHost(t, n, addrC)
			for i := range 100 {
				if between {
					c.say(t, at(addrB), "other")
				}
				a.say(t, at(addrB), strconv.Itoa(i))
			}
			synctest.Wait()
			for _, x := range b.got {
				if x.from == at(addrA).String() {
					texts += x.text + " "
				}
			}
		})
		return texts
	}
	first := run(1, 0.5, false)
	if again := run(1, 0.5, true); again != first {
		t.Errorf("the same seed: %s and %s", first, again)
	}
	if run(2, 0.5, false) == first {
		t.Error("another seed decided alike")
	}
	// Loss takes away, and moves nothing else.
	rest := strings.Fields(run(1, 0, false))
	for _, text := range strings.Fields(first) {
		i := slices.Index(rest, text)
		if i < 0 {
			t.Errorf("%s came only with loss", text)
			continue
		}
		rest = rest[i+1:]
	}
}

func TestCutAndPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{})
		defer n.Close()
		a, b, c := newHost(t, n, addrA), newHost(t, n, addrB), newHost(t, n, addrC)
		all := []*host{a, b, c}
		// round lets each say its letter to each other, and returns what each heard.
		round := func() string {
			for i, from := range all {
				for j, to := range all {
					if i != j {
						from.say(t, to.AddrPort(), string(rune('a'+i)))
					}
				}
			}
			synctest.Wait()
			return a.texts() + "|" + b.texts() + "|" + c.texts()
		}
		for _, step := range []struct {
			what string
			do   func()
			want string
		}{
			{"whole", func() {}, "b c|a c|a b"},
			{"cut a to b", func() { n.Cut(addrA, addrB, true) }, "b c|c|a b"},
			{"restored", func() { n.Cut(addrA, addrB, false) }, "b c|a c|a b"},
			{"a alone", func() { n.Partition([]netip.Addr{addrA}) }, "|c|b"},
			{"a and b, c unnamed", func() { n.Partition([]netip.Addr{addrA, addrB}) }, "b|a|"},
			{"each alone", func() { n.Partition([]netip.Addr{addrA}, []netip.Addr{addrB}) }, "||"},
			{"healed", func() { n.Partition() }, "b c|a c|a b"},
			{"b closed", func() { b.Close() }, ""},
		} {
			step.do()
			if step.want == "" {
				break
			}
			if got := round(); got != step.want {
				t.Errorf("%s: heard %s, want %s", step.what, got, step.want)
			}
		}
		before := n.Counts()
		a.say(t, at(addrB), "anybody")
		if after := n.Counts(); after.Unreachable != before.Unreachable+1 {
			t.Errorf("to a closed socket: %+v", after)
		}
	})
}

func TestMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{MTU: 1500})
		defer n.Close()
		a, b := newHost(t, n, addrA), newHost(t, n, addrB)
		n.SetLink(addrA, addrB, Link{MTU: 1280})
		big, fits := strings.Repeat("x", 1253), strings.Repeat("x", 1252)
		a.say(t, at(addrB), big)
		a.SetDF(true)
		a.say(t, at(addrB), big)
		a.say(t, at(addrB), fits)
		msgs := []transport.Message{{Buf: make([]byte, 1473), N: 1473, Remote: at(addrB)}}
		if a.Send(msgs) != 0 || msgs[0].Err != error(syscall.EMSGSIZE) {
			t.Errorf("longer than the interface's MTU: %v", msgs[0].Err)
		}
		synctest.Wait()
		if b.texts() != big+" "+fits {
			t.Error("arrived otherwise")
		}
		if c := n.Counts(); c.Fragmented != 1 || c.TooBig != 1 {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestNAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{})
		defer n.Close()
		inside1, inside2 := netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.2")
		public := netip.MustParseAddr("203.0.113.1")
		a, a2, b, c := newHost(t, n, inside1), newHost(t, n, inside2), newHost(t, n, addrB), newHost(t, n, addrC)
		nat := n.NAT(NATConfig{Public: public, Inside: []netip.Addr{inside1, inside2}, Idle: time.Minute})

		b.say(t, at(inside1), "private")
		b.say(t, at(public), "unasked")
		a.say(t, at(addrB), "out")
		synctest.Wait()
		if len(b.got) != 1 || b.got[0].from == at(inside1).String() {
			t.Fatalf("b got %v", b.got)
		}
		outside := netip.MustParseAddrPort(b.got[0].from)
		if outside.Addr() != public {
			t.Errorf("seen from %v", outside)
		}
		b.say(t, outside, "answer")
		c.say(t, outside, "stranger")
		synctest.Wait()
		if got := a.texts(); got != "answer" {
			t.Errorf("a heard %q", got)
		}
		// The same port for whoever is written to; then c may answer too.
		a.say(t, at(addrC), "out")
		synctest.Wait()
		if len(c.got) != 1 || c.got[0].from != outside.String() {
			t.Errorf("c got %v, want it from %v", c.got, outside)
		}
		c.say(t, outside, "known")
		a.say(t, at(inside2), "inside")
		a2.say(t, at(addrB), "second")
		synctest.Wait()
		second := netip.MustParseAddrPort(b.got[len(b.got)-1].from)
		for range 2 {
			a.say(t, second, "hairpin")
			a2.say(t, outside, "hairpin")
		}
		synctest.Wait()
		if got := a.texts() + "|" + a2.texts(); got != "known|inside" {
			t.Errorf("heard %q", got)
		}
		if from := b.got[len(b.got)-1].from; from == outside.String() {
			t.Errorf("two hosts share %v", from)
		}
		// Silence closes it, what is sent opens it again, at another port.
		time.Sleep(time.Minute + time.Second)
		b.say(t, outside, "late")
		a.say(t, at(addrB), "again")
		synctest.Wait()
		renewed := b.got[len(b.got)-1].from
		if a.texts() != "" || renewed == outside.String() {
			t.Errorf("the old mapping still works; again from %v", renewed)
		}
		nat.Forget()
		b.say(t, netip.MustParseAddrPort(renewed), "forgotten")
		synctest.Wait()
		if got := a.texts(); got != "" {
			t.Errorf("heard %q", got)
		}
		if c := n.Counts(); c.NAT != 9 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestNATForGood: without Idle a mapping stays, for those who were written to.
func TestNATForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{})
		defer n.Close()
		a, b, c := newHost(t, n, addrA), newHost(t, n, addrB), newHost(t, n, addrC)
		n.NAT(NATConfig{Public: netip.MustParseAddr("203.0.113.1"), Inside: []netip.Addr{addrA}})
		a.say(t, at(addrB), "out")
		synctest.Wait()
		time.Sleep(24 * time.Hour)
		b.say(t, netip.MustParseAddrPort(b.got[0].from), "answer")
		c.say(t, netip.MustParseAddrPort(b.got[0].from), "stranger")
		synctest.Wait()
		if got := a.texts(); got != "answer" {
			t.Errorf("heard %q", got)
		}
	})
}

func TestMoveAndOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{Queue: 3, Link: Link{Delay: time.Millisecond}})
		defer n.Close()
		a, b := newHost(t, n, addrA), newHost(t, n, addrB)
		a.say(t, at(addrB), "too late")
		if err := b.Move(addrB, addrC); err != nil {
			t.Fatal(err)
		}
		a.say(t, at(addrB), "to the old address")
		a.say(t, at(addrC), "to the new one")
		b.say(t, at(addrA), "from it")
		time.Sleep(time.Second)
		synctest.Wait()
		if got := b.texts(); got != "to the new one" {
			t.Errorf("b heard %q", got)
		}
		if len(a.got) != 1 || a.got[0].from != at(addrC).String() {
			t.Errorf("a got %v", a.got)
		}
		if b.Move(addrB, addrA) == nil || b.Move(addrC, addrA) == nil {
			t.Error("moved from where it is not, or to an address in use")
		}
		quiet, err := n.Socket(at(addrB))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			a.say(t, at(addrB), "x")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := quiet.Stats().KernelDrops; got != 2 || n.Counts().Overflow != 2 {
			t.Errorf("%d dropped of 5 with room for 3", got)
		}
	})
}

func TestSocketErrors(t *testing.T) {
	n := NewNetwork(Config{})
	if _, err := n.Socket(at(addrA), addrB); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []netip.Addr{addrA, addrB, netip.IPv4Unspecified(), {}} {
		if _, err := n.Socket(at(addr)); err == nil {
			t.Errorf("%v was opened", addr)
		}
	}
	n.Close()
	if _, err := n.Socket(at(addrC)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}
