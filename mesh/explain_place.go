package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/dns"
	"ripstop/route"
)

// place is what a frame may go to, by the form in which it was given: one of the three.
type place struct {
	address netip.Addr
	mac     route.MAC
	name    string
}

// parsePlace takes an address, a MAC, or else a name of something.
func parsePlace(word string) (place, error) {
	switch {
	case word == "":
		return place{}, errors.New("an address, a MAC or a name is missing")
	case len(word) > api.MaxPlace:
		return place{}, fmt.Errorf("%.40q…: no name has %d characters, %d are the most", word, len(word), api.MaxPlace)
	}
	if a, err := netip.ParseAddr(word); err == nil {
		if a = a.Unmap(); a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() {
			return place{}, fmt.Errorf("%s: not an address that anything on the network can have", word)
		}
		return place{address: a}, nil
	}
	if p, err := netip.ParsePrefix(word); err == nil {
		return place{}, fmt.Errorf("%s: give one address, without a length: %s", word, p.Addr())
	}
	if m, err := parseMAC(word); err == nil {
		if m.IsZero() {
			return place{}, fmt.Errorf("%s: a MAC that nothing has", word)
		}
		return place{mac: m}, nil
	}
	return place{name: word}, nil
}

// underDomain is a name as the zone has it.
func (x *explainer) underDomain(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(name), "."), "."+x.n.cfg.DNSDomain)
}

// toName finds what a name stands for: what the zone says, an endpoint whose name is not
// resolved now, or a host.
func (x *explainer) toName(word string) error {
	name := x.underDomain(word)
	addresses, services := x.resolved(name)
	if len(addresses) > 0 {
		x.toAddresses(x.zone.Full(name), addresses)
		return nil
	}
	if services {
		x.step(api.StepName, api.StepFail, "ask for one of the hosts that `ripstop dns lookup` shows", "%s is a service whose hosts have no address now", x.zone.Full(name))
		return nil
	}
	for _, e := range slices.Concat(x.table.Endpoints(), x.table.Fenced()) {
		if x.isNamed(&e, name) {
			x.step(api.StepName, api.StepWarn, "", "%s is not resolved now; its record is that of an endpoint at %s", x.zone.Full(name), x.nick(e.Host))
			x.toEndpoint(&e)
			return nil
		}
	}
	x.n.mu.Lock()
	host, err := x.n.peerCalled(word)
	x.n.mu.Unlock()
	switch {
	case api.IsCode(err, api.CodeNotFound):
		x.step(api.StepName, api.StepFail, "`ripstop status dns` lists the names, `ripstop status endpoints` what is attached, `ripstop status peers` the hosts",
			"no name, endpoint or host on this network is called %s", word)
		return nil
	case err != nil:
		return err
	}
	x.ok(api.StepName, "%s is a host", x.nick(host))
	x.toHost(host)
	return nil
}

