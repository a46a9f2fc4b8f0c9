package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/plane"
	"ripstop/route"
	"ripstop/transport"
)

const (
	// sessionWait is how long making a session may take before something is wrong.
	sessionWait = 5 * time.Second
	// muchLoss is what share of lost probes is worth a warning, as for `ripstop doctor`.
	muchLoss = 0.01
	// someFlows is how many flows are asked for until one gets on, where hosts are equally good.
	someFlows = 64
)

// toHost goes on with a host that was asked for itself.
func (x *explainer) toHost(host crypto.Name) {
	for _, e := range x.table.Endpoints() {
		if e.Host == host && e.MAC == host.MAC() {
			x.toEndpoint(&e)
			return
		}
	}
	x.ok(api.StepEndpoint, "%s itself has no address on the network (`ripstop expose` there gives it one): this is the way to what is attached there", x.nick(host))
	if host == x.self() {
		x.here("it")
		return
	}
	x.onHost(host)
}

// onHost goes on with what is on another host.
func (x *explainer) onHost(host crypto.Name) {
	m := x.members[host]
	text := fmt.Sprintf("%s, %s", x.nick(host), host)
	if m.Peer.Software != "" {
		text += ", runs " + m.Peer.Software
	}
	switch {
	case m.Alive:
		x.ok(api.StepHost, "%s: some host has a link with it", text)
	case m.Gone.IsZero():
		x.step(api.StepHost, api.StepWarn, "", "%s: not known to be there", text)
	default:
		x.step(api.StepHost, api.StepWarn, "", "%s: no host has a link with it, for %v", text, x.ago(m.Gone))
	}
	w := x.wayTo(host)
	if w.Hop == nil {
		return
	}
	x.session(w.To)
	x.sizes(w)
	x.offloadStep()
}

// outlet finds what the snapshot has of a host.
func (x *explainer) outlet(host crypto.Name) *plane.Outlet {
	for _, o := range x.snapshot.Outlets {
		if o != nil && o.Peer.Name == host {
			return o
		}
	}
	return nil
}

// wayTo says which hosts a frame passes, and of what use the links with the first are.
func (x *explainer) wayTo(host crypto.Name) (w plane.Way) {
	o := x.outlet(host)
	if o == nil {
		x.noWay(host)
		return w
	}
	w = x.snapshot.Way(o.Peer.ID, 0)
	r, routed := x.table.Route(o.Peer.ID)
	for flow := uint16(1); w.Hop == nil && len(r.Next) > 1 && flow < someFlows; flow++ {
		w = x.snapshot.Way(o.Peer.ID, flow)
	}
	switch {
	case o.Direct && w.Hop == o:
		x.ok(api.StepWay, "%s–%s: directly, by a path that both found without a link", x.nick(x.self()), x.nick(host))
		x.Way = []string{x.self().String(), host.String()}
		x.arrived(host, "it gets there directly")
		x.link(o)
	case !routed:
		x.noWay(host)
	case w.Hop == nil:
		for _, first := range r.Next {
			x.step(api.StepWay, api.StepFail, "ask again in a moment; `ripstop status links` shows how it goes", "to %s over %s, with which there is no session or path just now", x.nick(host), x.nick(first))
		}
	default:
		x.relayed(host, w.Hop.Peer.Name, r)
		x.link(w.Hop)
		for _, first := range r.Next {
			if also := x.outlet(first); first != w.Hop.Peer.Name && also != nil {
				x.link(also)
			}
		}
	}
	return w
}

// relayed says the whole way as this host computes it, and the other one.
func (x *explainer) relayed(host, first crypto.Name, r route.Route) {
	text, way := x.walk(first, host)
	x.Way = way
	text += fmt.Sprintf(": %s, cost %s", counted(r.Hops, "link"), millis(r.Cost))
	var equal []string
	for _, next := range r.Next {
		if next != first {
			other, _ := x.walk(next, host)
			equal = append(equal, other)
		}
	}
	switch {
	case len(equal) > 0:
		text += fmt.Sprintf("; as good: %s, each flow keeps to one", listed(equal))
	case !r.Alternate.IsZero():
		other, _ := x.walk(r.Alternate, host)
		text += "; else " + other
	default:
		text += "; there is no other"
	}
	x.ok(api.StepWay, "%s", text)
	verdict := "it gets there directly"
	if first != host {
		verdict = fmt.Sprintf("it gets there over %s, %s away", x.nick(first), counted(r.Hops, "link"))
	}
	x.arrived(host, verdict)
}

