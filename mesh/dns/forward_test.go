package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// resolver is an upstream on the loopback.
type resolver struct {
	asked  atomic.Int64
	answer func(*dns.Msg) *dns.Msg // nil: silence
}

func (r *resolver) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	r.asked.Add(1)
	if a := r.answer(m); a != nil {
		w.WriteMsg(a)
	}
}

// says is an answer with one text.
func says(text string) func(*dns.Msg) *dns.Msg {
	return func(m *dns.Msg) *dns.Msg {
		a := new(dns.Msg)
		a.SetReply(m)
		a.Answer = append(a.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{text}})
		return a
	}
}

// listenAt runs an upstream at an address of the loopback and a port, 0 = a free one.
func (r *resolver) listenAt(t *testing.T, ip string, port uint16) uint16 {
	t.Helper()
	packet, err := net.ListenPacket("udp", fmt.Sprintf("%s:%d", ip, port))
	if err != nil {
		t.Fatal(err)
	}
	port = uint16(packet.LocalAddr().(*net.UDPAddr).Port)
	stream, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // after the shutdowns
	for _, s := range []*dns.Server{{PacketConn: packet, Handler: r}, {Listener: stream, Handler: r}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return port
}

// forwarding is a forwarder with a resolver file of those servers.
func forwarding(t *testing.T, port uint16, servers ...string) *forwarder {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	var text strings.Builder
	for _, s := range servers {
		text.WriteString("nameserver " + s + "\n")
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return &forwarder{file: file, own: func(a netip.Addr) bool { return a == addr("127.0.0.99") }, port: port, flights: make(map[string][]*flight)}
}

func text(t *testing.T, answer []byte) string {
	t.Helper()
	m, got := answered(t, answer)
	if m.Id != 0x1234 {
		t.Errorf("the answer has number %x", m.Id)
	}
	return got
}

var client = netip.MustParseAddr("10.0.0.1")

// TestDeadUpstream: one that refuses, or is silent, costs the first question some time;
// it is remembered.
func TestDeadUpstream(t *testing.T) {
	good := &resolver{answer: says("good")}
	silent := &resolver{answer: func(*dns.Msg) *dns.Msg { return nil }}
	port := good.listenAt(t, "127.0.0.4", 0)
	silent.listenAt(t, "127.0.0.3", port)
	f := forwarding(t, port, "127.0.0.2", "127.0.0.3", "127.0.0.99", "127.0.0.4")
	for range 3 {
		answer, err := f.ask(context.Background(), asked(t, "Example.Org.", dns.TypeTXT), false, client)
		if err != nil || text(t, answer) != `NOERROR "good"` {
			t.Fatalf("%v, %v", answer, err)
		}
	}
	if n := silent.asked.Load(); n != 1 {
		t.Errorf("the silent one was asked %d times", n)
	}
	servers, _ := f.status(time.Now())
	want := []Upstream{{addr("127.0.0.2"), true}, {addr("127.0.0.3"), true}, {addr("127.0.0.4"), false}}
	if !slices.Equal(servers, want) {
		t.Errorf("%v, not %v", servers, want)
	}
	if got := f.order(time.Now().Add(restTime)); got[0] != addr("127.0.0.2") {
		t.Errorf("after the rest the order is %v", got)
	}
}

// TestPoorAnswers: one that could not find out is not believed while another can.
func TestPoorAnswers(t *testing.T) {
	poor := &resolver{answer: func(m *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(m, dns.RcodeServerFailure) }}
	good := &resolver{answer: says("good")}
	port := poor.listenAt(t, "127.0.0.2", 0)
	f := forwarding(t, port, "127.0.0.2")
	answer, err := f.ask(context.Background(), asked(t, "example.org.", dns.TypeTXT), true, client)
	if err != nil || text(t, answer) != "SERVFAIL" {
		t.Errorf("%v, %v", answer, err)
	}
	good.listenAt(t, "127.0.0.3", port)
	f = forwarding(t, port, "127.0.0.2", "127.0.0.3")
	answer, err = f.ask(context.Background(), asked(t, "example.org.", dns.TypeTXT), true, client)
	if err != nil || text(t, answer) != `NOERROR "good"` {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestNoUpstream(t *testing.T) {
	for _, servers := range [][]string{nil, {"127.0.0.99"}} {
		if _, err := forwarding(t, 53, servers...).ask(context.Background(), asked(t, "example.org.", dns.TypeA), false, client); !errors.Is(err, errNoUpstream) {
			t.Errorf("%v: %v", servers, err)
		}
	}
}

// TestForgedAnswer: what answers another question, or with another number, is not
// taken for the answer.
func TestForgedAnswer(t *testing.T) {
	r := &resolver{}
	r.answer = func(m *dns.Msg) *dns.Msg {
		a := says("forged")(m)
		if a.Id++; m.Question[0].Qtype == dns.TypeA {
			a.Id--
			a.Question[0].Name = "evil.example."
		}
		return a
	}
	f := forwarding(t, r.listenAt(t, "127.0.0.2", 0), "127.0.0.2")
	for _, kind := range []uint16{dns.TypeTXT, dns.TypeA} {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if answer, err := f.ask(ctx, asked(t, "example.org.", kind), false, client); err == nil {
			t.Errorf("taken: %s", text(t, answer))
		}
	}
}

// TestLoop: a question that comes back is not sent again, whoever brings it.
func TestLoop(t *testing.T) {
	r := &resolver{}
	f := forwarding(t, 0, "127.0.0.2")
	results := make(chan [2]error, 8)
	r.answer = func(m *dns.Msg) *dns.Msg {
		m.Id = 7
		b, _ := m.Pack()
		_, straight := f.ask(context.Background(), b, false, addr("127.0.0.2"))
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, around := f.ask(ctx, b, false, client)
		results <- [2]error{straight, around}
		return nil
	}
	f.port = r.listenAt(t, "127.0.0.2", 0)
	if _, err := f.ask(context.Background(), asked(t, "LOOP.example.", dns.TypeA), false, client); err == nil {
		t.Error("a loop was answered")
	}
	result := <-results
	straight, around := result[0], result[1]
	if !errors.Is(straight, errLoop) || !errors.Is(around, context.DeadlineExceeded) || r.asked.Load() != 1 {
		t.Errorf("straight back: %v; around: %v; asked %d times", straight, around, r.asked.Load())
	}
	if f.refused.Load() != 1 {
		t.Errorf("%d loops counted", f.refused.Load())
	}
}

// TestAlike: who asks the same at once is answered by one question, each in his words.
func TestAlike(t *testing.T) {
	arrived, release := make(chan struct{}, 20), make(chan struct{})
	r := &resolver{answer: func(m *dns.Msg) *dns.Msg { arrived <- struct{}{}; <-release; return says("once")(m) }}
	f := forwarding(t, r.listenAt(t, "127.0.0.2", 0), "127.0.0.2")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			name := "example.org."
			if i%2 == 0 {
				name = "EXAMPLE.org."
			}
			answer, err := f.ask(context.Background(), asked(t, name, dns.TypeTXT), false, client)
			if err != nil || text(t, answer) != `NOERROR "once"` {
				t.Errorf("%v, %v", answer, err)
				return
			}
			if m, _ := answered(t, answer); m.Question[0].Name != name {
				t.Errorf("asked for %s, answered for %s", name, m.Question[0].Name)
			}
		})
	}
	<-arrived
	close(release)
	wg.Wait()
	if n := r.asked.Load(); n > 10 { // a late one may find that the first has its answer
		t.Errorf("asked %d times", n)
	}
}

// TestCrowdOfAlike: a client that asks for one name in many forms is refused at last, and
// keeps nobody else from asking for it.
func TestCrowdOfAlike(t *testing.T) {
	arrived, release := make(chan struct{}, 20), make(chan struct{})
	r := &resolver{answer: func(m *dns.Msg) *dns.Msg { arrived <- struct{}{}; <-release; return says("once")(m) }}
	f := forwarding(t, r.listenAt(t, "127.0.0.2", 0), "127.0.0.2")
	form := func(i int) []byte { return asked(t, "example.org.", dns.TypeTXT, edns(uint16(600+i))) }
	var wg sync.WaitGroup
	for i := range maxAlike {
		wg.Go(func() { f.ask(context.Background(), form(i), false, client) })
		<-arrived
	}
	if _, err := f.ask(context.Background(), form(maxAlike), false, client); !errors.Is(err, errAlike) {
		t.Errorf("one form too many: %v", err)
	}
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		answer, err := f.ask(context.Background(), form(maxAlike), false, addr("192.0.2.77"))
		if err != nil || text(t, answer) != `NOERROR "once"` {
			t.Errorf("another client: %v, %v", answer, err)
		}
	})
	select {
	case <-arrived:
	case <-done:
	}
	close(release)
	wg.Wait()
}