// resolved are the addresses that the zone has for a name, or for the targets of a service.
func (x *explainer) resolved(name string) (all []netip.Addr, service bool) {
	for _, r := range x.zone.Lookup(name) {
		all = append(all, r.Addresses...)
		if r.Port != 0 {
			service = true
			for _, target := range x.zone.Lookup(r.Target) {
				all = append(all, target.Addresses...)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), service
}

// toAddresses goes on with the first of a name's addresses that an endpoint has.
func (x *explainer) toAddresses(name string, all []netip.Addr) {
	chosen := all[0]
	if at := slices.IndexFunc(all, func(a netip.Addr) bool { _, _, held := x.table.LookupAddress(vni, a); return held }); at >= 0 {
		chosen = all[at]
	}
	mac, _, _ := x.table.LookupAddress(vni, chosen)
	elsewhere := slices.ContainsFunc(all, func(a netip.Addr) bool { other, _, _ := x.table.LookupAddress(vni, a); return other != mac })
	text := fmt.Sprintf("%s is %s", name, listed(texts(all)))
	if elsewhere {
		text += fmt.Sprintf("; this is about %s: ask for the others by address", chosen)
	}
	x.ok(api.StepName, "%s", text)
	x.toAddress(chosen)
}

// isNamed reports whether an endpoint has a name, by itself or with its host's behind it.
func (x *explainer) isNamed(e *route.Endpoint, name string) bool {
	label := dns.HostLabel(x.members[e.Host].Peer.Nickname)
	return slices.ContainsFunc(e.Names, func(own string) bool { return name == own || name == own+"."+label })
}

// toAddress finds who has an address.
func (x *explainer) toAddress(a netip.Addr) {
	if a == x.n.cfg.DNSAddress {
		if x.silent != "" {
			x.step(api.StepAddress, api.StepFail, "`ripstop status dns` says more", "%s is where hosts answer questions for names, and this one does not: %s", a, x.silent)
			return
		}
		x.ok(api.StepAddress, "%s is where every host answers questions for names: it does not leave this one", a)
		x.arrived(x.self(), "this host answers at it itself")
		return
	}
	if a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		x.copies(api.StepAddress, a.String())
		return
	}
	x.checkRoute(a)
	if mac, _, held := x.table.LookupAddress(vni, a); held {
		e, _ := x.table.Endpoint(vni, mac)
		x.toEndpoint(&e)
		return
	}
	has := func(p netip.Prefix) bool { return p.Addr() == a }
	for _, l := range x.local {
		if slices.ContainsFunc(l.fenced, has) {
			x.step(api.StepAddress, api.StepFail, "detach "+l.label+" and attach it anew for another address", "%s of %s here is fenced: it is another host's, and no port rule lets it through", a, l.label)
			return
		}
	}
	for _, e := range x.table.Fenced() {
		if slices.Contains(e.Addresses, a) {
			x.toEndpoint(&e)
			return
		}
	}
	if host, there := x.underlay(a); there {
		x.step(api.StepAddress, api.StepFail, "ask for "+x.nick(host)+", or for what is attached there", "%s is an address of the host %s outside this network", a, x.nick(host))
		return
	}
	x.allocation(a)
	x.flood(api.StepAddress, a.String(), "questions for it (ARP, ND) go")
}

// underlay finds the host that is reached at an address of the underlay.
func (x *explainer) underlay(a netip.Addr) (crypto.Name, bool) {
	for name, m := range x.members {
		for _, at := range m.Peer.Addresses {
			if at.Addr() == a {
				return name, true
			}
		}
	}
	return crypto.Name{}, false
}

// allocation says how it stands with an address that no endpoint has.
func (x *explainer) allocation(a netip.Addr) {
	x.n.mu.Lock()
	defer x.n.mu.Unlock()
	v4, inside, err := x.n.inTable(a)
	if err != nil || !inside {
		x.ok(api.StepAddress, "%s is outside the range %v, of which addresses are given out: only an endpoint's record would tell of it", a, x.n.numbering.Range)
		return
	}
	use, known := x.n.machine.Use(v4)
	name, _, _ := strings.Cut(use.ID, leaseMark)
	owner := "a block of " + x.nick(use.Owner)
	if use.Owner == x.self() {
		owner = "a block of this host"
	}
	reserved := slices.ContainsFunc(x.n.numbering.Reserved, func(p netip.Prefix) bool { return p.Contains(v4) })
	text := ""
	switch {
	case !known:
		text = "in the range, for which there is no address map yet: `ripstop status ipam` says who is waited for"
	case use.State == "" && use.Owner != x.self():
		text = "in " + owner + ", which alone knows whether it is given: `ripstop status ipam` there says so"
	case use.State == "" && reserved:
		text = "free, in " + owner + ", and reserved: it is given out only where it is asked for"
	case use.State == "":
		text = "free: in " + owner + ", which has given it to nobody"
	case use.State == "held":
		text = fmt.Sprintf("in %s, and held by %s, which claimed it", owner, x.nick(use.Holder))
	case use.State == "fenced":
		text = fmt.Sprintf("given to %s here, and fenced: it is another host's", name)
	case use.State == "resting", use.State == "returning":
		text = "in " + owner + ", given back a short while ago: it rests before it is given again"
	case use.State == "kept":
		text = fmt.Sprintf("in %s, kept for %s", owner, strings.TrimSuffix(name, leaseMark))
	default:
		text = fmt.Sprintf("given to %s by this host, which has no endpoint with it", name)
	}
	x.ok(api.StepAddress, "%s is %s", a, text)
}

// toMAC finds who has a MAC.
func (x *explainer) toMAC(m route.MAC) {
	switch {
	case m.IsLinkLocal():
		x.step(api.StepMAC, api.StepFail, "", "%s concerns one cable: it stays on the bridge of its host", m)
		return
	case m.IsGroup():
		x.copies(api.StepMAC, m.String())
		return
	}
	if e, ok := x.table.Endpoint(vni, m); ok {
		x.toEndpoint(&e)
		return
	}
	if peer, ok := x.n.swtch.Learned().Lookup(x.clock, vni, m); ok {
		x.toLearned(m, peer)
		return
	}
	for name := range x.members {
		if name.MAC() == m {
			x.ok(api.StepMAC, "%s is the name of the host %s", m, x.nick(name))
			x.toHost(name)
			return
		}
	}
	x.flood(api.StepMAC, m.String(), "frames for it go")
}

// toLearned goes on where a MAC that is no endpoint's was seen last.
func (x *explainer) toLearned(m route.MAC, peer route.PeerID) {
	if peer == 0 {
		x.ok(api.StepMAC, "%s is in no record: learned from frames of a port of this host that is not attached", m)
		x.here(m.String())
		return
	}
	w := x.snapshot.Way(peer, 0)
	if w.To == nil {
		x.flood(api.StepMAC, m.String(), "frames for it go")
		return
	}
	x.ok(api.StepMAC, "%s is in no record: learned from frames of host %s, where it is forgotten after ten silent minutes", m, x.nick(w.To.Peer.Name))
	x.onHost(w.To.Peer.Name)
}

// copies is the end of a frame for everybody.
func (x *explainer) copies(what, to string) {
	hosts := x.everyone()
	if len(hosts) == 0 {
		x.step(what, api.StepFail, "`ripstop status links` says why there is no link", "%s is for everybody, and no other host can be reached", to)
		return
	}
	x.ok(what, "%s is for everybody: a copy goes to each host that can be reached, %d of them: %s; at most 1000 a second of one sender", to, len(hosts), x.nicks(hosts))
	x.Verdict = fmt.Sprintf("it gets to the bridge here, and as copies to %d hosts", len(hosts))
}

// flood is the end of a frame for what nobody is known to have.
func (x *explainer) flood(what, to, goes string) {
	hosts := x.everyone()
	advice := "`ripstop status endpoints` lists what is attached; `ripstop status peers` tells whether the host that has it can be reached"
	if len(hosts) == 0 {
		x.step(what, api.StepFail, advice, "nobody is known to have %s, and no other host can be reached", to)
		return
	}
	x.step(what, api.StepFail, advice, "nobody is known to have %s: %s as copies to %d hosts (%s)", to, goes, len(hosts), x.nicks(hosts))
	if x.failed() == len(x.Steps)-1 {
		x.doubt = "it gets there only if something answers that no host has told of"
	}
}

// everyone are the hosts that get copies.
func (x *explainer) everyone() []crypto.Name {
	var all []crypto.Name
	for _, id := range x.table.Copies(vni) {
		if r, ok := x.table.Route(id); ok {
			all = append(all, r.Destination)
		}
	}
	return all
}

// toEndpoint goes on with an endpoint.
func (x *explainer) toEndpoint(e *route.Endpoint) {
	x.to = e
	label := "an endpoint without a name"
	if len(e.Names) > 0 {
		label = e.Names[0]
	}
	at, known := x.table.Lookup(vni, e.MAC)
	holder, _ := x.table.Endpoint(vni, e.MAC)
	text := fmt.Sprintf("%s, %s with %s, on %s; claim %d", label, e.MAC, listed(texts(e.Addresses)), x.nick(e.Host), e.Claim)
	if !known || at.Fenced || holder.Host != e.Host {
		x.step(api.StepEndpoint, api.StepFail, "detach one of the two: `ripstop status endpoints` shows both", "fenced: %s: another host's claim to its MAC or an address is greater, and nothing goes to or comes from it", text)
		return
	}
	x.endpointStep(e, text)
	if e.Host != x.self() {
		x.onHost(e.Host)
		return
	}
	for _, l := range x.local {
		if l.mac() == e.MAC && !l.Exposed && !x.portThere(l.Plan.HostInterface) {
			x.step(api.StepEndpoint, api.StepFail, "attach it again, if its namespace still runs", "its port %s is gone", l.Plan.HostInterface)
		}
	}
	if x.from != nil && x.from.mac() == e.MAC {
		x.arrived(x.self(), "it is the sender itself: nothing leaves it")
		return
	}
	x.here(label)
}

// endpointStep says who it is, and who else claims the same.
func (x *explainer) endpointStep(e *route.Endpoint, text string) {
	var others []string
	for _, f := range x.table.Fenced() {
		if overlaps(f, e.MAC, e.Addresses) {
			others = append(others, fmt.Sprintf("%s on %s (claim %d)", f.MAC, x.nick(f.Host), f.Claim))
		}
	}
	if len(others) > 0 {
		x.step(api.StepEndpoint, api.StepWarn, "detach one of them: `ripstop status endpoints` shows all", "%s; the same is claimed by %s, which is fenced", text, listed(others))
		return
	}
	x.ok(api.StepEndpoint, "%s", text)
}

// here is the end of a frame that the bridge carries.
func (x *explainer) here(label string) {
	if x.n.bridge == nil {
		x.arrived(x.self(), "it is this host itself")
		return
	}
	x.ok(api.StepWay, "the bridge %s carries it from port to port", x.n.cfg.Bridge)
	x.arrived(x.self(), fmt.Sprintf("%s is on this host: the bridge carries the frame, without ripstop", label))
}

// arrived notes the verdict of a way that ends at a host.
func (x *explainer) arrived(host crypto.Name, verdict string) {
	if len(x.Way) == 0 {
		x.Way = []string{host.String()}
	}
	x.Verdict = verdict
}