// counted is a number of things.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// millis is a time as status shows it.
func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1e3) }

// walk is the hosts from this one to another that is reached over first.
func (x *explainer) walk(first, to crypto.Name) (text string, names []string) {
	way := x.table.Graph().Way(first, to)
	nicks := []string{x.nick(x.self())}
	names = []string{x.self().String()}
	if way == nil { // the records have changed on the way
		return nicks[0] + "–" + x.nick(first) + "–…–" + x.nick(to), append(names, first.String(), to.String())
	}
	for _, host := range way {
		nicks, names = append(nicks, x.nick(host)), append(names, host.String())
	}
	return strings.Join(nicks, "–"), names
}

// noWay says which links are missing to a host that is cut off.
func (x *explainer) noWay(host crypto.Name) {
	none := fmt.Sprintf("there is no way from %s to %s", x.nick(x.self()), x.nick(host))
	missing := x.missing(host)
	if len(missing) == 0 {
		x.step(api.StepWay, api.StepFail, "see on "+x.nick(host)+" whether ripstop runs; `ripstop connect` on one of both sides names a host of the other", "%s: no host's record tells of a link between the two sides", none)
		return
	}
	x.step(api.StepWay, api.StepFail, "see what `ripstop status links` says at the ends of that link, and whether ripstop runs there", "%s: the link %s is missing", none, missing[0].link)
	for _, m := range missing[:min(len(missing), maxListed)] {
		x.step(api.StepMissing, api.StepFail, "", "link %s: %s", m.link, m.why)
	}
}

// missingLink is a link without which a host is cut off.
type missingLink struct{ link, why string }

// missing are the links without which there is no way to host.
func (x *explainer) missing(host crypto.Name) (all []missingLink) {
	graph := x.table.Graph()
	if first, ok := graph.Primary(host); ok {
		return []missingLink{{x.nick(x.self()) + "–" + x.nick(first), "the records tell of it, but this host's own end is down"}}
	}
	x.n.mu.Lock()
	links := x.n.publishedLinks()
	x.n.mu.Unlock()
	for _, l := range toldByOne(graph, host, links) {
		ends := []string{x.nick(l.A), x.nick(l.B)}
		slices.Sort(ends)
		all = append(all, missingLink{strings.Join(ends, "–"), fmt.Sprintf("the record of %s tells of it, that of %s does not", x.nick(l.A), x.nick(l.B))})
	}
	return all
}

// toldByOne are the links between the side of host, which graph has no way to, and others of
// which the record of one end tells; those with this side stand first.
func toldByOne(graph *route.Graph, host crypto.Name, links []route.Link) []route.Link {
	there, linked := graph.From(host)
	side := func(name crypto.Name) bool { return name == host || linked && there.Reachable(name) }
	links = slices.DeleteFunc(links, func(l route.Link) bool { return side(l.A) == side(l.B) })
	far := func(l route.Link) int {
		if graph.Reachable(l.A) || graph.Reachable(l.B) {
			return 0
		}
		return 1
	}
	slices.SortFunc(links, func(a, b route.Link) int {
		return cmp.Or(far(a)-far(b), a.A.Compare(b.A), a.B.Compare(b.B))
	})
	return links
}

