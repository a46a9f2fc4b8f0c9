package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

const statusText = `
Shows this host, and the network as it sees it; with a word behind it one part in full:
  peers      the other hosts and the way to each
  links      connections with neighbours, and the peers this host was told to dial
  routes     next hop and alternate for each host
  endpoints  what is attached, here and elsewhere
  ipam       the address map: whose which part of the range is, what is in use and what happened
  dns        names, and who is asked for those of others

--wait waits until every peer to dial has answered (or is this host) and every link is up; where
that is not so in time the exit code is 1, with the reason on stderr.

Examples:
  ripstop status
  ripstop status links --wait 30s
  ripstop status endpoints --json`

// statusParts are what status shows in full.
var statusParts = []string{"peers", "links", "routes", "endpoints", "ipam", "dns"}

// pollEvery is how often --wait looks.
const pollEvery = 100 * time.Millisecond

func statusCommand() command {
	return command{
		name: "status", args: "[" + strings.Join(statusParts, "|") + "] [flags]", words: statusParts, short: "show this host and the network", client: true, text: statusText,
		setup: func(flags *pflag.FlagSet) action {
			wait := flags.Duration("wait", 0, "`DURATION` wait so long, such as 30s, until all links are up")
			return func(ctx context.Context, in *invocation, args []string) error {
				part := ""
				if len(args) > 0 {
					part = args[0]
					if err := oneOf("status of", part, statusParts...); err != nil {
						return err
					}
					if err := noArguments(args[1:]); err != nil {
						return err
					}
				}
				if *wait < 0 {
					return misuse("--wait %v: it is not negative", *wait)
				}
				if part == "dns" {
					return showNames(ctx, in)
				}
				return status(ctx, in, part, *wait)
			}
		},
	}
}

func status(ctx context.Context, in *invocation, part string, wait time.Duration) error {
	client := in.client()
	defer client.Close()
	deadline := time.Now().Add(wait)
	for {
		s, err := client.Status(ctx)
		missing := ""
		if err == nil {
			missing = unsettled(s)
		}
		if time.Now().Before(deadline) && ctx.Err() == nil && (missing != "" || errors.Is(err, api.ErrUnreachable)) {
			pause(ctx, pollEvery)
			continue
		}
		if err != nil {
			return err
		}
		if part == "ipam" {
			err = showIPAM(ctx, in, client)
		} else {
			err = show(in, part, s)
		}
		if err != nil {
			return err
		}
		if wait > 0 && missing != "" {
			return fmt.Errorf("not settled after %v: %s", wait, missing)
		}
		return nil
	}
}

// unsettled says what is still missing to a settled network; empty = nothing.
func unsettled(s api.Status) string {
	links := make(map[string]string)
	for _, l := range s.Links {
		links[l.Peer] = l.State
	}
	for _, t := range s.Targets {
		switch {
		case t.State == api.TargetSelf, t.State == api.TargetUp && links[t.Peer] == api.LinkUp:
		case t.State == api.TargetUp: // TCP is, the link is not
			return fmt.Sprintf("peer %s is connected, but the link with it is %s", t.Target, cmp.Or(links[t.Peer], api.LinkConnecting))
		case t.Error != "":
			return fmt.Sprintf("peer %s: %s", t.Target, t.Error)
		default:
			return fmt.Sprintf("peer %s is %s", t.Target, t.State)
		}
	}
	for _, l := range s.Links {
		if l.State != api.LinkUp {
			return fmt.Sprintf("the link with %s is %s", nickOr(l.Nickname, l.Peer), l.State)
		}
	}
	for _, p := range s.Peers {
		if p.Alive && !p.Reachable {
			return fmt.Sprintf("there is no way to %s yet", nickOr(p.Nickname, p.Name))
		}
	}
	return ""
}

func nickOr(nickname, name string) string {
	if nickname == "" {
		return name
	}
	return nickname
}

