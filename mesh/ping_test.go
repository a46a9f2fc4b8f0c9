package mesh

import (
	mathrand "math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/transport"
)

// TestChoosePath: only what is a path of the pair is ever chosen.
func TestChoosePath(t *testing.T) {
	at := func(a string) transport.Path { return transport.DirectPath(netip.MustParseAddrPort(a)) }
	tcp := transport.Path{Kind: transport.PathTCP}
	first, up, best := at("192.0.2.1:7"), at("192.0.2.2:7"), at("[2001:db8::3]:7")
	all := []transport.PathStatus{{Path: first}, {Path: tcp, Up: true}, {Path: up, Up: true}, {Path: best, Up: true, Best: true}, {Path: at("192.0.2.5:7"), Up: true}}
	for _, c := range []struct {
		word string
		of   []transport.PathStatus
		want transport.Path
	}{
		{"udp", all, best}, {"udp", all[:3], up}, {"udp", []transport.PathStatus{all[2], all[4], all[0]}, up}, {"udp", all[:2], first}, {"udp", all[1:2], transport.Path{}}, {"udp", nil, transport.Path{}},
		{"tcp", all, tcp}, {"tcp", all[:1], transport.Path{}},
		{"192.0.2.1:7", all, first}, {"[::ffff:192.0.2.2]:7", all, up}, {"[2001:db8::3]:7", all, best},
		{"192.0.2.1:8", all, transport.Path{}}, {"192.0.2.9:7", all, transport.Path{}},
	} {
		wanted, err := parsePathWord(c.word)
		if got := choosePath(c.of, wanted); err != nil || got != c.want {
			t.Errorf("%s of %d: %v, %v", c.word, len(c.of), got, err)
		}
	}
	for _, word := range []string{"relay", "UDP", "192.0.2.1", "vm1:7", "192.0.2.1:70000", strings.Repeat("x", 300)} {
		if _, err := parsePathWord(word); !api.IsCode(err, api.CodeInvalid) || len(err.Error()) > 200 {
			t.Errorf("%s: %v", word, err)
		}
	}
}

// TestPingRefuses: what cannot be asked is said at once or by its deadline, and leaves nothing.
func TestPingRefuses(t *testing.T) {
	n, _ := mappedNode(t)
	n.random = mathrand.New(mathrand.NewPCG(1, 2))
	b, c := mapped["b"], mapped["c"]
	n.peers[b].exchange.Want(time.Now(), false)
	for _, k := range []struct {
		q    api.PingRequest
		code api.Code
		text string
	}{
		{api.PingRequest{}, api.CodeInvalid, "has 1 to"},
		{api.PingRequest{Host: strings.Repeat("x", api.MaxPlace+1)}, api.CodeInvalid, "has 1 to"},
		{api.PingRequest{Host: "z"}, api.CodeNotFound, "no host z: `ripstop status peers` lists them"},
		{api.PingRequest{Host: "a"}, api.CodeInvalid, "a is this host"},
		{api.PingRequest{Host: n.identity.Name().String()}, api.CodeInvalid, "is this host"},
		{api.PingRequest{Host: "a", Timeout: api.Duration(time.Minute)}, api.CodeInvalid, "up to 10s"},
		{api.PingRequest{Host: "a", Timeout: -1}, api.CodeInvalid, "up to 10s"},
	} {
		if _, err := (*backend)(n).Ping(t.Context(), k.q); !api.IsCode(err, k.code) || !strings.Contains(err.Error(), k.text) {
			t.Errorf("%+v: %v", k.q, err)
		}
	}
	n.mu.Lock()
	for _, k := range []struct {
		to   crypto.Name
		path string
		code api.Code
		text string
	}{
		{b, "relay", api.CodeInvalid, "a path is udp, tcp"},
		{b, "tcp", api.CodeNotFound, "tcp is no path between this host and " + b.String() + "; there is udp 198.51.100.2:6783"},
		{b, "198.51.100.3:6783", api.CodeNotFound, "198.51.100.3:6783 is no path"},
		{c, "udp", api.CodeNotFound, "there is none: it is reached over others"},
		{mapped["f"], "udp", api.CodeNotFound, "there is none"},
		{mapped["f"], "", api.CodeUnavailable, "there is no way to " + mapped["f"].String() + " now: `ripstop explain"},
	} {
		if _, err := n.pingWay(k.to, k.path); !api.IsCode(err, k.code) || !strings.Contains(err.Error(), k.text) {
			t.Errorf("%v %s: %v", k.to, k.path, err)
		}
	}
	w, err := n.pingWay(b, "udp")
	if err != nil || w.path != transport.DirectPath(netip.MustParseAddrPort("198.51.100.2:6783")) || !w.via.IsZero() {
		t.Errorf("%+v, %v", w, err)
	}
	// There is no session: one is wanted.
	if err := n.sendPing(time.Now(), 1, b, w); !api.IsCode(err, api.CodeUnavailable) || n.peers[b].exchange.Status().Wanted.IsZero() {
		t.Errorf("%v, wanted %v", err, n.peers[b].exchange.Status().Wanted)
	}
	n.mu.Unlock()
	if len(n.pings) != 0 || n.pingers != 0 {
		t.Errorf("left: %d pings, %d callers", len(n.pings), n.pingers)
	}
}

// TestPongIsOfWhoWasAsked: nobody else's answer counts, and none twice.
func TestPongIsOfWhoWasAsked(t *testing.T) {
	n, _ := mappedNode(t)
	b, c := n.peers[mapped["b"]], n.peers[mapped["c"]]
	now := time.Now()
	g := &ping{to: b.Name, sent: now, pong: make(chan pong, 1)}
	n.pings = map[uint64]*ping{7: g}
	tcp := transport.Path{Kind: transport.PathTCP}
	n.pong(c, now, tcp, 7)
	n.pong(b, now, tcp, 8)
	if len(g.pong) != 0 || len(n.pings) != 1 {
		t.Fatal("an answer of another, or to another, was taken")
	}
	n.pong(b, now.Add(3*time.Millisecond), tcp, 7)
	n.pong(b, now.Add(4*time.Millisecond), tcp, 7)
	if got := <-g.pong; got != (pong{3 * time.Millisecond, tcp}) || len(n.pings) != 0 {
		t.Errorf("%+v, %d left", got, len(n.pings))
	}
}