// link says how it stands with the path to a neighbour.
func (x *explainer) link(o *plane.Outlet) {
	x.n.mu.Lock()
	defer x.n.mu.Unlock()
	p := x.n.peers[o.Peer.Name]
	if p == nil || p.paths == nil {
		return
	}
	for _, path := range p.paths.Status() {
		if path.Path != o.Path {
			continue
		}
		text := fmt.Sprintf("with %s: %s, RTT %s, loss %.0f %%, datagrams of %d bytes, %d in one call", x.nick(p.Name), path.Path,
			millis(path.RTT), 100*path.Loss, o.Limit, max(o.Train, 1))
		if !p.since.IsZero() {
			text += fmt.Sprintf(", up for %v", x.ago(p.since))
		}
		if !path.LastHeard.IsZero() {
			text += fmt.Sprintf(", heard %v ago", x.ago(path.LastHeard))
		}
		switch {
		case path.Kind == transport.PathTCP:
			x.step(api.StepLink, api.StepWarn, fmt.Sprintf("let UDP port %d through between both", x.n.port), "%s; UDP does not pass, and TCP is slower", text)
		case path.Loss >= muchLoss:
			x.step(api.StepLink, api.StepWarn, "look for what drops packets on the underlay between both", "%s", text)
		default:
			x.ok(api.StepLink, "%s", text)
		}
		return
	}
}

// session says how it stands with the keys that the frame is sealed by for its last host.
func (x *explainer) session(o *plane.Outlet) {
	x.n.mu.Lock()
	var s transport.ExchangeStatus
	if p := x.n.peers[o.Peer.Name]; p != nil {
		s = p.exchange.Status()
	}
	x.n.mu.Unlock()
	who := x.nick(o.Peer.Name)
	switch {
	case !s.Since.IsZero():
		text := fmt.Sprintf("with %s, end to end: %s, keys %v old, %d counters used", who, s.Cipher, x.ago(s.Since), s.Sent)
		if !s.Confirmed {
			x.step(api.StepSession, api.StepWarn, "", "%s; not confirmed: nothing has come under them yet", text)
			return
		}
		x.ok(api.StepSession, "%s, confirmed", text)
	case s.Wanted.IsZero():
		x.step(api.StepSession, api.StepWarn, "", "none with %s: the first frame asks for one, and is lost", who)
	case x.now.Sub(s.Wanted) < sessionWait:
		x.step(api.StepSession, api.StepWarn, "", "none with %s yet, wanted for %v: frames are lost until it is made", who, x.ago(s.Wanted))
	default:
		x.step(api.StepSession, api.StepFail, "see in the logs of both hosts why no session can be made", "none with %s, wanted for %v, asked for %d times since there was one", who, x.ago(s.Wanted), s.Tries)
	}
}

// ethernet is what a frame has in front of its packet, without VLAN tags.
const ethernet = 14

// sizes says what goes in one datagram.
func (x *explainer) sizes(w plane.Way) {
	one := w.Frame - ethernet
	longest, limit := 0, ""
	if x.from != nil {
		longest, limit = x.from.Plan.MTU, "sent"
	}
	if x.to != nil && x.to.MTU != 0 && (longest == 0 || int(x.to.MTU) < longest) {
		longest, limit = int(x.to.MTU), "taken at the other end"
	}
	switch {
	case longest == 0:
		x.ok(api.StepMTU, "an IP packet of up to %d bytes goes in one datagram of %d, a longer one in pieces; TCP is cut to that size", one, w.Datagram)
	case longest <= one:
		x.ok(api.StepMTU, "every IP packet goes in one datagram: %d bytes would, %d are the most that is %s", one, longest, limit)
	default:
		x.ok(api.StepMTU, "an IP packet of up to %d bytes goes in one datagram of %d, a longer one in pieces, up to the %d bytes that are %s; TCP is cut to that size", one, w.Datagram, longest, limit)
	}
}

// offloadStep says what the kernels of both ends are spared.
func (x *explainer) offloadStep() {
	var used, not []string
	for _, o := range x.offloads {
		if o.Used {
			used = append(used, o.Name)
		} else {
			not = append(not, fmt.Sprintf("no %s (%s)", o.Name, o.Why))
		}
	}
	lead := "segment by segment"
	if slices.Contains(used, "tso") {
		lead = "TCP as super-frames, cut here"
	}
	x.ok(api.StepOffloads, "%s: %s", lead, strings.Join(append(used, not...), ", "))
}
