package api

import (
	"runtime"
	"slices"
	"strings"
	"time"
)

// scrape is what one answer to GET /metrics is made of: one Status, and the process.
type scrape struct {
	Status
	usage usage
}

// exposition is s in the text format, a family after the other in the order of metrics.
func (s *scrape) exposition() []byte {
	var b []byte
	for _, m := range metrics {
		b = appendMetric(b, m, s)
	}
	return b
}

// metrics are all there are, in the order of docs/metrics.md.
var metrics = slices.Concat(hostMetrics, peerMetrics, linkMetrics, endpointMetrics, addressMetrics, counterMetrics(), processMetrics)

// number is a metric without labels.
func number(name, kind, help string, value func(s *scrape) float64) metric {
	return metric{name, kind, help, nil, func(s *scrape, sample sampler) { sample(value(s)) }}
}

// truth is 1 for what holds.
func truth(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}

// tally counts by a label's value. What is listed is told also when it is 0, so that a
// rule sees it fall to that.
type tally map[string]int

func newTally(listed ...string) tally {
	t := make(tally)
	for _, value := range listed {
		t[value] = 0
	}
	return t
}

func (t tally) tell(sample sampler) {
	for value, n := range t {
		sample(float64(n), value)
	}
}

var hostMetrics = []metric{
	{"ripstop_build_info", gauge, "Which ripstop runs here; always 1.", []string{"version", "go_version"},
		func(s *scrape, sample sampler) { sample(1, s.Software, runtime.Version()) }},
	{"ripstop_host_info", gauge, "Which host of which network this is; always 1.", []string{"name", "nickname", "network", "cipher", "mode"},
		func(s *scrape, sample sampler) { sample(1, s.Name, s.Nickname, s.Network, s.Cipher, s.Mode) }},
	number("ripstop_uptime_seconds", gauge, "Since the daemon's start.", func(s *scrape) float64 { return float64(s.UptimeSec) }),
	number("ripstop_warnings", gauge, "Warnings that ripstop status shows.", func(s *scrape) float64 { return float64(len(s.Warnings)) }),
}

// perPeer is a metric with a sample for each peer.
func perPeer(name, kind, help string, value func(p *Peer) float64) metric {
	return metric{name, kind, help, []string{"peer", "nickname"}, func(s *scrape, sample sampler) {
		for i := range s.Peers {
			p := &s.Peers[i]
			sample(value(p), p.Name, p.Nickname)
		}
	}}
}

var peerMetrics = []metric{
	{"ripstop_peers", gauge, "Other hosts, by the way to them: direct, relayed (through others), unreachable (none, though others have one), gone (no host has a link with it).", []string{"state"},
		func(s *scrape, sample sampler) {
			t := newTally("direct", "relayed", "unreachable", "gone")
			for _, p := range s.Peers {
				t[p.way()]++
			}
			t.tell(sample)
		}},
	perPeer("ripstop_peer_reachable", gauge, "Whether there is a way to this host: 1 or 0.", func(p *Peer) float64 { return truth(p.Reachable) }),
	perPeer("ripstop_peer_sent_frames_total", counter, "Frames sealed for this host; a super-frame of the kernel counts as one.", func(p *Peer) float64 { return float64(p.FramesOut) }),
	perPeer("ripstop_peer_sent_bytes_total", counter, "Bytes of the frames sealed for this host.", func(p *Peer) float64 { return float64(p.BytesOut) }),
	perPeer("ripstop_peer_received_frames_total", counter, "Frames opened from this host.", func(p *Peer) float64 { return float64(p.FramesIn) }),
	perPeer("ripstop_peer_received_bytes_total", counter, "Bytes of the frames opened from this host.", func(p *Peer) float64 { return float64(p.BytesIn) }),
}

// way is a peer's state in ripstop_peers.
func (p *Peer) way() string {
	switch {
	case p.Reachable && p.Via == "":
		return "direct"
	case p.Reachable:
		return "relayed"
	case p.Alive:
		return "unreachable"
	}
	return "gone"
}