// TestReread: a resolver file that changes is read again, and that of systemd-resolved
// is used in place of its stub.
func TestReread(t *testing.T) {
	f := forwarding(t, 53, "192.0.2.1")
	now := time.Now()
	if servers, _ := f.status(now); len(servers) != 1 {
		t.Fatal(servers)
	}
	if err := os.WriteFile(f.file, []byte("nameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch Example.ORG.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if servers, _ := f.status(now.Add(rereadEvery - 1)); len(servers) != 1 {
		t.Errorf("read again at once: %v", servers)
	}
	servers, search := f.status(now.Add(rereadEvery))
	if len(servers) != 2 || !slices.Equal(search, []string{"example.org"}) {
		t.Errorf("%v, %v", servers, search)
	}
}

func TestParseResolver(t *testing.T) {
	r := ParseResolver([]byte("# c\nnameserver 10.0.0.1 ; x\nnameserver nonsense\nnameserver\nnameserver fe80::1%eth0\nnameserver ::ffff:10.0.0.1\nnameserver 0.0.0.0\n" +
		"domain old.example\nsearch A.example b.example. ../x\noptions ndots:5\n" + strings.Repeat("nameserver 10.0.0.2\n", 3)))
	if want := []netip.Addr{addr("10.0.0.1"), addr("fe80::1%eth0"), addr("10.0.0.2")}; !slices.Equal(r.Servers, want) {
		t.Errorf("servers %v", r.Servers)
	}
	if want := []string{"a.example", "b.example"}; !slices.Equal(r.Search[:2], want) {
		t.Errorf("search %v", r.Search)
	}
	for text, want := range map[string]bool{"nameserver 127.0.0.53": true, "nameserver 127.0.0.53\nnameserver 127.0.0.54": true, "nameserver 127.0.0.53\nnameserver 10.0.0.1": false, "": false} {
		if got := ParseResolver([]byte(text)).stub(); got != want {
			t.Errorf("%q: stub %v", text, got)
		}
	}
}

func FuzzParseResolver(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\nsearch a b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := ParseResolver(b)
		if len(r.Servers) > maxServers || len(r.Search) > maxSearch {
			t.Errorf("%d servers, %d domains", len(r.Servers), len(r.Search))
		}
	})
}

