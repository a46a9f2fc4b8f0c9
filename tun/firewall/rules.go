package firewall

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Chains. Those that a drop can be reached from by jump or goto; drop_CAUSE beside
// them, one for each cause.
const (
	chainBase         = "prerouting"
	chainForward      = "forward"
	chainManaged      = "managed"
	chainForeignMAC   = "foreign_mac"
	chainIPv4         = "ipv4"
	chainARP          = "arp"
	chainForeignARP   = "foreign_arp"
	chainIPv6         = "ipv6"
	chainSource6      = "source6"
	chainICMPv6       = "icmpv6"
	chainRouter       = "router"
	chainNS           = "solicitation"
	chainNA           = "advertisement"
	chainForeignND    = "foreign_nd"
	chainOptions      = "options"
	chainForeignLL1   = "foreign_option1"
	chainForeignLL2   = "foreign_option2"
	chainTagged       = "tagged"
	chainUnmanaged    = "unmanaged"
	chainUnmanagedOpt = "unmanaged_options"
)

// ICMPv6 types: RFC 4861, RFC 2710, RFC 3810.
const (
	icmpv6Report   = 131
	icmpv6Done     = 132
	icmpv6RS       = 133
	icmpv6RA       = 134
	icmpv6NS       = 135
	icmpv6NA       = 136
	icmpv6Redirect = 137
	icmpv6Report2  = 143
)

// Offsets in the three headers that rules load from.
const (
	offEtherSource = 6 // Ethernet

	offIPv4Source      = 12 // IPv4, 4 bytes
	offIPv4Destination = 16 // 4 bytes
	offIPv6Length      = 4  // IPv6: payload length 2, next header 1
	offIPv6Source      = 8  // 16 bytes

	offARPSenderMAC = 8  // ARP behind its 6 fixed bytes and the operation, 6 bytes
	offARPSenderIP  = 14 // 4 bytes

	offNDTarget  = 8  // NS and NA: ICMPv6 header 4, flags 4, target 16
	offNDOption1 = 24 // options: type 1, length 1 (in units of 8), address 6
	offNDOption2 = 32 // the second one, when the first takes 8 bytes
	offNDEnd     = 40 // behind both
)

// chain is a chain with its rules.
type chain struct {
	chain *nftables.Chain
	rules [][]expr.Any
}

