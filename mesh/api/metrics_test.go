package api

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write what a full status comes to into testdata")

// fullScrape is a host with something of everything.
func fullScrape() *scrape {
	const a, b, c, d, e = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c", "02:00:00:00:00:0d", "02:00:00:00:00:0e"
	return &scrape{
		Status: Status{
			Software: "v1.0.0", Name: b, Nickname: "b", Network: "00112233445566778899aabbccddeeff", Cipher: "auto", Mode: "bridge",
			Started: time.UnixMilli(1_700_000_000_250), UptimeSec: 3725, Warnings: []string{"iptables drops what the bridge carries"},
			Peers: []Peer{ // in no order
				{Name: d, Nickname: "d", Alive: true, Reachable: true, Hops: 2, Via: "c", FramesOut: 4, BytesOut: 400, FramesIn: 5, BytesIn: 501},
				{Name: a, Nickname: "a", Alive: true, Reachable: true, Hops: 1, FramesOut: 1 << 40, BytesOut: 1 << 50, FramesIn: 1_000_000, BytesIn: 64_000_000},
				{Name: c, Nickname: "c", Alive: true, Reachable: true, Hops: 1},
				{Name: "02:00:00:00:00:0f", Nickname: "f", Alive: true},
				{Name: e, Nickname: "e"},
			},
			Links: []Link{
				{Peer: c, Nickname: "c", State: LinkUp, Path: "tcp", RTTMicro: 12345},
				{Peer: a, Nickname: "a", State: LinkUp, Path: "udp", RTTMicro: 431, Loss: 0.25, MTU: 1472},
				{Peer: e, Nickname: "e", State: LinkConnecting},
			},
			Targets: []Target{{State: TargetUp}, {State: TargetSelf}, {State: TargetWaiting}, {State: TargetWaiting}},
			Endpoints: []Endpoint{
				{State: EndpointHere}, {State: EndpointRemote}, {State: EndpointRemote}, {State: EndpointFenced},
			},
			IPAM: &IPAM{
				Hosts: []IPAMHost{{Host: b, Addresses: 128, Free: 120}, {Host: a, Addresses: 64, Free: 60}, {Host: c, Addresses: 64}},
				Used:  5, Held: 2, Resting: 1, Fenced: 1, Pending: 3, Conflicts: 1, SaveError: "no space left",
			},
			Counters: map[string]uint64{
				"frames_out": 1<<40 + 4, "bytes_out": 1<<50 + 400, "frames_in": 1_000_005, "bytes_in": 64_000_501,
				"drop_no_route": 3, "drop_receive_buffer_full": 12, "port_rule_forged_mac": 9, "dns_queries": 2, "control_accepted": 4, "new_thing": 6,
			},
		},
		usage: usage{cpu: 1500 * time.Millisecond, resident: 24 << 20, open: 31, mayOpen: 1024, goroutines: 40},
	}
}

func TestExposition(t *testing.T) {
	got := fullScrape().exposition()
	got = bytes.ReplaceAll(got, []byte(runtime.Version()), []byte("GO"))
	path := filepath.Join("testdata", "metrics.txt")
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := parseExposition(got); err != nil {
		t.Error(err)
	}
}

// sampleLine is a sample as a strict reader sees it.
type sampleLine struct {
	metric string
	labels map[string]string
	value  float64
}

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
)

// parseExposition reads the text format by its rules and by ours: a family's HELP, TYPE
// and samples stand together, in this order and once; counters end in _total and are
// numbers from 0 up; no sample stands twice; all is UTF-8 without control characters.
func parseExposition(text []byte) (samples []sampleLine, err error) {
	if !utf8.Valid(text) || len(text) > 0 && text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("not UTF-8, or the last line has no end")
	}
	var name, kind string // of the family being read
	seen := make(map[string]bool)
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		fail := func(what string) error { return fmt.Errorf("line %d: %s: %q", i+1, what, line) }
		if strings.ContainsFunc(line, unicode.IsControl) {
			return nil, fail("a control character")
		}
		if help, ok := strings.CutPrefix(line, "# HELP "); ok {
			var text string
			name, text, _ = strings.Cut(help, " ")
			if kind = ""; text == "" || !metricName.MatchString(name) || seen[name] {
				return nil, fail("a bad name, no help, or a second time")
			}
			seen[name] = true
			continue
		}
		if typed, ok := strings.CutPrefix(line, "# TYPE "); ok {
			of, what, _ := strings.Cut(typed, " ")
			if of != name || kind != "" || what != counter && what != gauge || strings.HasSuffix(name, "_total") != (what == counter) {
				return nil, fail("not the type of the family whose help stands before")
			}
			kind = what
			continue
		}
		s, err := parseSample(line)
		switch {
		case err != nil:
			return nil, fail(err.Error())
		case s.metric != name || kind == "":
			return nil, fail("outside of its family")
		case kind == counter && !(s.value >= 0):
			return nil, fail("a counter below 0")
		case seen[line[:strings.LastIndexByte(line, ' ')]+" "]:
			return nil, fail("a second time")
		}
		seen[line[:strings.LastIndexByte(line, ' ')]+" "] = true
		samples = append(samples, s)
	}
	return samples, nil
}

