package mesh

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/dns"
	"ripstop/mesh/gossip"
	"ripstop/mesh/plane"
	"ripstop/route"
	"ripstop/tun/attach"
)

// maxListed is how many hosts, addresses or links one step names at most.
const maxListed = 8

// Explain says how a frame gets from here to a place, or why it does not.
func (b *backend) Explain(_ context.Context, q api.ExplainRequest) (api.Explanation, error) {
	n := (*node)(b)
	x := n.explainer(n.plane.Snapshot(), n.plane.Now())
	if x.table == nil {
		return api.Explanation{}, api.Errorf(api.CodeUnavailable, "this host is starting: ask again in a moment")
	}
	x.offloads = n.statusOffloads()
	return x.explain(q)
}

// explainer answers one question by what a frame would meet: the table, sessions and
// paths of one snapshot, which forwarding reads too, and the MACs that it has learned.
// What else it needs of the node it copies under the node's lock, a little at a time.
//
//	From ─▶ setFrom ─ may its port send it?
//	To ──▶ toName ─▶ toAddress ─▶ toEndpoint ─▶ toHost ─▶ way, links, session, sizes
//	                   toMAC ────────┘ └─ here: the bridge
//
// Each adds Steps; the first that failed is the verdict.
type explainer struct {
	n        *node
	now      time.Time
	clock    int64 // the plane's
	snapshot *plane.Snapshot
	table    *route.Table // the snapshot's

	zone      *dns.Zone
	silent    string // why this host answers no questions for names; empty: it does
	nicknames map[crypto.Name]string
	members   map[crypto.Name]gossip.Member
	local     []localEndpoint
	offloads  []api.Offload
	portThere func(name string) bool

	from  *localEndpoint  // nil: whatever sends it
	to    *route.Endpoint // what it goes to; nil: no endpoint
	doubt string          // in place of a plain no, where it may get there all the same
	api.Explanation
}

// localEndpoint is what is attached here, at one moment.
type localEndpoint struct {
	attachment
	label  string
	fenced []netip.Prefix // of its addresses
}

// explainer copies what an explanation begins with.
func (n *node) explainer(snapshot *plane.Snapshot, clock int64) *explainer {
	x := &explainer{
		n: n, now: time.Now(), clock: clock, snapshot: snapshot, table: snapshot.Table,
		members: make(map[crypto.Name]gossip.Member), portThere: attach.PortExists,
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x.zone, x.nicknames = n.names.zone, n.nicknames()
	if n.names.server == nil {
		x.silent = n.names.why()
	}
	for _, m := range n.gossip.Members() {
		x.members[m.Name] = m
	}
	for _, a := range n.attachments {
		l := localEndpoint{attachment: *a, label: a.label(), fenced: n.fencedOf(a)}
		if a.Exposed {
			l.label = n.cfg.Nickname
		}
		x.local = append(x.local, l)
	}
	return x
}

func (x *explainer) explain(q api.ExplainRequest) (api.Explanation, error) {
	x.To = q.To
	if err := x.setFrom(q.From); err != nil {
		return api.Explanation{}, err
	}
	to, err := parsePlace(q.To)
	switch {
	case err != nil:
		return api.Explanation{}, api.Errorf(api.CodeInvalid, "%v", err)
	case to.address.IsValid():
		x.toAddress(to.address)
	case !to.mac.IsZero():
		x.toMAC(to.mac)
	default:
		err = x.toName(to.name)
	}
	if err != nil {
		return api.Explanation{}, err
	}
	x.conclude()
	return x.Explanation, nil
}

// conclude makes the verdict of the first step that failed.
func (x *explainer) conclude() {
	at := x.failed()
	if at < 0 {
		x.Arrives = true
		return
	}
	x.Way = nil
	x.Verdict = cmp.Or(x.doubt, "it does not get there") + ": " + x.Steps[at].Text
	for _, s := range x.Steps[at:] {
		x.Advice = cmp.Or(x.Advice, s.Advice)
	}
}

// failed is the first step that failed; -1: none has.
func (x *explainer) failed() int {
	return slices.IndexFunc(x.Steps, func(s api.Step) bool { return s.State == api.StepFail })
}

func (x *explainer) step(what, state, advice, format string, args ...any) {
	x.Steps = append(x.Steps, api.Step{What: what, State: state, Text: fmt.Sprintf(format, args...), Advice: advice})
}

func (x *explainer) ok(what, format string, args ...any) {
	x.step(what, api.StepOK, "", format, args...)
}

// self is this host.
func (x *explainer) self() crypto.Name { return x.n.identity.Name() }

// nick is what people call a host.
func (x *explainer) nick(name crypto.Name) string { return cmp.Or(x.nicknames[name], name.String()) }

// nicks are what people call hosts, sorted, and how many more there are than are named.
func (x *explainer) nicks(names []crypto.Name) string {
	var all []string
	for _, name := range names {
		all = append(all, x.nick(name))
	}
	slices.Sort(all)
	return listed(all)
}

// listed names the first few of all.
func listed(all []string) string {
	if len(all) > maxListed {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxListed], ", "), len(all)-maxListed)
	}
	return strings.Join(all, ", ")
}