// perLink is a metric with a sample for each link of which it is known.
func perLink(name, help string, value func(l *Link) (v float64, known bool)) metric {
	return metric{name, gauge, help, []string{"peer", "nickname"}, func(s *scrape, sample sampler) {
		for i := range s.Links {
			l := &s.Links[i]
			if v, known := value(l); known {
				sample(v, l.Peer, l.Nickname)
			}
		}
	}}
}

var linkMetrics = []metric{
	{"ripstop_links", gauge, "Links with neighbours, by state (up, connecting, down) and path of their data (udp, tcp, none).", []string{"state", "path"},
		func(s *scrape, sample sampler) {
			type kind struct{ state, path string }
			counts := make(map[kind]int)
			for _, state := range []string{LinkUp, LinkConnecting, LinkDown} {
				for _, path := range []string{"udp", "tcp", "none"} {
					counts[kind{state, path}] = 0
				}
			}
			for _, l := range s.Links {
				if l.Path == "" {
					l.Path = "none"
				}
				counts[kind{l.State, l.Path}]++
			}
			for k, n := range counts {
				sample(float64(n), k.state, k.path)
			}
		}},
	perLink("ripstop_link_up", "Whether probes are answered both ways: 1 or 0.", func(l *Link) (float64, bool) { return truth(l.State == LinkUp), true }),
	perLink("ripstop_link_rtt_seconds", "Round trip of probes on the path in use, smoothed; absent until it is measured.",
		func(l *Link) (float64, bool) { return float64(l.RTTMicro) / 1e6, l.RTTMicro != 0 }),
	perLink("ripstop_link_loss_ratio", "Share of probes lost on the path in use, 0 to 1; absent without one.",
		func(l *Link) (float64, bool) { return l.Loss, l.Path != "" }),
	perLink("ripstop_link_mtu_bytes", "Bytes of UDP payload that fit into one packet of the path in use; absent where it has no such size.",
		func(l *Link) (float64, bool) { return float64(l.MTU), l.MTU != 0 }),
	{"ripstop_targets", gauge, "Underlay addresses to dial, by state (up, connecting, waiting, refused, self).", []string{"state"},
		func(s *scrape, sample sampler) {
			t := newTally(TargetUp, TargetConnecting, TargetWaiting, TargetRefused, TargetSelf)
			for _, target := range s.Targets {
				t[target.State]++
			}
			t.tell(sample)
		}},
}

var endpointMetrics = []metric{
	{"ripstop_endpoints", gauge, "Endpoints of the whole network, by state (here, remote, fenced, orphan).", []string{"state"},
		func(s *scrape, sample sampler) {
			t := newTally(EndpointHere, EndpointRemote, EndpointFenced, EndpointOrphan)
			for _, e := range s.Endpoints {
				t[e.State]++
			}
			t.tell(sample)
		}},
}

// ofIPAM is a gauge of the address map, absent where there is none.
func ofIPAM(name, help string, value func(s *scrape) int) metric {
	return metric{name, gauge, help, nil, func(s *scrape, sample sampler) {
		if s.IPAM != nil {
			sample(float64(value(s)))
		}
	}}
}

var addressMetrics = []metric{
	ofIPAM("ripstop_ipam_used_addresses", "Addresses in use on this host.", func(s *scrape) int { return s.IPAM.Used }),
	ofIPAM("ripstop_ipam_held_addresses", "Addresses of this host's blocks that other hosts have.", func(s *scrape) int { return s.IPAM.Held }),
	ofIPAM("ripstop_ipam_resting_addresses", "Addresses that were released and are not given again for a while.", func(s *scrape) int { return s.IPAM.Resting }),
	ofIPAM("ripstop_ipam_fenced_addresses", "Addresses in use on this host that are another host's.", func(s *scrape) int { return s.IPAM.Fenced }),
	ofIPAM("ripstop_ipam_owned_addresses", "Addresses in this host's blocks.", func(s *scrape) int { return s.ownShare().Addresses }),
	ofIPAM("ripstop_ipam_free_addresses", "Free addresses in this host's blocks.", func(s *scrape) int { return s.ownShare().Free }),
	ofIPAM("ripstop_ipam_network_addresses", "Addresses in the blocks of all hosts.", func(s *scrape) (sum int) {
		for _, h := range s.IPAM.Hosts {
			sum += h.Addresses
		}
		return sum
	}),
	ofIPAM("ripstop_ipam_network_free_addresses", "Free addresses in the blocks of all hosts, as each said last.", func(s *scrape) (sum int) {
		for _, h := range s.IPAM.Hosts {
			sum += h.Free
		}
		return sum
	}),
	ofIPAM("ripstop_ipam_pending_requests", "Requests for an address that wait.", func(s *scrape) int { return s.IPAM.Pending }),
	ofIPAM("ripstop_ipam_conflicts", "Blocks of which two different records are known.", func(s *scrape) int { return s.IPAM.Conflicts }),
	ofIPAM("ripstop_ipam_save_failed", "Whether the address map cannot be saved, so that nothing is given out: 1 or 0.", func(s *scrape) int { return int(truth(s.IPAM.SaveError != "")) }),
}