// The parts of a status, as --json prints them.
type (
	peersAnswer struct {
		versioned
		Peers []api.Peer `json:"peers"`
	}
	linksAnswer struct {
		versioned
		Links   []api.Link   `json:"links"`
		Targets []api.Target `json:"targets"`
	}
	routesAnswer struct {
		versioned
		Routes []api.Route `json:"routes"`
	}
	endpointsAnswer struct {
		versioned
		Endpoints []api.Endpoint `json:"endpoints"`
	}
)

// showIPAM prints the address map.
func showIPAM(ctx context.Context, in *invocation, client *api.Client) error {
	all, err := client.IPAM(ctx)
	switch {
	case err != nil:
		return err
	case in.json:
		return printJSON(in.Out, all)
	}
	return printIPAM(in.Out, all, time.Now())
}

// show prints one part of s, or the summary.
func show(in *invocation, part string, s api.Status) error {
	if in.json {
		switch part {
		case "peers":
			return printJSON(in.Out, peersAnswer{head(), s.Peers})
		case "links":
			return printJSON(in.Out, linksAnswer{head(), s.Links, s.Targets})
		case "routes":
			return printJSON(in.Out, routesAnswer{head(), s.Routes})
		case "endpoints":
			return printJSON(in.Out, endpointsAnswer{head(), s.Endpoints})
		}
		return printJSON(in.Out, s)
	}
	v := view{s: s, nick: nicknames(s), now: time.Now()}
	switch part {
	case "peers":
		return v.peers().print(in.Out)
	case "links":
		if err := v.links().print(in.Out); err != nil {
			return err
		}
		fmt.Fprintln(in.Out)
		return v.targets().print(in.Out)
	case "routes":
		return v.routes().print(in.Out)
	case "endpoints":
		return v.endpoints().print(in.Out)
	}
	_, err := fmt.Fprint(in.Out, v.summary())
	return err
}

// nicknames maps the names of all hosts to what people call them.
func nicknames(s api.Status) map[string]string {
	nick := map[string]string{s.Name: s.Nickname}
	for _, p := range s.Peers {
		nick[p.Name] = p.Nickname
	}
	return nick
}

// view lays a status out for people.
type view struct {
	s    api.Status
	nick map[string]string // by name
	now  time.Time
}

// host is what people call the host of that name.
func (v view) host(name string) string { return nickOr(v.nick[name], name) }

func (v view) summary() string {
	s := v.s
	var b strings.Builder
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%10s  %s\n", what, printable(fmt.Sprintf(format, args...)))
	}
	row("host", "%s  %s", s.Nickname, s.Name)
	network := s.Network + ", encrypted"
	if s.Cipher == "none" {
		network = s.Network + ", NOT encrypted (made with cipher none)"
	}
	row("network", "%s", network)
	device := "routed, device " + s.Device
	if s.Bridge != "" {
		device = fmt.Sprintf("bridge %s, device %s", s.Bridge, s.Device)
	}
	row("device", "%s, MTU %d, port %d", device, s.MTU, s.Port)
	if len(s.Offloads) > 0 {
		row("offloads", "%s", offloads(s.Offloads))
	}
	if len(s.Addresses) > 0 {
		gateway := ""
		if s.Masquerade {
			gateway = ", gateway of what is attached here (masquerades)"
		}
		row("address", "%s%s", joined(s.Addresses), gateway)
	}
	row("running", "%s, for %v, process %d", s.Software, (time.Duration(s.UptimeSec) * time.Second), s.PID)
	if s.Metrics != "" {
		row("metrics", "http://%s/metrics", s.Metrics)
	}

	reachable, relayed := 0, 0
	for _, p := range s.Peers {
		if p.Reachable {
			reachable++
			if p.Via != "" {
				relayed++
			}
		}
	}
	row("peers", "%d, %d reachable, %d of them through others", len(s.Peers), reachable, relayed)
	up, overTCP := 0, 0
	for _, l := range s.Links {
		if l.State == api.LinkUp {
			if up++; l.Path == "tcp" {
				overTCP++
			}
		}
	}
	slow := ""
	if overTCP > 0 {
		slow = fmt.Sprintf(", %d of them over TCP, for UDP does not pass", overTCP)
	}
	row("links", "%d, %d up%s%s", len(s.Links), up, slow, v.targetSummary())
	here, trouble := 0, 0
	for _, e := range s.Endpoints {
		switch e.State {
		case api.EndpointHere:
			here++
		case api.EndpointFenced, api.EndpointOrphan:
			trouble++
		}
	}
	endpoints := fmt.Sprintf("%d, %d here", len(s.Endpoints), here)
	if trouble > 0 {
		endpoints += fmt.Sprintf(", %d fenced or orphaned", trouble)
	}
	row("endpoints", "%s", endpoints)
	if s.IPAM != nil {
		row("addresses", "%s; here %s", s.IPAM.Range, ipamCounts(*s.IPAM))
		ipamTrouble(row, *s.IPAM)
	}
	if drops := v.drops(); drops != "" {
		row("dropped", "%s", drops)
	}
	for _, w := range s.Warnings {
		row("WARNING", "%s", w)
	}
	return b.String()
}

