package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ripstop/mesh/api"
	"ripstop/transport"
)

// checkTargets says which peers to dial do not answer, and why.
func checkTargets(_ context.Context, x *examination) []finding {
	s := x.status
	alone := !slices.ContainsFunc(s.Peers, func(p api.Peer) bool { return p.Reachable })
	var found []finding
	up := 0
	for _, t := range s.Targets {
		switch t.State {
		case api.TargetUp, api.TargetSelf:
			up++
			continue
		}
		text, remedy := cmp.Or(t.Error, "no answer yet"), targetRemedy(t, s.Port)
		if t.State == api.TargetRefused || alone {
			found = append(found, failure(remedy, "%s: %s", t.Target, text))
		} else {
			found = append(found, warning(remedy, "%s: %s", t.Target, text))
		}
	}
	if len(s.Targets) == 0 {
		return one(good("there are none to dial"))
	}
	return orGood(found, "all %d to dial answer", up)
}

// targetRemedy is what helps with a target, by what its last error says.
func targetRemedy(t api.Target, port uint16) string {
	forget := fmt.Sprintf("to dial it no more: `ripstop forget %s`", t.Target)
	if target, err := transport.ParseTarget(t.Target); err == nil && target.Port != 0 {
		port = target.Port
	}
	has := func(text string) bool { return strings.Contains(t.Error, text) }
	switch {
	case has("secret"):
		return "`ripstop secret show` must print the same on both hosts; start the one that differs by `ripstop up --secret-file`"
	case t.State == api.TargetRefused && has("inside the overlay"):
		return fmt.Sprintf("`ripstop forget %s`, then `ripstop connect` with its address on the network below", t.Target)
	case t.State == api.TargetRefused && has("version"):
		return "run the same version of ripstop on both hosts"
	case t.State == api.TargetRefused:
		return "see what listens there, and at what port ripstop does; " + forget
	case has("resolve "):
		return fmt.Sprintf("correct the name: `ripstop forget %s`, then `ripstop connect` with the right one", t.Target)
	case has("connection refused"):
		return "run `ripstop up` there, or give the port at which it listens there; " + forget
	}
	return fmt.Sprintf("see that it is up and runs ripstop, and let TCP and UDP port %d of it be reached from here; %s", port, forget)
}

// checkLinks says which neighbours are connected but of no use yet, or any more.
func checkLinks(_ context.Context, x *examination) []finding {
	s := x.status
	var found []finding
	for _, l := range s.Links {
		name := nickOr(l.Nickname, l.Peer)
		switch l.State {
		case api.LinkConnecting:
			found = append(found, warning("run it again in some seconds; if it stays so, see the daemon's log there and here", "with %s: connected, no probe is answered yet", name))
		case api.LinkDown:
			found = append(found, warning(fmt.Sprintf("see that %s is up, and let TCP and UDP port %d pass between it and this host; frames go round by other hosts meanwhile, if there are", name, s.Port), "with %s: nothing is answered any more", name))
		}
	}
	switch {
	case len(s.Links) == 0 && len(s.Peers) > 0:
		return one(warning("`ripstop connect PEER` with an address of one of them", "there are %s, and a link with none", plural(len(s.Peers), "other host")))
	case len(s.Links) == 0:
		return one(good("there are none"))
	}
	return orGood(found, "%d, all up", len(s.Links))
}

// checkUDP says with whom UDP does not pass.
func checkUDP(_ context.Context, x *examination) []finding {
	s := x.status
	var found []finding
	for _, l := range s.Links {
		if l.State != api.LinkUp || l.Path != "tcp" {
			continue
		}
		name := nickOr(l.Nickname, l.Peer)
		there := name
		if at := underlay(s, l.Peer); at != "" {
			there = fmt.Sprintf("%s (%s)", name, at)
		}
		found = append(found, warning(fmt.Sprintf("let UDP pass both ways: to %s from here, and to port %d of this host from there", there, s.Port), "with %s: over TCP, for UDP does not pass; that is slower", name))
	}
	if len(s.Links) == 0 {
		return one(good("there are no links"))
	}
	return orGood(found, "passes on all links")
}

