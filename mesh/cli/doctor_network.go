package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/tun"
)

// checkEndpoints says what lost its place, and what to run.
func checkEndpoints(_ context.Context, x *examination) []finding {
	s := x.status
	var found []finding
	for _, e := range s.Endpoints {
		what := fmt.Sprintf("%s (%s)", cmp.Or(e.Name, e.Netns, e.MAC), bare(e.Addresses))
		here := e.Host == s.Name
		host := nickOr(e.HostNickname, e.Host)
		switch {
		case e.State == api.EndpointFenced && here:
			found = append(found, failure(detachLine(e)+", then attach it again with another address or MAC; or detach it on the host that has them now", "%s is fenced: another host has its %s", what, fencedPart(e)))
		case e.State == api.EndpointFenced:
			found = append(found, warning(fmt.Sprintf("on %s: `ripstop doctor` says what to run", host), "%s on %s is fenced: another host has its address or MAC", what, host))
		case e.State == api.EndpointOrphan && here:
			found = append(found, warning(detachLine(e), "%s is attached, but its interface %s is gone", what, e.HostPort))
		case e.State == api.EndpointOrphan:
			found = append(found, warning(fmt.Sprintf("run `ripstop up` on %s; if that host is gone for good: `ripstop rmpeer %s`", host, e.Host), "%s is unreachable: no host has a link with its host %s", what, host))
		}
	}
	return orGood(found, "%d, none fenced or orphaned", len(s.Endpoints))
}

// detachLine is the command that takes an endpoint of this host off the network.
func detachLine(e api.Endpoint) string {
	if e.Netns == "" {
		return "`ripstop hide`"
	}
	return fmt.Sprintf("`ripstop detach %s --interface %s`", e.Netns, e.Interface)
}

// fencedPart says what of an endpoint another host has.
func fencedPart(e api.Endpoint) string {
	if len(e.Fenced) > 0 {
		return bare(e.Fenced)
	}
	return "address or MAC"
}

// The share of the addresses of reachable hosts that should be free.
const lowShare = 0.1

// checkAddresses says why none is given out, which are disputed, and when they run out.
func checkAddresses(_ context.Context, x *examination) []finding {
	i := x.status.IPAM
	if i == nil {
		return one(good("this daemon gives out none"))
	}
	// A host without others makes the address map when the first address is asked for.
	if i.Map == "" && i.Pending == 0 && len(x.status.Targets)+len(x.status.Peers) == 0 {
		return one(good("none was asked for yet"))
	}
	var found []finding
	if i.SaveError != "" {
		found = append(found, failure("make room, or mend the disk, where "+x.state+" lives; then it goes on by itself", "none is given out: %s", i.SaveError))
	}
	if i.Waiting != "" {
		found = append(found, warning("see that all hosts named at the first start are up; where one never comes: `ripstop ipam start` on one host", "none is given out yet: %s", i.Waiting))
	}
	if i.Fenced > 0 {
		found = append(found, failure("`ripstop status ipam` lists them; detach and attach again what has them", "%s in use here belong to another host", counted(i.Fenced, "address", "addresses")))
	}
	if i.Conflicts > 0 {
		found = append(found, warning("`ripstop status ipam` tells which, and what was decided; a state directory was copied or brought back from a backup", "%s claimed by two hosts", counted(i.Conflicts, "block was", "blocks were")))
	}
	free, all := 0, 0
	for _, h := range i.Hosts {
		if h.Reachable {
			free, all = free+h.Free, all+h.Addresses
		}
	}
	const more = "detach what is not used; take over the blocks of hosts that are gone for good by `ripstop rmpeer`; else all hosts need a larger range"
	switch {
	case all > 0 && free == 0:
		found = append(found, failure(more, "none is free on the hosts that can be reached"))
	case float64(free) < lowShare*float64(all):
		found = append(found, warning(more, "%d of %d on the hosts that can be reached are free", free, all))
	}
	return orGood(found, "%d free on the hosts that can be reached, %d in use here", free, i.Used)
}

// counted is a number with the word for it.
func counted(n int, single, several string) string {
	if n == 1 {
		return "1 " + single
	}
	return fmt.Sprintf("%d %s", n, several)
}

// checkOffloads says which are not used, and why. It is no fault: they were switched
// off, or the kernel is older.
func checkOffloads(_ context.Context, x *examination) []finding {
	text := offloads(x.status.Offloads)
	if text == "" {
		text = "none are told of"
	}
	return one(good("%s", text))
}