// TestServer asks a server over UDP and TCP: names of the zone, names of others, one
// too large for UDP; and too many at once.
func TestServer(t *testing.T) {
	up := &resolver{answer: says("upstream")}
	port := up.listenAt(t, "127.0.0.2", 0)
	f := forwarding(t, port, "127.0.0.2")
	own, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := own.LocalAddr().(*net.UDPAddr).AddrPort()
	own.Close()
	ctx, cancel := context.WithCancel(context.Background())
	s := NewServer(ServerConfig{Resolver: f.file, Log: slog.New(slog.DiscardHandler)}, small())
	s.forward.port = port
	place := Place{Address: at.Addr(), Port: at.Port()}
	if err := s.Listen(place); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	ask := func(network, name string, kind uint16) (*dns.Msg, error) {
		m := new(dns.Msg)
		m.SetQuestion(name, kind)
		c := dns.Client{Net: network, Timeout: 5 * time.Second}
		answer, _, err := c.Exchange(m, at.String())
		return answer, err
	}
	for _, network := range []string{"udp", "tcp"} {
		if m, err := ask(network, "web.x.internal.", dns.TypeA); err != nil || len(m.Answer) != 2 {
			t.Errorf("%s: %v, %v", network, m, err)
		}
		if m, err := ask(network, "example.org.", dns.TypeTXT); err != nil || len(m.Answer) != 1 {
			t.Errorf("%s: %v, %v", network, m, err)
		}
		m, err := ask(network, "crowd.x.internal.", dns.TypeA)
		if err != nil || m.Truncated != (network == "udp") || network == "tcp" && len(m.Answer) != 200 {
			t.Errorf("%s: %v, %v", network, m, err)
		}
	}
	// Stub resolvers ask for A and AAAA by turns; each must come in changing order.
	first := make(map[string]int)
	for range 40 {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if m, err := ask("udp", "pair.x.internal.", kind); err != nil || len(m.Answer) != 2 {
				t.Fatalf("%v, %v", m, err)
			} else {
				first[m.Answer[0].String()]++
			}
		}
	}
	if len(first) != 4 {
		t.Errorf("of two addresses of each kind, first were %v", first)
	}
	s.SetZone(NewZone("x.internal"))
	if m, err := ask("udp", "web.x.internal.", dns.TypeA); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("%v, %v", m, err)
	}
	for range maxClientForwards {
		s.forwards.take(addr("127.0.0.1"))
	}
	for _, network := range []string{"udp", "tcp"} {
		if m, err := ask(network, "example.org.", dns.TypeTXT); err != nil || m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s, too many at once: %v, %v", network, m, err)
		}
	}
	if n := s.Counters()["dns_busy"]; n != 2 {
		t.Errorf("%d refused as too many", n)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	if m, err := ask("tcp", "web.x.internal.", dns.TypeA); err == nil {
		t.Errorf("answered at no place: %v", m)
	}
	taken := place
	taken.Address = addr("192.0.2.1")
	if err := s.Listen(place, taken); err == nil {
		t.Error("an address of nobody was listened at")
	}
	if m, err := ask("tcp", "web.x.internal.", dns.TypeA); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("at the other place: %v, %v", m, err)
	}
	// A client that sends half a message, and one that sends none, are let go at the end.
	for _, bytes := range []string{"\x00", "\x00\xff\x01", "\x00\x00"} {
		conn, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte(bytes))
	}
}

func TestLimit(t *testing.T) {
	l := newLimit(3, 2)
	a, b := addr("10.0.0.1"), addr("10.0.0.2")
	for i, c := range []struct {
		client netip.Addr
		want   bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {b, false}} {
		if got := l.take(c.client); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	l.done(a)
	l.done(a)
	l.done(b)
	if l.total != 0 || len(l.of) != 0 {
		t.Errorf("left: %d, %v", l.total, l.of)
	}
}