// ownShare is this host's share of the address map; zero when it has none.
func (s *scrape) ownShare() IPAMHost {
	for _, h := range s.IPAM.Hosts {
		if h.Host == s.Name {
			return h
		}
	}
	return IPAMHost{}
}

// The counters of a Status that are reasons for a drop: what the program dropped, and
// what the port rules did.
const (
	dropPrefix     = "drop_"
	portRulePrefix = "port_rule_"
)

// reasonOf is a counter's value of the label reason; no reason: it counts no drops.
func reasonOf(name string) (reason string, ok bool) {
	reason, ok = strings.CutPrefix(name, dropPrefix)
	return reason, ok || strings.HasPrefix(name, portRulePrefix)
}

// counted are the counters of a Status that have a metric of their own. It is told also
// while it is 0, when a Status leaves it out.
var counted = []struct{ counter, metric, help string }{
	{"frames_out", "ripstop_sent_frames_total", "Frames sealed for other hosts; a super-frame of the kernel counts as one."},
	{"bytes_out", "ripstop_sent_bytes_total", "Bytes of the frames sealed for other hosts."},
	{"frames_in", "ripstop_received_frames_total", "Frames opened from other hosts."},
	{"bytes_in", "ripstop_received_bytes_total", "Bytes of the frames opened from other hosts."},
	{"frames_answered", "ripstop_answered_frames_total", "ARP and neighbour discovery answered for endpoints of other hosts."},
	{"frames_fragmented", "ripstop_fragmented_frames_total", "Frames sent in pieces, for the path carries no longer ones."},
	{"datagrams_out", "ripstop_sent_datagrams_total", "Sealed datagrams sent, over UDP or TCP."},
	{"datagrams_in", "ripstop_received_datagrams_total", "Sealed datagrams received, over UDP or TCP."},
	{"datagrams_relayed", "ripstop_relayed_datagrams_total", "Datagrams with frames passed on between other hosts."},
	{"control_relayed", "ripstop_relayed_control_datagrams_total", "Session messages and probes passed on between other hosts."},
	{"udp_receive_errors", "ripstop_udp_receive_errors_total", "Errors of a receive that passed."},
	{"udp_too_big", "ripstop_udp_too_big_total", "Datagrams not sent: longer than the way takes."},
	{"udp_no_buffers", "ripstop_udp_no_buffers_total", "Datagrams not sent: the kernel had no room."},
	{"udp_refused", "ripstop_udp_refused_total", "Datagrams not sent: a packet filter of this host."},
	{"udp_unreachable", "ripstop_udp_unreachable_total", "Datagrams not sent: no way to the address."},
	{"udp_send_errors", "ripstop_udp_send_errors_total", "Datagrams not sent: any other error."},
	{"control_accepted", "ripstop_control_accepted_total", "Control connections accepted."},
	{"control_refused_overlay", "ripstop_control_refused_overlay_total", "Control connections refused: from inside the network itself."},
	{"control_refused_total", "ripstop_control_refused_all_total", "Control connections refused: too many unauthenticated ones in all."},
	{"control_refused_prefix", "ripstop_control_refused_prefix_total", "Control connections refused: too many unauthenticated ones from one prefix."},
	{"control_refused_rate", "ripstop_control_refused_rate_total", "Control connections refused: too fast from one prefix."},
	{"control_evicted", "ripstop_control_evicted_total", "Unauthenticated control connections that gave way to newer ones."},
	{"control_foreign", "ripstop_control_foreign_total", "Control connections of another network or program."},
	{"control_said_nothing", "ripstop_control_said_nothing_total", "Control connections without a byte."},
	{"control_handshake_failed", "ripstop_control_handshake_failed_total", "Handshakes that failed in another way."},
	{"control_accept_errors", "ripstop_control_accept_errors_total", "Control connections that the kernel did not give: no descriptors, no memory."},
	{"control_unknown_kind", "ripstop_control_unknown_kind_total", "Control messages of a kind that this version does not know."},
	{"control_malformed", "ripstop_control_malformed_total", "Control messages that could not be read."},
	{"control_datagram_overflow", "ripstop_control_datagram_overflow_total", "Datagrams over TCP dropped for newer ones."},
	{"control_queue_full", "ripstop_control_queue_full_total", "Control messages refused for lack of room."},
	{"control_crossed", "ripstop_control_crossed_total", "Control connections replaced by the one that counts."},
	{"control_duplicate", "ripstop_control_duplicate_total", "Control connections closed because another one counts."},
	{"dns_queries", "ripstop_dns_queries_total", "Questions for names."},
	{"dns_answers", "ripstop_dns_answers_total", "Questions answered by this host itself."},
	{"dns_forwarded", "ripstop_dns_forwarded_total", "Questions passed on to the host's resolvers."},
	{"dns_busy", "ripstop_dns_busy_total", "Questions refused: too many at once."},
	{"dns_dropped", "ripstop_dns_dropped_total", "Questions that were none, or were not to be answered."},
	{"dns_loops", "ripstop_dns_loops_total", "Questions refused: they had come back from a resolver."},
	{"dns_upstream_failures", "ripstop_dns_upstream_failures_total", "Questions that no resolver of the host answered."},
}