// underlay is where a peer says that it can be reached, at most three addresses.
func underlay(s *api.Status, name string) string {
	const most = 3
	for _, p := range s.Peers {
		if p.Name == name {
			return strings.Join(p.Addresses[:min(most, len(p.Addresses))], ", ")
		}
	}
	return ""
}

// muchLoss is the share of probes from which on loss is told.
const muchLoss = 0.01

// checkLoss says which links lose much.
func checkLoss(_ context.Context, x *examination) []finding {
	var found []finding
	for _, l := range x.status.Links {
		if l.State == api.LinkUp && l.Loss > muchLoss {
			found = append(found, warning("look for an overloaded or faulty line between the two: `ping` from one to the other, outside the overlay, should lose as much",
				"with %s: %.0f %% of probes", nickOr(l.Nickname, l.Peer), 100*l.Loss))
		}
	}
	return orGood(found, "no link loses more than %.0f %%", 100*muchLoss)
}

// settled is how long after a link came up its packet size is certain to be found.
const settled = 30 * time.Second

// checkMTU says which links carry packets shorter than IPv6 asks of every network.
func checkMTU(_ context.Context, x *examination) []finding {
	var found []finding
	for _, l := range x.status.Links {
		if l.State != api.LinkUp || l.Path == "tcp" || l.MTU == 0 || x.now.Sub(l.Since) < settled {
			continue
		}
		if l.MTU < transport.BaseLimit {
			found = append(found, warning("raise the MTU of what is between the two; it works as it is, but every full frame goes in pieces",
				"with %s: packets carry %d bytes, %d are usual", nickOr(l.Nickname, l.Peer), l.MTU, usualPayload))
		}
	}
	return orGood(found, "no link carries shorter packets than any network should")
}

// usualPayload is what a packet over Ethernet carries: 1500 bytes less IPv4 and UDP headers.
const usualPayload = 1472

// checkPeersReached says which members there is no way to.
func checkPeersReached(_ context.Context, x *examination) []finding {
	s := x.status
	var found []finding
	reachable := 0
	for _, p := range s.Peers {
		name := nickOr(p.Nickname, p.Name)
		switch {
		case p.Reachable:
			reachable++
		case p.Alive:
			found = append(found, failure(fmt.Sprintf("let TCP and UDP port %d pass to %s from a host that is reached from here, or from here", s.Port, name), "%s: others have links with it, but there is no way to it", name))
		default:
			found = append(found, warning(fmt.Sprintf("run `ripstop up` there; if it is gone for good: `ripstop rmpeer %s`", p.Name), "%s: no host has a link with it", name))
		}
	}
	switch {
	case len(s.Peers) == 0:
		return one(good("there are no other hosts yet"))
	case reachable == 0:
		return one(failure(fmt.Sprintf("see the targets and links above: TCP and UDP port %d must pass to one of them at least", s.Port), "this host is cut off: of %s none can be reached", plural(len(s.Peers), "other host")))
	}
	return orGood(found, "all %d can be reached", reachable)
}

// checkVersions says where hosts, or this program and its daemon, differ.
func checkVersions(_ context.Context, x *examination) []finding {
	s := x.status
	hosts := map[string][]string{s.Software: {nickOr(s.Nickname, s.Name)}}
	for _, p := range s.Peers {
		if p.Alive && p.Software != "" {
			hosts[p.Software] = append(hosts[p.Software], nickOr(p.Nickname, p.Name))
		}
	}
	var found []finding
	if own := software(); own != s.Software {
		found = append(found, warning("start the daemon again: `ripstop stop`, then `ripstop up`", "this program is %s, the daemon that runs is %s", own, s.Software))
	}
	if len(hosts) > 1 {
		var parts []string
		for _, v := range slices.Sorted(maps.Keys(hosts)) {
			parts = append(parts, fmt.Sprintf("%s on %s", v, some(hosts[v])))
		}
		found = append(found, warning("bring all hosts to one version, one after the other", "%s", strings.Join(parts, "; ")))
	}
	return orGood(found, "%s on all hosts", s.Software)
}

// some are the first of names, sorted, and how many more there are.
func some(names []string) string {
	const most = 4
	slices.Sort(names)
	if len(names) <= most {
		return and(names)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