// parseSample reads name{label="value",…} value.
func parseSample(line string) (s sampleLine, err error) {
	end := strings.IndexAny(line, "{ ")
	if end < 0 {
		return s, fmt.Errorf("no value")
	}
	s.metric, s.labels = line[:end], make(map[string]string)
	rest := line[end:]
	if rest[0] == '{' {
		for rest[0] != '}' {
			name, quoted, ok := strings.Cut(rest[1:], "=")
			if !ok || !labelName.MatchString(name) || strings.HasPrefix(name, "__") || !strings.HasPrefix(quoted, `"`) {
				return s, fmt.Errorf("a bad label")
			}
			if _, twice := s.labels[name]; twice {
				return s, fmt.Errorf("label %s twice", name)
			}
			if s.labels[name], rest, err = unquoteLabel(quoted[1:]); err != nil {
				return s, err
			}
			if rest == "" || rest[0] != ',' && rest[0] != '}' {
				return s, fmt.Errorf("neither a comma nor a brace behind a label")
			}
		}
		rest = rest[1:]
	}
	if !strings.HasPrefix(rest, " ") || !metricName.MatchString(s.metric) {
		return s, fmt.Errorf("no name and value")
	}
	s.value, err = strconv.ParseFloat(rest[1:], 64)
	return s, err
}

// unquoteLabel reads up to the closing quotation mark, and knows three escapes.
func unquoteLabel(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			i++
			at := -1
			if i < len(s) {
				at = strings.IndexByte(`\"n`, s[i])
			}
			if at < 0 {
				return "", "", fmt.Errorf("an unknown escape")
			}
			b.WriteByte("\\\"\n"[at])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf("a label without an end")
}

// TestParserIsStrict: the reader of the tests refuses what it is there to find.
func TestParserIsStrict(t *testing.T) {
	const head = "# HELP a_total A.\n# TYPE a_total counter\n"
	if _, err := parseExposition([]byte(head + "a_total{x=\"\\\\\\\"\\n\",y=\"\"} 1\na_total 2\n")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"a_total 1\n", head + "a_total 1", head + "b_total 1\n", head + "a_total -1\n", head + "a_total NaN\n", head + "a_total\n",
		head + "a_total 1\na_total 2\n", head + "a_total{x=\"1\"} 1\na_total{x=\"1\"} 1\n", head + "a_total{x=\"\\t\"} 1\n", head + "a_total{x=\"\"1\"} 1\n",
		head + "a_total{x=1} 1\n", head + "a_total{x=\"1\"}1\n", head + "a_total{x=\"1} 1\n", head + "a_total{x=\"1\",x=\"2\"} 1\n", head + "a_total{__x=\"1\"} 1\n",
		head + "a_total{x=\"\xff\"} 1\n", head + "a_total{x=\"\x00\"} 1\n", head + "a_total 1 \n", head + "a_total one\n", head + "\n",
		head + head, "# TYPE a_total counter\n", "# HELP a A.\n# TYPE a counter\n", "# HELP a_total A.\n# TYPE a_total gauge\n", "# HELP a-b A.\n", "# HELP a\n",
	} {
		if s, err := parseExposition([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, s)
		}
	}
}

// anyText is text as another host may send it.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "a", "b", "\"} 1\n", "\\", "\x00", "\r\n", "\u0085", "\xff\xfe", "\xc3", "größe"}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 20), func(b []byte) string { return string(b) }))
}

