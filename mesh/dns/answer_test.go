package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// small is a zone with one of everything.
func small() *Zone {
	var crowd []netip.Addr
	for i := range 200 {
		crowd = append(crowd, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	return NewZone("x.internal").Set(
		Change{"1", []Record{{Name: "web", Addresses: addrs("10.0.0.1", "fd00::1"), Reverse: true}, {Name: "web.a", Addresses: addrs("10.0.0.1", "fd00::1")}}},
		Change{"2", []Record{{Name: "web", Addresses: addrs("10.0.0.2"), Reverse: true}}},
		Change{"3", []Record{{Name: "six", Addresses: addrs("fd00::6"), Reverse: true}}},
		Change{"4", []Record{{Name: "_h._tcp.web", Port: 80, Target: "web.a"}}},
		Change{"5", []Record{{Name: "crowd", Addresses: crowd}}},
		Change{"6", []Record{{Name: "alias", Addresses: addrs("10.0.0.2"), Reverse: true}}},
		Change{"7", []Record{{Name: "a.b.c", Addresses: addrs("10.0.0.9")}}},
		Change{"8", []Record{{Name: "pair", Addresses: addrs("10.0.0.21", "10.0.0.22", "fd00::21", "fd00::22")}}},
	)
}

// asked packs a question.
func asked(t testing.TB, name string, kind uint16, change ...func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	m.Id = 0x1234
	for _, c := range change {
		c(m)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func edns(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, false) } }

// answered unpacks an answer and gives its code and sorted data.
func answered(t testing.TB, b []byte) (*dns.Msg, string) {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	var data []string
	for _, r := range m.Answer {
		data = append(data, strings.TrimPrefix(r.String(), r.Header().String()))
	}
	slices.Sort(data)
	return m, strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(data, ", "))
}

func TestAnswers(t *testing.T) {
	z := small()
	reverse6, _ := dns.ReverseAddr("fd00::6")
	for _, c := range []struct {
		name string
		kind uint16
		want string // empty: forwarded
	}{
		{"web.x.internal.", dns.TypeA, "NOERROR 10.0.0.1, 10.0.0.2"},
		{"WEB.X.internal.", dns.TypeAAAA, "NOERROR fd00::1"},
		{"web.a.x.internal.", dns.TypeA, "NOERROR 10.0.0.1"},
		{"web.x.internal.", dns.TypeANY, "NOERROR 10.0.0.1, 10.0.0.2, fd00::1"},
		{"web.x.internal.", dns.TypeMX, "NOERROR"},
		{"six.x.internal.", dns.TypeA, "NOERROR"},
		{"_h._tcp.web.x.internal.", dns.TypeSRV, "NOERROR 0 0 80 web.a.x.internal."},
		{"_h._tcp.web.x.internal.", dns.TypeA, "NOERROR"},
		{"_tcp.web.x.internal.", dns.TypeSRV, "NOERROR"}, // there is something below it
		{"b.c.x.internal.", dns.TypeA, "NOERROR"},
		{"c.x.internal.", dns.TypeA, "NOERROR"},
		{"d.c.x.internal.", dns.TypeA, "NXDOMAIN"},
		{"nobody.x.internal.", dns.TypeA, "NXDOMAIN"},
		{`a\.b.x.internal.`, dns.TypeA, "NXDOMAIN"},
		{`\000.x.internal.`, dns.TypeA, "NXDOMAIN"},
		{"x.internal.", dns.TypeA, "NOERROR"},
		{"x.internal.", dns.TypeNS, "NOERROR x.internal."},
		{"x.internal.", dns.TypeSOA, "NOERROR x.internal. hostmaster.x.internal. 1 3600 600 86400 1"},
		{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR web.x.internal."},
		{"2.0.0.10.in-addr.arpa.", dns.TypePTR, "NOERROR alias.x.internal., web.x.internal."},
		{"2.0.0.10.in-addr.arpa.", dns.TypeA, "NOERROR"},
		{reverse6, dns.TypePTR, "NOERROR six.x.internal."},
		{"web.x.internal.", dns.TypeAXFR, "NOERROR"},
		{"3.0.0.10.in-addr.arpa.", dns.TypePTR, ""},
		{"9.0.0.10.in-addr.arpa.", dns.TypePTR, ""},
		{"01.0.0.10.in-addr.arpa.", dns.TypePTR, ""},
		{"0.10.in-addr.arpa.", dns.TypePTR, ""},
		{"example.org.", dns.TypeA, ""},
		{"internal.", dns.TypeA, ""},
		{"yx.internal.", dns.TypeA, ""},
		{`y\.x.internal.`, dns.TypeA, ""},
		{".", dns.TypeNS, ""},
		{"example.org.", dns.TypeAXFR, "REFUSED"},
	} {
		for _, change := range []func(*dns.Msg){func(*dns.Msg) {}, edns(1232)} {
			query := asked(t, c.name, c.kind, change)
			out, verdict := z.Answer([]byte("in front"), query, false, 0)
			if c.want == "" {
				if verdict != Forward {
					t.Errorf("%s %d: verdict %d", c.name, c.kind, verdict)
				}
				continue
			}
			m, got := answered(t, out[len("in front"):])
			if verdict != Answered || got != c.want {
				t.Errorf("%s %s: verdict %d, %s; not %s", c.name, dns.TypeToString[c.kind], verdict, got, c.want)
			}
			asks := new(dns.Msg)
			asks.Unpack(query)
			switch {
			case m.Id != 0x1234 || !m.Response || !m.RecursionAvailable || !m.RecursionDesired || m.Question[0] != asks.Question[0]:
				t.Errorf("%s: head %+v", c.name, m)
			case m.Rcode != dns.RcodeRefused && !m.Authoritative:
				t.Errorf("%s: not authoritative", c.name)
			case (m.IsEdns0() != nil) != (asks.IsEdns0() != nil):
				t.Errorf("%s: EDNS answered by none, or the reverse", c.name)
			case len(m.Answer) == 0 && m.Authoritative && !strings.HasSuffix(c.name, "arpa.") && (len(m.Ns) != 1 || m.Ns[0].(*dns.SOA).Minttl != TTL):
				t.Errorf("%s: nothing says how long it may be remembered: %v", c.name, m.Ns)
			}
			for _, r := range m.Answer {
				if r.Header().Ttl != TTL {
					t.Errorf("%s: TTL %d", c.name, r.Header().Ttl)
				}
			}
		}
	}
}

// TestQuickIsSlow: the fast path says what miekg/dns says.
func TestQuickIsSlow(t *testing.T) {
	z := small()
	quick := 0
	reverse6, _ := dns.ReverseAddr("fd00::6")
	for _, name := range []string{"web.x.internal.", "WeB.a.x.internal.", "six.x.internal.", "crowd.x.internal.", "1.0.0.10.in-addr.arpa.", reverse6, "no.x.internal."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeTXT} {
			for _, change := range []func(*dns.Msg){func(*dns.Msg) {}, edns(100), edns(900), edns(4096), func(m *dns.Msg) { m.SetEdns0(1232, true) }, func(m *dns.Msg) { m.RecursionDesired = false }} {
				for _, tcp := range []bool{false, true} {
					for turn := range uint32(3) {
						query := asked(t, name, kind, change)
						var buf [256]byte
						q, ok := parseQuestion(query, &buf)
						if !ok {
							t.Fatalf("%s: a common question is not read as one", name)
						}
						if tcp {
							q.size = maxTCP
						}
						fast, ok := z.quick(nil, query, &q, turn)
						if !ok {
							continue
						}
						quick++
						slow, verdict := z.slow(nil, query, tcp, turn)
						a, b := new(dns.Msg), new(dns.Msg)
						if err := a.Unpack(fast); err != nil || verdict != Answered {
							t.Fatalf("%s: %v, verdict %d", name, err, verdict)
						}
						b.Unpack(slow)
						if a.String() != b.String() {
							t.Errorf("%s %d: fast:\n%v\nslow:\n%v", name, kind, a, b)
						}
					}
				}
			}
		}
	}
	if quick < 100 {
		t.Errorf("only %d questions were answered fast", quick)
	}
}

func TestOddQueries(t *testing.T) {
	z := small()
	for name, c := range map[string]struct {
		query []byte
		want  string
	}{
		"an update":         {asked(t, "web.x.internal.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		"no question":       {asked(t, "web.x.internal.", dns.TypeA, func(m *dns.Msg) { m.Question = nil }), "FORMERR"},
		"two questions":     {asked(t, "web.x.internal.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR"},
		"class CHAOS":       {asked(t, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED"},
		"not recursive":     {asked(t, "example.org.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }), "REFUSED"},
		"EDNS of version 1": {asked(t, "web.x.internal.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), "BADVERS"},
		"a cookie": {asked(t, "web.a.x.internal.", dns.TypeA, func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
		}), "NOERROR 10.0.0.1"},
		"bytes behind": {append(asked(t, "web.a.x.internal.", dns.TypeA), 1, 2, 3), "NOERROR 10.0.0.1"},
	} {
		out, verdict := z.Answer(nil, c.query, false, 0)
		if verdict != Answered {
			t.Errorf("%s: verdict %d", name, verdict)
			continue
		}
		if _, got := answered(t, out); strings.Replace(got, "BADSIG", "BADVERS", 1) != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
	answer := asked(t, "web.x.internal.", dns.TypeA, func(m *dns.Msg) { m.Response = true })
	if _, verdict := z.Answer(nil, answer, false, 0); verdict != Drop {
		t.Errorf("an answer got verdict %d", verdict)
	}
}

// TestCut: queries cut at every byte, and with every byte changed, never panic, and
// what is answered can be read.
func TestCut(t *testing.T) {
	z := small()
	try := func(q []byte) {
		for _, tcp := range []bool{false, true} {
			out, verdict := z.Answer(nil, q, tcp, 3)
			if verdict == Answered {
				answered(t, out)
			}
			if verdict == Forward {
				if end, ok := questionEnd(q); !ok || end > len(q) {
					t.Errorf("%x is forwarded without a question", q)
				}
			}
		}
	}
	for _, q := range [][]byte{
		asked(t, "web.x.internal.", dns.TypeA, edns(1232)),
		asked(t, "_h._tcp.web.x.internal.", dns.TypeSRV),
		asked(t, "1.0.0.10.in-addr.arpa.", dns.TypePTR),
		asked(t, "example.org.", dns.TypeMX, edns(4096)),
	} {
		for i := range q {
			try(q[:i])
			for _, b := range []byte{0, 1, 0x3f, 0x40, 0xc0, 0xff, q[i] ^ 0x80, q[i] + 1} {
				changed := slices.Clone(q)
				changed[i] = b
				try(changed)
			}
		}
	}
}

// TestSizes: an answer that does not fit is cut over UDP and whole over TCP.
func TestSizes(t *testing.T) {
	z := small()
	for _, c := range []struct {
		change func(*dns.Msg)
		tcp    bool
		limit  int
		whole  bool
	}{
		{func(*dns.Msg) {}, false, 512, false},
		{edns(100), false, 512, false},
		{edns(900), false, 900, false},
		{edns(65535), false, 1232, false},
		{func(*dns.Msg) {}, true, 65535, true},
	} {
		out, _ := z.Answer(nil, asked(t, "crowd.x.internal.", dns.TypeA, c.change), c.tcp, 5)
		m, _ := answered(t, out)
		if len(out) > c.limit || m.Truncated == c.whole || c.whole && len(m.Answer) != 200 {
			t.Errorf("limit %d: %d bytes, truncated %v, %d records", c.limit, len(out), m.Truncated, len(m.Answer))
		}
	}
}

// TestEdges: whatever an answer's length comes to, it is at most what was asked for.
func TestEdges(t *testing.T) {
	for pad := range 16 {
		name := "n" + strings.Repeat("x", pad)
		for n := 60; n < 80; n++ {
			var list []netip.Addr
			for i := range n {
				list = append(list, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
			}
			z := NewZone("x.internal").Set(Change{"s", []Record{{Name: name, Addresses: list}}})
			out, _ := z.Answer(nil, asked(t, name+".x.internal.", dns.TypeA, edns(1232)), false, 0)
			if m, _ := answered(t, out); len(out) > 1232 || !m.Truncated && len(m.Answer) != n {
				t.Fatalf("%d addresses: %d bytes, %d records, truncated %v", n, len(out), len(m.Answer), m.Truncated)
			}
		}
	}
}

// TestTurns: every address stands first in its turn.
func TestTurns(t *testing.T) {
	z := small()
	first := make(map[string]int)
	for turn := range uint32(200) {
		out, _ := z.Answer(nil, asked(t, "crowd.x.internal.", dns.TypeA), true, turn)
		m, _ := answered(t, out)
		first[m.Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 200 {
		t.Errorf("%d of 200 addresses stood first", len(first))
	}
}

func TestQuickDoesNotAllocate(t *testing.T) {
	z := small()
	queries := [][]byte{asked(t, "web.x.internal.", dns.TypeA, edns(1232)), asked(t, "1.0.0.10.in-addr.arpa.", dns.TypePTR)}
	out := make([]byte, 0, maxSize)
	for _, q := range queries {
		if n := testing.AllocsPerRun(100, func() { z.Answer(out, q, false, 7) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	z := small()
	for _, name := range []string{"web.x.internal.", "example.org.", "1.0.0.10.in-addr.arpa."} {
		f.Add(asked(f, name, dns.TypeA), false)
		f.Add(asked(f, name, dns.TypePTR, edns(1232)), true)
	}
	f.Fuzz(func(t *testing.T, q []byte, tcp bool) {
		out, verdict := z.Answer(nil, q, tcp, 1)
		if verdict == Answered {
			answered(t, out)
		}
		sameQuestion(q, out)
		refuse(nil, append(q, make([]byte, headerLen)...), 2)
	})
}

// BenchmarkAnswer answers out of 200 000 names.
func BenchmarkAnswer(b *testing.B) {
	z := NewZone(DefaultDomain).Set(many(benchNames)...)
	var queries [][]byte
	for i := range 1024 {
		queries = append(queries, asked(b, fmt.Sprintf("name%d.%s.", i*191, DefaultDomain), dns.TypeA))
	}
	out := make([]byte, 0, maxSize)
	i := 0
	for b.Loop() {
		if _, verdict := z.Answer(out, queries[i%len(queries)], false, uint32(i)); verdict != Answered {
			b.Fatal(verdict)
		}
		i++
	}
}