// drops lists what was dropped by reason, the most frequent first, at most four.
func (v view) drops() string {
	const most = 4
	var reasons []string
	var sum uint64
	for name, n := range v.s.Counters {
		if n > 0 && (strings.HasPrefix(name, "drop_") || strings.HasPrefix(name, "port_rule_")) {
			reasons = append(reasons, name)
			sum += n
		}
	}
	if sum == 0 {
		return ""
	}
	slices.SortFunc(reasons, func(a, b string) int {
		return cmp.Or(cmp.Compare(v.s.Counters[b], v.s.Counters[a]), strings.Compare(a, b))
	})
	rest := len(reasons) - most
	reasons = reasons[:min(most, len(reasons))]
	for i, name := range reasons {
		text := strings.ReplaceAll(strings.TrimPrefix(name, "drop_"), "_", " ")
		reasons[i] = fmt.Sprintf("%d %s", v.s.Counters[name], text)
	}
	if rest > 0 {
		reasons = append(reasons, fmt.Sprintf("%d more reasons", rest))
	}
	return fmt.Sprintf("%d: %s", sum, strings.Join(reasons, ", "))
}

// offloads says which are used, and why others are not.
func offloads(all []api.Offload) string {
	var used, not []string
	for _, o := range all {
		if o.Used {
			used = append(used, o.Name)
		} else {
			not = append(not, fmt.Sprintf("no %s (%s)", o.Name, o.Why))
		}
	}
	if len(not) == 0 {
		return "all: " + strings.Join(used, ", ")
	}
	return strings.Join(append(used, not...), ", ")
}

// targetSummary says how the dialling goes.
func (v view) targetSummary() string {
	if len(v.s.Targets) == 0 {
		return ""
	}
	count := make(map[string]int)
	var states []string
	for _, t := range v.s.Targets {
		if count[t.State]++; count[t.State] == 1 {
			states = append(states, t.State)
		}
	}
	slices.Sort(states)
	for i, state := range states {
		states[i] = fmt.Sprintf("%d %s", count[state], state)
	}
	return fmt.Sprintf("; %d to dial: %s", len(v.s.Targets), strings.Join(states, ", "))
}

func (v view) peers() table {
	t := table{head: []string{"PEER", "NAME", "STATE", "HOPS", "VIA", "PATH", "CIPHER", "SOFTWARE"}, none: "no peers"}
	peers := slices.SortedStableFunc(slices.Values(v.s.Peers), func(a, b api.Peer) int { return strings.Compare(a.Nickname, b.Nickname) })
	for _, p := range peers {
		state := "unreachable"
		switch {
		case p.Reachable:
			state = "reachable"
		case !p.Alive:
			state = "gone"
		}
		t.add(nickOr(p.Nickname, p.Name), p.Name, state, number(p.Hops), p.Via, p.Path, p.Session, p.Software)
	}
	return t
}