// chains are all chains of the table, those that others point to first.
func (t *Table) chains(byMembers bool) []chain {
	var out []chain
	add := func(name string, rules ...[]expr.Any) {
		out = append(out, chain{&nftables.Chain{Name: name, Table: t.table}, rules})
	}
	for cause := range causes {
		add(cause.chain(), t.dropRules(cause)...)
	}
	anyMAC := rule(loadPort(), t.in(setAnyMAC))
	anyAddress := rule(loadPort(), t.in(setAnyAddress))
	notAnyAddress := rule(loadPort(), t.notIn(setAnyAddress))

	// A MAC that is not the port's own comes here: with AnyMAC it is good when no
	// endpoint has it.
	foreignMAC := func(mac expr.Any, cause Cause) [][]expr.Any {
		return [][]expr.Any{
			rule(anyMAC, mac, t.notIn(setEndpointMAC), verdict(expr.VerdictReturn, "")),
			drop(cause),
		}
	}
	add(chainForeignMAC, foreignMAC(load(link, offEtherSource, 6), CauseMAC)...)
	add(chainForeignARP, foreignMAC(load(network, offARPSenderMAC, 6), CauseARPMAC)...)
	add(chainForeignLL1, foreignMAC(load(transport, offNDOption1+2, 6), CauseND)...)
	add(chainForeignLL2, foreignMAC(load(transport, offNDOption2+2, 6), CauseND)...)

	add(chainTagged,
		rule(anyMAC, anyAddress, accept()),
		drop(CauseTagged),
	)
	add(chainIPv4,
		rule(l4proto(unix.IPPROTO_UDP), load(transport, 0, 2), equal(0, 67), notAnyAddress, drop(CauseDHCP)),
		rule(t.portAnd(network, offIPv4Source, 4), t.in(setIPv4), accept()),
		rule(load(network, offIPv4Source, 4), equal(0, 0, 0, 0), l4proto(unix.IPPROTO_UDP), load(transport, 0, 4), equal(0, 68, 0, 67), accept()),
		rule(t.portAnd(network, offIPv4Source, 4), t.in(setNet4), accept()),
		rule(anyAddress, load(network, offIPv4Source, 4), t.notIn(setEndpointIPv4), accept()),
		drop(CauseIPv4),
	)
	add(chainARP,
		// Ethernet, IPv4, 6 and 4 bytes: in another shape the fields stand elsewhere.
		rule(load(network, 0, 6), differs(0, 1, 8, 0, 6, 4), drop(CauseARP)),
		rule(t.portAnd(network, offARPSenderMAC, 6), t.notIn(setMACs), jump(chainForeignARP)),
		rule(t.portAnd(network, offARPSenderIP, 4), t.in(setIPv4), accept()),
		rule(load(network, offARPSenderIP, 4), equal(0, 0, 0, 0), accept()),
		rule(t.portAnd(network, offARPSenderIP, 4), t.in(setNet4), accept()),
		rule(anyAddress, load(network, offARPSenderIP, 4), t.notIn(setEndpointIPv4), accept()),
		drop(CauseARPAddress),
	)
	add(chainSource6,
		rule(t.portAnd(network, offIPv6Source, 16), t.in(setIPv6), accept()),
		rule(t.portAnd(network, offIPv6Source, 16), t.in(setNet6), accept()),
		rule(anyAddress, load(network, offIPv6Source, 16), t.notIn(setEndpointIPv6), accept()),
		drop(CauseIPv6),
	)
	add(chainRouter,
		rule(notAnyAddress, drop(CauseRouter)),
	)
	add(chainForeignND,
		rule(t.portAnd(transport, offNDTarget, 16), t.in(setNet6), verdict(expr.VerdictReturn, "")),
		rule(anyAddress, load(transport, offNDTarget, 16), t.notIn(setEndpointIPv6), verdict(expr.VerdictReturn, "")),
		drop(CauseND),
	)
	// NS and NA carry no option, or a link-layer address, or that and a nonce
	// (RFC 7527), each of 8 bytes. Where there is more, or a header before them, an
	// address could hide; in so little room options of other lengths hide none. The
	// packet's own length counts: what is behind it in the frame is padding.
	option := func(off uint32, foreign string) []expr.Any {
		return rule(load(transport, off, 1), t.in(setLinkAddress), t.portAnd(transport, off+2, 6), t.notIn(setMACs), jump(foreign))
	}
	endsAt := func(length byte) []expr.Any {
		return rule(load(network, offIPv6Length, 3), equal(0, length, unix.IPPROTO_ICMPV6), verdict(expr.VerdictReturn, ""))
	}
	add(chainOptions,
		endsAt(offNDOption1),
		option(offNDOption1, chainForeignLL1),
		endsAt(offNDOption2),
		option(offNDOption2, chainForeignLL2),
		endsAt(offNDEnd),
		rule(notAnyAddress, drop(CauseND)),
	)
	add(chainNS,
		// Asking is free; only detecting duplicates of somebody's address is not.
		rule(fromUnspecified(), t.portAnd(transport, offNDTarget, 16), t.notIn(setIPv6), jump(chainForeignND)),
		rule(verdict(expr.VerdictGoto, chainOptions)),
	)
	add(chainNA,
		rule(t.portAnd(transport, offNDTarget, 16), t.notIn(setIPv6), jump(chainForeignND)),
		rule(verdict(expr.VerdictGoto, chainOptions)),
	)
	add(chainICMPv6,
		rule(load(transport, 0, 1), t.mapped(setICMPv6)),
		rule(fromUnspecified(), load(transport, 0, 1), t.in(setUnspecified), accept()),
		rule(verdict(expr.VerdictGoto, chainSource6)),
	)
	add(chainIPv6,
		rule(l4proto(unix.IPPROTO_ICMPV6), verdict(expr.VerdictGoto, chainICMPv6)),
		rule(l4proto(unix.IPPROTO_UDP), load(transport, 0, 2), equal(547>>8, 547&0xff), notAnyAddress, drop(CauseDHCP)),
		rule(verdict(expr.VerdictGoto, chainSource6)),
	)
	add(chainManaged,
		rule(t.portAnd(link, offEtherSource, 6), t.notIn(setMACs), jump(chainForeignMAC)),
		rule(meta(expr.MetaKeyPROTOCOL), t.mapped(setProtocols)),
	)
	add(chainUnmanagedOpt,
		rule(load(transport, offNDOption1, 1), t.in(setLinkAddress), load(transport, offNDOption1+2, 6), t.in(setEndpointMAC), drop(CauseEndpoint)),
		rule(load(transport, offNDOption2, 1), t.in(setLinkAddress), load(transport, offNDOption2+2, 6), t.in(setEndpointMAC), drop(CauseEndpoint)),
	)
	add(chainUnmanaged, t.unmanagedRules()...)

	accepted := nftables.ChainPolicyAccept
	base := func(name string, hook *nftables.ChainHook, rules ...[]expr.Any) {
		out = append(out, chain{&nftables.Chain{
			Name: name, Table: t.table, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityRaw, Policy: &accepted,
		}, rules})
	}
	foreign := rule(meta(expr.MetaKeyBRIIIFNAME), differs(ifname(t.bridge)...), accept())
	if byMembers {
		foreign = rule(loadPort(), t.notIn(setMembers), accept())
	}
	base(chainBase, nftables.ChainHookPrerouting,
		rule(loadPort(), t.mapped(setPorts)),
		foreign,
		rule(verdict(expr.VerdictGoto, chainUnmanaged)),
	)
	if byMembers {
		// A port that shares a bridge with one that has rules is on our bridge.
		base(chainForward, nftables.ChainHookForward,
			rule(loadPort(), t.in(setKnown), accept()),
			rule(meta(expr.MetaKeyOIFNAME), t.in(setKnown), verdict(expr.VerdictGoto, chainUnmanaged)),
		)
	}
	return out
}