// anyScrape is a status that no host would have.
func anyScrape() *rapid.Generator[*scrape] {
	return rapid.Custom(func(t *rapid.T) *scrape {
		text := func(what string) string { return anyText().Draw(t, what) }
		count := func(what string) uint64 { return rapid.Uint64().Draw(t, what) }
		n := func(what string) int { return rapid.IntRange(0, 6).Draw(t, what) }
		number := func(what string) int { return rapid.Int().Draw(t, what) }
		s := &scrape{Status: Status{Software: text("software"), Name: text("name"), Nickname: text("nickname"), Network: text("network"), Cipher: text("cipher"), Mode: text("mode"),
			UptimeSec: rapid.Int64().Draw(t, "uptime"), Started: time.UnixMilli(rapid.Int64().Draw(t, "started"))}}
		for range n("peers") {
			s.Peers = append(s.Peers, Peer{Name: text("peer"), Nickname: text("nickname"), Via: text("via"), Alive: rapid.Bool().Draw(t, "alive"), Reachable: rapid.Bool().Draw(t, "reachable"),
				FramesOut: count("out"), BytesOut: count("out"), FramesIn: count("in"), BytesIn: count("in")})
		}
		for range n("links") {
			s.Links = append(s.Links, Link{Peer: text("peer"), Nickname: text("nickname"), State: text("state"), Path: text("path"),
				RTTMicro: rapid.Int64().Draw(t, "rtt"), Loss: rapid.SampledFrom([]float64{0, 0.25, 1e-9, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64}).Draw(t, "loss"), MTU: number("mtu")})
		}
		for range n("targets") {
			s.Targets = append(s.Targets, Target{State: text("state")})
			s.Endpoints = append(s.Endpoints, Endpoint{State: text("state")})
			s.Warnings = append(s.Warnings, text("warning"))
		}
		if rapid.Bool().Draw(t, "ipam") {
			s.IPAM = &IPAM{Used: number("used"), Held: number("held"), SaveError: text("error")}
			for range n("hosts") {
				s.IPAM.Hosts = append(s.IPAM.Hosts, IPAMHost{Host: rapid.SampledFrom([]string{s.Name, "a"}).Draw(t, "host"), Addresses: number("addresses"), Free: number("free")})
			}
		}
		prefix := rapid.SampledFrom([]string{"", "drop_", "port_rule_", "drop_port_rule_"})
		s.Counters = rapid.MapOf(rapid.Custom(func(t *rapid.T) string { return prefix.Draw(t, "prefix") + anyText().Draw(t, "counter") }), rapid.Uint64()).Draw(t, "counters")
		return s
	})
}

// TestExpositionOfAnything: whatever a status holds, the answer keeps the format's rules,
// and depends on nothing but the status.
func TestExpositionOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyScrape().Draw(t, "status")
		text := s.exposition()
		samples, err := parseExposition(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		for _, p := range s.Peers {
			if !slices.ContainsFunc(samples, func(l sampleLine) bool {
				return l.metric == "ripstop_peer_sent_frames_total" && l.labels["peer"] == clean(p.Name) && l.labels["nickname"] == clean(p.Nickname)
			}) {
				t.Errorf("peer %q %q is nowhere in\n%s", p.Name, p.Nickname, text)
			}
		}
		slices.Reverse(s.Peers)
		slices.Reverse(s.Links)
		slices.Reverse(s.Endpoints)
		if again := s.exposition(); !bytes.Equal(text, again) {
			t.Errorf("in another order\n%s\ncomes to\n%s", text, again)
		}
	})
}