// counterMetrics are the counters of a Status, every one in some metric.
func counterMetrics() []metric {
	all := []metric{{"ripstop_dropped_total", counter, "Frames and datagrams dropped, by reason; a reason is absent until its first drop.", []string{"reason"},
		func(s *scrape, sample sampler) {
			for name, n := range s.Counters {
				if reason, ok := reasonOf(name); ok {
					sample(float64(n), reason)
				}
			}
		}}}
	own := make(map[string]bool)
	for _, c := range counted {
		own[c.counter] = true
		all = append(all, number(c.metric, counter, c.help, func(s *scrape) float64 { return float64(s.Counters[c.counter]) }))
	}
	return append(all, metric{"ripstop_other_total", counter, "Counters of ripstop status --json that have no metric of their own, by name; absent while 0.", []string{"counter"},
		func(s *scrape, sample sampler) {
			for name, n := range s.Counters {
				if _, dropped := reasonOf(name); !dropped && !own[name] {
					sample(float64(n), name)
				}
			}
		}})
}

// ofProcess is a metric that is absent when it could not be found out.
func ofProcess(name, kind, help string, value func(s *scrape) float64) metric {
	return metric{name, kind, help, nil, func(s *scrape, sample sampler) {
		if v := value(s); v != 0 {
			sample(v)
		}
	}}
}

// processMetrics have the names that they have of every program.
var processMetrics = []metric{
	ofProcess("process_cpu_seconds_total", counter, "Processor time of the daemon, user and system.", func(s *scrape) float64 { return s.usage.cpu.Seconds() }),
	ofProcess("process_resident_memory_bytes", gauge, "Memory of the daemon that is in RAM.", func(s *scrape) float64 { return float64(s.usage.resident) }),
	ofProcess("process_open_fds", gauge, "Open descriptors of the daemon.", func(s *scrape) float64 { return float64(s.usage.open) }),
	ofProcess("process_max_fds", gauge, "Descriptors that the daemon may open.", func(s *scrape) float64 { return float64(s.usage.mayOpen) }),
	ofProcess("process_start_time_seconds", gauge, "When the daemon started, in Unix time.", func(s *scrape) float64 {
		if s.Started.IsZero() {
			return 0
		}
		return float64(s.Started.UnixMilli()) / float64(time.Second/time.Millisecond)
	}),
	ofProcess("go_goroutines", gauge, "Goroutines of the daemon.", func(s *scrape) float64 { return float64(s.usage.goroutines) }),
}