func (v view) links() table {
	t := table{head: []string{"LINK WITH", "STATE", "PATH", "REMOTE", "RTT", "LOSS", "MTU", "TRAIN", "OPENED BY", "FOR"}, none: "no links"}
	links := slices.SortedStableFunc(slices.Values(v.s.Links), func(a, b api.Link) int { return strings.Compare(a.Nickname, b.Nickname) })
	for _, l := range links {
		opened := "them"
		if l.Dialled {
			opened = "us"
		}
		t.add(nickOr(l.Nickname, v.host(l.Peer)), l.State, l.Path, l.Remote, micros(l.RTTMicro),
			fmt.Sprintf("%.0f %%", 100*l.Loss), number(l.MTU), number(l.Train), opened, v.since(l.Since))
	}
	return t
}

func (v view) targets() table {
	t := table{head: []string{"TO DIAL", "STATE", "IS", "NEXT TRY", "LAST ERROR"}, none: "no peers to dial"}
	for _, g := range v.s.Targets {
		next := ""
		if wait := g.NextTry.Sub(v.now); g.State != api.TargetUp && g.State != api.TargetSelf && !g.NextTry.IsZero() {
			next = "in " + max(wait, 0).Round(100*time.Millisecond).String()
		}
		is := ""
		if g.Peer != "" {
			is = v.host(g.Peer)
		}
		t.add(g.Target, g.State, is, next, g.Error)
	}
	return t
}

func (v view) routes() table {
	t := table{head: []string{"TO", "FIRST", "ELSE", "HOPS", "COST"}, none: "no routes"}
	routes := slices.SortedStableFunc(slices.Values(v.s.Routes), func(a, b api.Route) int { return strings.Compare(a.Nickname, b.Nickname) })
	for _, r := range routes {
		alternate := ""
		if r.Alternate != "" {
			alternate = v.host(r.Alternate)
		}
		t.add(nickOr(r.Nickname, r.Peer), v.host(r.Next), alternate, number(r.Hops), micros(r.CostMicro))
	}
	return t
}

func (v view) endpoints() table {
	t := table{head: []string{"ENDPOINT", "ADDRESSES", "MAC", "HOST", "STATE", "INTERFACE", "NAMESPACE", "GATEWAY", "ALLOWED TOO"}, none: "no endpoints"}
	for _, e := range v.s.Endpoints {
		t.add(e.Name, bare(e.Addresses), e.MAC, nickOr(e.HostNickname, e.Host), e.State, e.Interface, e.Netns, gatewayOf(e),
			strings.Join(slices.Concat(e.AllowMAC, e.AllowAddress), " "))
	}
	return t
}

// gatewayOf is by which address an endpoint reaches the world, or that it is how others do.
func gatewayOf(e api.Endpoint) string {
	switch {
	case e.Masquerade:
		return "masquerades"
	case e.Gateway.IsValid():
		return e.Gateway.String()
	}
	return ""
}

// bare lists prefixes, those of one address without their length.
func bare(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		if texts[i] = p.String(); p.IsSingleIP() {
			texts[i] = p.Addr().String()
		}
	}
	return strings.Join(texts, " ")
}

// since is how long ago t was.
func (v view) since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return max(v.now.Sub(t), 0).Round(time.Second).String()
}

// number is n for people: nothing for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// micros is a time given in microseconds, with three digits.
func micros(us int64) string {
	switch {
	case us == 0:
		return ""
	case us < 10_000:
		return fmt.Sprintf("%.2f ms", float64(us)/1e3)
	}
	return fmt.Sprintf("%.0f ms", float64(us)/1e3)
}