// TestHostileNicknames: a nickname is a label's value and nothing more.
func TestHostileNicknames(t *testing.T) {
	for nickname, want := range map[string]string{
		`a"} 1`:                 `nickname="a\"} 1"`,
		"a\nripstop_warnings 9": `nickname="a\nripstop_warnings 9"`,
		`a\`:                    `nickname="a\\"`,
		`\n`:                    `nickname="\\n"`,
		"a\xff\x00\x1b[2J\r":    `nickname="a` + "\ufffd\ufffd\ufffd[2J\ufffd" + `"`,
		"{a=\"b\",c}":           `nickname="{a=\"b\",c}"`,
		"größe 😀":               `nickname="größe 😀"`,
	} {
		s := &scrape{Status: Status{Peers: []Peer{{Name: "x", Nickname: nickname}}, Links: []Link{{Peer: "x", Nickname: nickname}}}}
		text := s.exposition()
		samples, err := parseExposition(text)
		if err != nil || !bytes.Contains(text, []byte(`ripstop_peer_reachable{peer="x",`+want+"} 0\n")) || !bytes.Contains(text, []byte(`ripstop_link_up{peer="x",`+want+"} 0\n")) {
			t.Errorf("%q: %v in\n%s", nickname, err, text)
		}
		if plain, _ := parseExposition((&scrape{Status: Status{Peers: make([]Peer, 1), Links: make([]Link, 1)}}).exposition()); len(samples) != len(plain) {
			t.Errorf("%q makes %d samples, an empty one %d", nickname, len(samples), len(plain))
		}
	}
}

// TestEveryCounterIsTold: no counter of a status is left out, or told twice.
func TestEveryCounterIsTold(t *testing.T) {
	s := &scrape{Status: Status{Counters: map[string]uint64{"drop_a": 1 << 20, "port_rule_b": 1 << 21, "c_later": 1 << 22, "drop": 1 << 23}}}
	for i, c := range counted {
		s.Counters[c.counter] = 1<<30 + uint64(i)
	}
	samples, err := parseExposition(s.exposition())
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range s.Counters {
		var told []string
		for _, l := range samples {
			if l.value == float64(n) {
				told = append(told, l.metric+fmt.Sprint(l.labels))
			}
		}
		want := map[string]string{"drop_a": "ripstop_dropped_total map[reason:a]", "port_rule_b": "ripstop_dropped_total map[reason:port_rule_b]",
			"c_later": "ripstop_other_total map[counter:c_later]", "drop": "ripstop_other_total map[counter:drop]"}[name]
		if len(told) != 1 || want != "" && told[0] != strings.Replace(want, " ", "", 1) {
			t.Errorf("%s is told as %v", name, told)
		}
	}
}

// TestMetricNames holds the conventions: a prefix, base units, _total for what only grows.
func TestMetricNames(t *testing.T) {
	for _, m := range metrics {
		if !strings.HasPrefix(m.name, "ripstop_") && !strings.HasPrefix(m.name, "process_") && m.name != "go_goroutines" {
			t.Errorf("%s: whose is it?", m.name)
		}
		if regexp.MustCompile(`_(ms|us|milliseconds|microseconds|percent|kilobytes|mib)(_|$)|_(count|sum|bucket)$`).MatchString(m.name) || !metricName.MatchString(m.name) {
			t.Errorf("%s: not a base unit, or a name of another type", m.name)
		}
		if strings.HasSuffix(m.name, "_total") != (m.kind == counter) {
			t.Errorf("%s is a %s", m.name, m.kind)
		}
		if m.help == "" || m.help != clean(m.help) || strings.ContainsAny(m.help, "|\n\\`") || !strings.HasSuffix(m.help, ".") && !strings.HasSuffix(m.help, ").") {
			t.Errorf("%s: help %q", m.name, m.help)
		}
	}
}

// TestDocumentedMetrics: docs/metrics.md lists each metric as the program has it, in its
// order, and its rules name no other.
func TestDocumentedMetrics(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	var listed, want []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `") {
			listed = append(listed, strings.TrimSpace(line))
		}
	}
	known := make(map[string]bool)
	for _, m := range metrics {
		known[m.name] = true
		labels := ""
		for _, l := range m.labels {
			known[l] = true
			labels += " `" + l + "`"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s |%s | %s |", m.name, m.kind, labels, m.help))
	}
	if !slices.Equal(listed, want) {
		i := 0
		for i < min(len(listed), len(want)) && listed[i] == want[i] {
			i++
		}
		t.Errorf("docs/metrics.md differs from row %d on; the rows are\n%s", i+1, strings.Join(want, "\n"))
	}
	for _, name := range regexp.MustCompile(`\b(ripstop|process|go)_[a-z_]+`).FindAllString(string(text), -1) {
		if !known[name] {
			t.Errorf("docs/metrics.md speaks of %s, which there is not", name)
		}
	}
}

// TestUsage: what is asked of the kernel is plausible, and more once more is used.
func TestUsage(t *testing.T) {
	before := readUsage()
	if before.resident < 1<<20 || before.open < 3 || before.mayOpen < uint64(before.open) || before.goroutines < 2 || before.cpu <= 0 {
		t.Errorf("%+v", before)
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if after := readUsage(); after.open != before.open+1 || after.cpu < before.cpu {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if n := cmp.Compare(residentMemory(), 1<<40); n > 0 {
		t.Error("a terabyte of memory")
	}
}