// checkNames says whether the names of the network are answered here.
func checkNames(ctx context.Context, x *examination) []finding {
	names, err := x.client.Names(ctx)
	server, answers := nameServer(names)
	switch {
	case err != nil:
		return one(warning("run it again; `ripstop status dns` should say the same", "the daemon says nothing of names: %s", reason(err)))
	case !answers && !slices.ContainsFunc(x.status.Warnings, aboutNames):
		return one(good("not resolved here: %s", names.Problem))
	case !answers:
		cause, remedy := namesProblem(names.Problem)
		return one(failure(remedy, "not resolved here: %s", cause))
	}
	// Only an address of this host is asked: else the question would leave it.
	if here, err := x.host.has(server); err != nil || !here {
		return one(failure("start the daemon again: `ripstop stop`, then `ripstop up`", "%v, where names are asked for, is on no interface of this host any more", server))
	}
	if err := x.host.resolve(ctx, server, "doctor."+names.Domain+"."); err != nil {
		return one(failure(fmt.Sprintf("let UDP and TCP port 53 of %v through this host's firewall: nft insert rule inet filter input ip daddr %v accept", server, server), "%v does not answer for %s: %s", server, names.Domain, reason(err)))
	}
	awake := slices.ContainsFunc(names.Upstreams, func(u api.Upstream) bool { return !u.Resting })
	switch {
	case len(names.Upstreams) == 0:
		return one(warning("name resolvers in /etc/resolv.conf, or in a file for `ripstop up --resolv-conf`", "%v answers for %s; names of others are not resolved, for this host has no resolver", server, names.Domain))
	case !awake:
		return one(warning("see /etc/resolv.conf, or the file of `ripstop up --resolv-conf`", "%v answers for %s; none of this host's %s answers for names of others", server, names.Domain, plural(len(names.Upstreams), "resolver")))
	}
	return one(good("%v answers for %s", server, names.Domain))
}

// nameServer is where the daemon says that names are asked for.
func nameServer(n api.Names) (netip.Addr, bool) {
	if n.Address == nil {
		return netip.Addr{}, false
	}
	return *n.Address, true
}

// aboutNames reports whether a warning of the daemon's says that names are not resolved.
func aboutNames(warning string) bool {
	return strings.HasPrefix(warning, mesh.NamesWarning)
}

// namesProblem takes apart why names are not resolved, where the daemon says what helps.
func namesProblem(problem string) (cause, remedy string) {
	cause, remedy, _ = strings.Cut(problem, ": ")
	if !strings.Contains(remedy, "--no-dns") {
		return problem, "see the daemon's log; `ripstop up --no-dns` does without names"
	}
	return cause, remedy
}

// checkResolved says whether this host's own programs find names of the network.
func checkResolved(ctx context.Context, x *examination) []finding {
	names, err := x.client.Names(ctx)
	server, answers := nameServer(names)
	if err != nil || !answers {
		return one(good("there is nothing to tell systemd-resolved of"))
	}
	device := cmp.Or(x.status.Bridge, x.status.Device)
	runs, asks, err := x.host.resolved(ctx, device, names.Domain)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return one(skipped(asRoot, "whether systemd-resolved runs here is not shown to this user"))
	case err != nil:
		return one(warning("`resolvectl status "+device+"` should say the same", "systemd-resolved: %s", reason(err)))
	case !runs:
		return one(good("systemd-resolved does not run here"))
	case !asks:
		return one(warning(fmt.Sprintf("resolvectl dns %s %v; resolvectl domain %s '~%s'", device, server, device, names.Domain), "systemd-resolved does not ask here for names of %s, so this host's own programs do not find them", names.Domain))
	}
	return one(good("systemd-resolved asks here for names of %s", names.Domain))
}

// checkWarnings passes on what the daemon says that no other check has said.
func checkWarnings(_ context.Context, x *examination) []finding {
	var seen []string
	if c, err := x.host.capable(); err == nil && c.netAdmin() && x.bridge != "" {
		for _, look := range []func(string) (string, bool){x.host.forwarding, x.host.routing} {
			if sentence, there := look(x.bridge); there {
				seen = append(seen, sentence)
			}
		}
	}
	var found []finding
	for _, w := range x.status.Warnings {
		switch {
		case slices.Contains(seen, w), aboutNames(w):
		case strings.Contains(w, tun.HazardRemedy):
			found = append(found, hazardFinding(w))
		default:
			found = append(found, warning("see the daemon's log", "%s", w))
		}
	}
	return orGood(found, "the daemon has no others")
}
