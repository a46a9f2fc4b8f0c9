package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// sample is a report of three rounds in which the second of wireguard-go failed.
func sample(t *testing.T, args ...string) *report {
	t.Helper()
	opt, err := parse(append(args, "-rounds", "3"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	r := newResults()
	r.rounds = 3
	r.failures = []error{errors.New("round 2, wireguard-go: it <broke> & ended")}
	for round, v := range []struct{ ripstop, wireguard float64 }{{6, 2}, {9, math.NaN()}, {8, 2}} {
		a := &turn{round: round, system: ripstop, results: r}
		a.set("tcp1.mean", v.ripstop)
		a.set("tcp1.out", v.ripstop)
		a.set("tcp1.retransmits", float64(round))
		a.set("udp100.rate", 100+v.ripstop)
		a.set("udp100.limited", 1)
		a.set("udp100.cpu", v.ripstop/4)
		a.set("memory.end", 30)
		a.pool("ping.idle.", []uint32{uint32(round+1) * 10_000})
		if !math.IsNaN(v.wireguard) {
			b := &turn{round: round, system: wireguardGo, results: r}
			b.set("tcp1.mean", v.wireguard)
			b.set("tcp1.out", v.wireguard)
			b.set("udp100.cpu", 6)
		}
	}
	systems := []*system{bareSystem()}
	for _, s := range allSystems(nil) {
		if s.name == ripstop || s.name == wireguardGo {
			systems = append(systems, s)
		}
	}
	m := machine{CPU: "Some <CPU> & Co", CPUs: 2, Kernel: "Linux", Go: "go", Root: true, Sysctls: map[string]string{"net.core.rmem_max": "1"}, Versions: map[string]string{ripstop: "ripstop devel"}}
	return newReport(opt, m, systems, []missing{{System: nebula, Program: "nebula", Get: "apt-get install nebula"}}, r)
}

func TestRatios(t *testing.T) {
	rep := sample(t)
	find := func(text string) ratio {
		t.Helper()
		for _, r := range rep.Ratios {
			if strings.HasPrefix(r.Text, text) {
				return r
			}
		}
		t.Fatalf("no ratio %q", text)
		return ratio{}
	}
	// Paired by round: 6/2 and 8/2; the round without a partner is left out.
	tcp := find("1 TCP stream: ripstop / wireguard-go")
	if tcp.Rounds != 2 || tcp.Result != (summary{3.5, 3, 4}) {
		t.Errorf("%+v", tcp)
	}
	if met, ok := tcp.met(); !met || !ok {
		t.Errorf("3.5 ≥ 2.5: %v, %v", met, ok)
	}
	cost := find("UDP 100 B, daemons' CPU")
	if met, ok := cost.met(); !met || !ok || math.Abs(cost.Result.Median-7.0/24) > 1e-9 {
		t.Errorf("%+v: %v, %v", cost, met, ok)
	}
	if memory := find("ripstop's peak memory"); memory.Rounds != 3 || memory.Result.Median != 30 {
		t.Errorf("%+v", memory)
	}
	for _, r := range rep.Ratios {
		if strings.Contains(r.Text, "VXLAN") || strings.Contains(r.Text, "bare") {
			t.Errorf("a ratio of what was not measured: %+v", r)
		}
	}
	for _, r := range sample(t, "-smoke").Ratios {
		if _, ok := r.met(); ok {
			t.Errorf("a smoke run judges: %+v", r)
		}
	}
}

// TestDifference: retransmits are compared with the bare underlay's by difference,
// which a ratio with zero could not.
func TestDifference(t *testing.T) {
	r := newResults()
	(&turn{system: ripstop, results: r}).set("tcp1.retransmits", 1.5)
	(&turn{system: bare, results: r}).set("tcp1.retransmits", 0)
	list := ratios(nil, r, true)
	if len(list) != 1 || list[0].Result.Median != 1.5 {
		t.Fatalf("%+v", list)
	}
	if met, ok := list[0].met(); met || !ok {
		t.Errorf("1.5 ≤ 1: %v, %v", met, ok)
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := sample(t).writeTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"2 × Some <CPU> & Co", "net.core.rmem_max = 1", "ripstop: ripstop devel", "3 of 3 rounds",
		"ripstop, sealed (L2)  8.00 (6.00–9.00)", "wireguard-go (L3)     2.00\n", "≥ 108 (106–109)",
		"1 TCP stream: ripstop / wireguard-go", "3.50 (3.00–4.00)", "wanted ≥ 2.50, goal 3.00: met", "2 rounds",
		"ripstop, sealed (L2), idle  3      20.0  30.0  30.0  30.0",
		"nebula is not measured: nebula is not installed: apt-get install nebula", "FAILED: round 2, wireguard-go",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for _, unwanted := range []string{"NaN", "bare underlay", "%!", "smoke"} {
		if strings.Contains(b.String(), unwanted) {
			t.Errorf("%q in\n%s", unwanted, b.String())
		}
	}
}

// failing is a writer that fails at once.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestReportTellsOfFailedWrites(t *testing.T) {
	rep := sample(t)
	for name, write := range map[string]func(io.Writer) error{"table": rep.writeTable, "JSON": rep.writeJSON, "chart": rep.writeChart} {
		if err := write(failing{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := sample(t).writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Version  int                          `json:"version"`
		Machine  map[string]any               `json:"machine"`
		Figures  map[string]map[string]figure `json:"figures"`
		Units    map[string]string            `json:"units"`
		Failures []string                     `json:"failures"`
		Ratios   []ratio                      `json:"ratios"`
		Pooled   map[string]map[string]any    `json:"pooled"`
		Options  map[string]any               `json:"options"`
		Missing  []map[string]string          `json:"missing"`
		Systems  []map[string]string          `json:"systems"`
		Rounds   int                          `json:"rounds_completed"`
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	values := got.Figures[wireguardGo]["tcp1.mean"].Values
	if len(values) != 3 || values[0] == nil || values[1] != nil || *values[2] != 2 {
		t.Errorf("the failed round is not null: %v", values)
	}
	if f := got.Figures[ripstop]["tcp1.mean"]; f.Median != 8 || f.Min != 6 || f.Max != 9 {
		t.Errorf("%+v", f)
	}
	if got.Version != reportVersion || got.Rounds != 3 || len(got.Failures) != 1 || len(got.Missing) != 1 || len(got.Systems) != 3 || len(got.Ratios) == 0 || got.Machine["cpus"] != 2.0 {
		t.Errorf("%+v", got)
	}
	for key, unit := range map[string]string{"tcp1.mean": "Gbit/s", "udp100.cpu": "µs", "memory.end": "MB"} {
		if got.Units[key] != unit {
			t.Errorf("unit of %s: %q, want %q", key, got.Units[key], unit)
		}
	}
}

// TestUnits: every figure that may be set has a unit.
func TestUnits(t *testing.T) {
	keys := []string{"load.tcp", "memory.end", "memory.relay"}
	for _, n := range streamCounts {
		for _, what := range []string{"out", "back", "mean", "retransmits", "cpu", "relay", "machine", "relayshare"} {
			keys = append(keys, tcpKey(n, what))
		}
	}
	for _, n := range []int{64, 1472} {
		for _, what := range []string{"rate", "cpu", "relay", "loss"} {
			keys = append(keys, udpKey(n, what))
		}
	}
	for _, when := range []string{"idle", "load"} {
		for _, kind := range []string{"ping", "request"} {
			keys = append(keys, latencyKey(kind, when, "lost"))
			for _, p := range percentiles {
				keys = append(keys, latencyKey(kind, when, p.name))
			}
		}
		keys = append(keys, latencyKey("request", when, "rate"))
	}
	for _, key := range keys {
		if unitOf(key) == "" {
			t.Errorf("%s has no unit", key)
		}
	}
	if !moreIsBetter("tcp4.mean") || !moreIsBetter("udp64.rate") || moreIsBetter("udp64.cpu") || moreIsBetter("ping.idle.p50") {
		t.Error("what is better")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0123: "0.012", 0.9994: "0.999", 0.9996: "1.00", 9.994: "9.99", 9.996: "10.0", 12.34: "12.3", 99.94: "99.9", 99.96: "100", 12345.6: "12346", -2.5: "-2.50"} {
		if got := number(v); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
}

// TestChart: the chart is well-formed, its bars are inside it, ripstop's are marked.
func TestChart(t *testing.T) {
	var b strings.Builder
	if err := sample(t).writeChart(&b); err != nil {
		t.Fatal(err)
	}
	type rect struct {
		Class string  `xml:"class,attr"`
		X     float64 `xml:"x,attr"`
		Y     float64 `xml:"y,attr"`
		Width float64 `xml:"width,attr"`
	}
	var svg struct {
		Width  float64  `xml:"width,attr"`
		Height float64  `xml:"height,attr"`
		Title  string   `xml:"title"`
		Texts  []string `xml:"text"`
		Bars   []rect   `xml:"rect"`
		Lines  []struct {
			X1 float64 `xml:"x1,attr"`
			X2 float64 `xml:"x2,attr"`
		} `xml:"line"`
	}
	if err := xml.Unmarshal([]byte(b.String()), &svg); err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	// One TCP stream has both systems, UDP only ripstop.
	if len(svg.Bars) != 3 || len(svg.Lines) != 2 {
		t.Fatalf("%d bars, %d ranges in\n%s", len(svg.Bars), len(svg.Lines), b.String())
	}
	if svg.Bars[0].Class != "bar ours" || svg.Bars[1].Class != "bar" {
		t.Errorf("%+v", svg.Bars)
	}
	if ratio := svg.Bars[0].Width / svg.Bars[1].Width; math.Abs(ratio-4) > 0.02 {
		t.Errorf("bars of 8 and 2 are as %g to 1", ratio)
	}
	for _, r := range svg.Bars {
		if r.X < 0 || r.X+r.Width > svg.Width || r.Y < 0 || r.Y > svg.Height {
			t.Errorf("%+v lies outside", r)
		}
	}
	for _, l := range svg.Lines {
		if l.X1 >= l.X2 || l.X2 > svg.Width {
			t.Errorf("range %+v", l)
		}
	}
	all := strings.Join(svg.Texts, "\n")
	for _, want := range []string{"ripstop, sealed (L2)", "8.00", "Some <CPU> & Co"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in %q", want, all)
		}
	}
	if !strings.Contains(b.String(), "prefers-color-scheme: dark") {
		t.Error("no colours for dark pages")
	}
}

func TestTurn(t *testing.T) {
	r := newResults()
	for round, v := range []float64{4, 5} {
		(&turn{round: round, system: "x", results: r}).set("k", v)
	}
	if v, ok := (&turn{round: 3, system: "x", results: r}).last("k"); !ok || v != 5 {
		t.Errorf("%g, %v", v, ok)
	}
	if _, ok := (&turn{round: 0, system: "x", results: r}).last("k"); ok {
		t.Error("there is none before the first round")
	}
}

func TestCPUModel(t *testing.T) {
	for text, want := range map[string]string{
		"processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU\n": "Intel(R) Xeon(R) CPU",
		"processor: 0\nModel: Raspberry Pi 4\n":                 "Raspberry Pi 4",
	} {
		if got := cpuModel(text); got != want {
			t.Errorf("%q", got)
		}
	}
	if got := cpuModel(""); !strings.HasPrefix(got, "unknown") {
		t.Errorf("%q", got)
	}
}
