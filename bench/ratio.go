package main

import (
	"fmt"
	"strings"
)

// ratio is a comparison of two figures, made in each round.
type ratio struct {
	Text   string    `json:"text"`
	Result summary   `json:"result"`
	Rounds int       `json:"rounds"` // in which both were measured
	Values []float64 `json:"values"`
	AtMost bool      `json:"at_most"` // what is wanted is a greatest value, not a least
	Want   *float64  `json:"want,omitempty"`
	Goal   *float64  `json:"goal,omitempty"`
}

// met reports whether the wanted value is reached; ok is false where none is wanted.
func (r ratio) met() (met, ok bool) {
	if r.Want == nil {
		return false, false
	}
	if r.AtMost {
		return r.Result.Median <= *r.Want, true
	}
	return r.Result.Median >= *r.Want, true
}

// term is a figure of a system.
type term struct{ system, key string }

// comparison says which ratio is made of what; want and goal are 0 where there is none.
type comparison struct {
	text       string
	a, b       term
	difference bool // a − b instead of a / b
	single     bool // a alone
	atMost     bool
	want, goal float64
}

// comparisons are what ripstop is judged by, and what else is worth a look.
func comparisons(systems []*system) []comparison {
	all := []comparison{
		{text: "1 TCP stream: ripstop / wireguard-go", a: term{ripstop, "tcp1.mean"}, b: term{wireguardGo, "tcp1.mean"}, want: 2.5, goal: 3},
		{text: "1 TCP stream: ripstop / kernel VXLAN, which seals nothing", a: term{ripstop, "tcp1.mean"}, b: term{vxlan, "tcp1.mean"}, want: 0.28, goal: 0.35},
		{text: "ripstop: 4 TCP streams / 1", a: term{ripstop, "tcp4.mean"}, b: term{ripstop, "tcp1.mean"}, want: 0.95},
		{text: "retransmits per 100 000 segments, 1 stream: ripstop − bare underlay", a: term{ripstop, "tcp1.retransmits"}, b: term{bare, "tcp1.retransmits"}, difference: true, atMost: true, want: 1},
		{text: "UDP 64 B rate: ripstop / wireguard-go", a: term{ripstop, "udp64.rate"}, b: term{wireguardGo, "udp64.rate"}},
		{text: "UDP 100 B rate: ripstop / wireguard-go", a: term{ripstop, "udp100.rate"}, b: term{wireguardGo, "udp100.rate"}, want: 3},
		{text: "UDP 1200 B rate: ripstop / wireguard-go", a: term{ripstop, "udp1200.rate"}, b: term{wireguardGo, "udp1200.rate"}, want: 3},
		{text: "UDP 100 B, daemons' CPU per datagram: ripstop / wireguard-go", a: term{ripstop, "udp100.cpu"}, b: term{wireguardGo, "udp100.cpu"}, atMost: true, want: 1.0 / 3},
		{text: "UDP 1200 B, daemons' CPU per datagram: ripstop / wireguard-go", a: term{ripstop, "udp1200.cpu"}, b: term{wireguardGo, "udp1200.cpu"}, atMost: true, want: 1.0 / 3},
		{text: "idle ping, median: ripstop / wireguard-go", a: term{ripstop, "ping.idle.p50"}, b: term{wireguardGo, "ping.idle.p50"}, atMost: true, want: 0.5},
		{text: "ping under load, p99: ripstop / wireguard-go", a: term{ripstop, "ping.load.p99"}, b: term{wireguardGo, "ping.load.p99"}, atMost: true, want: 1},
		{text: "request/response rate, idle: ripstop / wireguard-go", a: term{ripstop, "request.idle.rate"}, b: term{wireguardGo, "request.idle.rate"}},
		{text: "daemons' CPU per Gbit, 1 stream: ripstop / wireguard-go", a: term{ripstop, "tcp1.cpu"}, b: term{wireguardGo, "tcp1.cpu"}, atMost: true},
		{text: "CPU per Gbit, 1 stream, over 1 relay: the relay / one end", a: term{ripstopRelay1, "tcp1.relayshare"}, single: true, atMost: true, want: 0.6},
		{text: "1 TCP stream: over 1 relay / direct", a: term{ripstopRelay1, "tcp1.mean"}, b: term{ripstop, "tcp1.mean"}},
		{text: "1 TCP stream: over 2 relays / direct", a: term{ripstopRelay2, "tcp1.mean"}, b: term{ripstop, "tcp1.mean"}},
		{text: "1 TCP stream: cipher none / sealed", a: term{ripstopNone, "tcp1.mean"}, b: term{ripstop, "tcp1.mean"}, want: 1},
		{text: "ripstop's peak memory, MB", a: term{ripstop, "memory.end"}, single: true, atMost: true, want: 40},
	}
	for _, s := range systems {
		switch {
		case s.name == nebula:
			all = append(all, comparison{text: "1 TCP stream: ripstop / Nebula", a: term{ripstop, "tcp1.mean"}, b: term{nebula, "tcp1.mean"}, want: 1.5})
		case s.name == openvpn || s.name == tinc:
			all = append(all, comparison{text: "1 TCP stream: ripstop / " + s.title, a: term{ripstop, "tcp1.mean"}, b: term{s.name, "tcp1.mean"}})
		case strings.HasPrefix(s.name, ripstop+":"):
			for _, key := range []string{"tcp1.mean", "tcp4.mean", "udp100.rate", "udp1200.rate", "udp100.cpu", "ping.idle.p50", "request.idle.rate", "tcp1.cpu"} {
				all = append(all, comparison{text: fmt.Sprintf("%s: %s / ripstop", key, s.name), a: term{s.name, key}, b: term{ripstop, key}, atMost: !moreIsBetter(key)})
			}
		}
	}
	return all
}

// ratios makes every comparison of which both figures are there.
func ratios(systems []*system, r *results, judged bool) []ratio {
	list := []ratio{}
	for _, c := range comparisons(systems) {
		a, b := r.series(c.a.system, c.a.key), r.series(c.b.system, c.b.key)
		combine := func(a, b float64) float64 { return a / b }
		switch {
		case c.single:
			b, combine = a, func(a, _ float64) float64 { return a }
		case c.difference:
			combine = func(a, b float64) float64 { return a - b }
		}
		values := paired(a, b, combine)
		if len(values) == 0 {
			continue
		}
		one := ratio{Text: c.text, Result: summarise(values), Rounds: len(values), Values: values, AtMost: c.atMost}
		if judged && c.want != 0 {
			one.Want = &c.want
		}
		if judged && c.goal != 0 {
			one.Goal = &c.goal
		}
		list = append(list, one)
	}
	return list
}