// ago is for how long something has been so.
func (x *explainer) ago(t time.Time) time.Duration {
	d := max(x.now.Sub(t), 0)
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// setFrom finds what sends the frame, and says what its port may send.
func (x *explainer) setFrom(word string) error {
	if word == "" {
		x.From = x.nick(x.self())
		x.ok(api.StepFrom, "this host, %s: whatever is attached to it", x.From)
		return nil
	}
	p, err := parsePlace(word)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%v", err)
	}
	at := slices.IndexFunc(x.local, func(l localEndpoint) bool { return x.isLocal(&l, p) })
	if at < 0 {
		return api.Errorf(api.CodeNotFound, "%s is not attached to this host: `ripstop status endpoints` lists what is; ask on the host that has it", word)
	}
	x.from = &x.local[at]
	x.From = x.from.label
	x.fromStep()
	return nil
}

// isLocal reports whether l is the place.
func (x *explainer) isLocal(l *localEndpoint, p place) bool {
	switch {
	case p.address.IsValid():
		return slices.Contains(l.addrs(), p.address)
	case !p.mac.IsZero():
		return l.mac() == p.mac
	}
	label := dns.HostLabel(x.n.cfg.Nickname)
	name := x.underDomain(p.name)
	own := strings.ToLower(l.Name)
	if l.Exposed {
		id, _ := x.self().MarshalText()
		return name == label || p.name == x.n.cfg.Nickname || p.name == string(id)
	}
	return own != "" && (name == own || name == own+"."+label) || p.name == l.Plan.Netns
}

// fromStep says what the port of the sender may send, by its rules and by the table,
// which is the wall behind them.
func (x *explainer) fromStep() {
	l := x.from
	text := fmt.Sprintf("%s here, port %s: may send as %s", l.label, l.Plan.HostInterface, l.Plan.MAC)
	if l.Exposed {
		text = fmt.Sprintf("%s itself: sends as %s", l.label, l.Plan.MAC)
	}
	usable := l.usable()
	if len(usable) > 0 {
		text += " with " + listed(texts(usable))
	}
	if more := slices.Concat(l.AllowMAC, l.AllowAddress); len(more) > 0 {
		text += "; allowed too: " + listed(more)
	}
	at, known := x.table.Lookup(vni, l.mac())
	switch {
	case !l.Exposed && !x.portThere(l.Plan.HostInterface):
		x.step(api.StepFrom, api.StepFail, "attach it again, if its namespace still runs", "%s: its port %s is gone", l.label, l.Plan.HostInterface)
	case known && (at.Fenced || !at.Here):
		x.step(api.StepFrom, api.StepFail, "detach one of the two: `ripstop status endpoints` shows both", "%s is fenced: another host's claim to its MAC or address is greater, and all it sends is dropped", l.label)
	case len(l.fenced) > 0:
		x.step(api.StepFrom, api.StepWarn, "attach it anew for another address", "%s; not with %s, which another host has", text, listed(texts(l.fenced)))
	default:
		x.ok(api.StepFrom, "%s", text)
	}
}

// usable are the endpoint's addresses that are not fenced.
func (l *localEndpoint) usable() []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(l.Plan.Addresses), func(p netip.Prefix) bool { return slices.Contains(l.fenced, p) })
}

// checkRoute warns where the sender's own routes need not lead to an address.
func (x *explainer) checkRoute(a netip.Addr) {
	if x.from == nil || slices.Contains(x.from.addrs(), a) {
		return
	}
	for _, p := range slices.Concat(x.from.usable(), x.from.Plan.Routes) {
		if p.Contains(a) {
			return
		}
	}
	x.step(api.StepFrom, api.StepWarn, "give it an address of that network, or a route by `ripstop attach --route`",
		"%s has no address and no route by which %s is on its network: it sends the packet by its other routes, if it has any", x.from.label, a)
}

// texts are the text forms of a list.
func texts[T fmt.Stringer](list []T) []string {
	var all []string
	for _, v := range list {
		all = append(all, v.String())
	}
	return all
}