// unmanagedRules are for a port that nothing was said of: a VM's tap, a NIC.
func (t *Table) unmanagedRules() [][]expr.Any {
	if t.strict {
		return [][]expr.Any{drop(CauseStrict)}
	}
	forged := drop(CauseEndpoint)
	rules := [][]expr.Any{
		rule(load(link, offEtherSource, 6), t.in(setEndpointMAC), forged),
		rule(protocol(unix.ETH_P_IP), load(network, offIPv4Source, 4), t.in(setEndpointIPv4), forged),
		rule(protocol(unix.ETH_P_ARP), load(network, 0, 6), differs(0, 1, 8, 0, 6, 4), drop(CauseARP)),
		rule(protocol(unix.ETH_P_ARP), load(network, offARPSenderMAC, 6), t.in(setEndpointMAC), forged),
		rule(protocol(unix.ETH_P_ARP), load(network, offARPSenderIP, 4), t.in(setEndpointIPv4), forged),
		rule(protocol(unix.ETH_P_IPV6), load(network, offIPv6Source, 16), t.in(setEndpointIPv6), forged),
		rule(protocol(unix.ETH_P_IPV6), l4proto(unix.IPPROTO_ICMPV6), load(transport, 0, 1), equal(icmpv6NA),
			load(transport, offNDTarget, 16), t.in(setEndpointIPv6), forged),
	}
	for _, kind := range []byte{icmpv6NS, icmpv6NA} {
		rules = append(rules, rule(protocol(unix.ETH_P_IPV6), l4proto(unix.IPPROTO_ICMPV6), load(transport, 0, 1), equal(kind), jump(chainUnmanagedOpt)))
	}
	for _, tag := range tags {
		rules = append(rules, rule(protocol(tag), drop(CauseTagged)))
	}
	return rules
}

// dropRules count a frame and drop it. The first rule ends early when the set of
// counters is full; the second drops all the same.
func (t *Table) dropRules(cause Cause) [][]expr.Any {
	return [][]expr.Any{
		rule(loadPort(),
			&expr.Immediate{Register: 2, Data: cause.key()},
			&expr.Dynset{
				SrcRegKey: 1, SetName: setDrops, SetID: t.sets[setDrops].ID, Operation: unix.NFT_DYNSET_OP_UPDATE,
				Exprs: []expr.Any{&expr.Counter{}},
			}),
		rule(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: cause.String()}, verdict(expr.VerdictDrop, "")),
	}
}
