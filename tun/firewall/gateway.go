package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A gateway lets the bridge's containers reach what is behind their host, over IPv4, and
// nobody there reach them:
//
//	ip postrouting:  from BRIDGE to elsewhere, source in RANGE, destination not ─▶ masqueraded
//	           then: masqueraded to the daemon's port ─▶ dropped
//	ip forward:      from BRIDGE to elsewhere, destination in RANGE ─▶ dropped
//	                 source in RANGE, no connection that is tracked, so not masqueraded ─▶ dropped
//	                 from elsewhere to BRIDGE, destination in RANGE: answers ─▶ accepted
//	                                 what somebody's rule published (DNAT) ─▶ accepted
//	                                 anything else ─▶ dropped
//
// What only passes the bridge comes from it and goes to it, and so is not touched where
// br_netfilter shows it to these hooks. The table is one of its own, because a nat chain
// belongs to a family of IP. Nothing that it accepts is spared other tables' rules.
//
// Masquerading keeps a port where it can. A container that speaks from the daemon's port to
// another host's would so be whom connection tracking gives what that host sends to this
// one, and the daemon's own datagrams would leave by another port. It therefore gets another
// port, by chance; should that be the daemon's after all, what is dropped is never tracked.
const (
	chainLeaving = "leaving"
	chainThrough = "through"
	chainSpared  = "spared"
)

// Bits of a connection's state that say that its source or destination was rewritten
// (IPS_SRC_NAT, IPS_DST_NAT in include/uapi/linux/netfilter/nf_conntrack_common.h).
const (
	snatted = 1 << 4
	dnatted = 1 << 5
)

func (t *Table) gatewayTable() *nftables.Table {
	return &nftables.Table{Name: t.table.Name, Family: nftables.TableFamilyIPv4}
}

// SetGateway masquerades what leaves the bridge from addresses of an IPv4 network to
// addresses outside of it, and closes the network to what nobody in it asked for. The
// zero prefix ends both. Nothing that leaves takes the daemon's port. Ensure puts it back
// when somebody flushed it, and tries again what failed.
func (t *Table) SetGateway(network netip.Prefix, port uint16) error {
	if network.IsValid() && !network.Addr().Is4() {
		return fmt.Errorf("firewall: %s: gateway of %v: not a network of IPv4", t.bridge, network)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gateway, t.spared = network.Masked(), port
	return t.writeGatewayLocked()
}

// writeGatewayLocked makes the table what it has to be, as one transaction.
func (t *Table) writeGatewayLocked() error {
	c, err := dial()
	if err != nil {
		return fmt.Errorf("firewall: %s: gateway: %w", t.bridge, err)
	}
	table := t.gatewayTable()
	c.AddTable(table)
	if !t.gateway.IsValid() {
		c.DelTable(table)
	} else {
		for _, ch := range t.gatewayChains(table) {
			c.AddChain(ch.chain)
			c.FlushChain(ch.chain)
			for _, exprs := range ch.rules {
				c.AddRule(&nftables.Rule{Table: table, Chain: ch.chain, Exprs: exprs})
			}
		}
	}
	err = c.Flush()
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("firewall: %s: gateway: %w (CAP_NET_ADMIN is needed)", t.bridge, err)
	}
	if err != nil && t.gateway.IsValid() {
		return fmt.Errorf("firewall: %s: gateway: %w (the kernel needs nf_tables with nat and connection tracking)", t.bridge, err)
	}
	if err != nil {
		return fmt.Errorf("firewall: %s: end the gateway: %w", t.bridge, err)
	}
	return nil
}

// gatewayChains are the chains of a gateway with their rules.
func (t *Table) gatewayChains(table *nftables.Table) []chain {
	accepted := nftables.ChainPolicyAccept
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules ...[]expr.Any) chain {
		return chain{&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority, Policy: &accepted}, rules}
	}
	bridge := ifname(t.bridge)
	out := rule(meta(expr.MetaKeyIIFNAME), equal(bridge...), meta(expr.MetaKeyOIFNAME), differs(bridge...))
	source, destination := t.gatewayPart(offIPv4Source), t.gatewayPart(offIPv4Destination)
	inside := t.gateway.Addr().AsSlice()
	in := rule(meta(expr.MetaKeyOIFNAME), equal(bridge...), meta(expr.MetaKeyIIFNAME), differs(bridge...), destination, equal(inside...))
	fromDaemons := rule(load(transport, 0, 2), equal(binary.BigEndian.AppendUint16(nil, t.spared)...))
	leaves := rule(out, source, equal(inside...), destination, differs(inside...))
	return []chain{
		base(chainLeaving, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
			rule(leaves, l4proto(unix.IPPROTO_UDP), fromDaemons, &expr.Counter{}, &expr.Masq{FullyRandom: true}),
			rule(leaves, l4proto(unix.IPPROTO_TCP), fromDaemons, &expr.Counter{}, &expr.Masq{FullyRandom: true}),
			rule(leaves, &expr.Counter{}, &expr.Masq{}),
		),
		base(chainSpared, nftables.ChainTypeFilter, nftables.ChainHookPostrouting, nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource+1),
			rule(out, tracked(expr.CtKeySTATUS, snatted), l4proto(unix.IPPROTO_UDP), fromDaemons, &expr.Counter{}, verdict(expr.VerdictDrop, "")),
			rule(out, tracked(expr.CtKeySTATUS, snatted), l4proto(unix.IPPROTO_TCP), fromDaemons, &expr.Counter{}, verdict(expr.VerdictDrop, "")),
		),
		base(chainThrough, nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
			rule(out, destination, equal(inside...), &expr.Counter{}, verdict(expr.VerdictDrop, "")),
			rule(out, source, equal(inside...), tracked(expr.CtKeySTATE, expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), &expr.Counter{}, verdict(expr.VerdictDrop, "")),
			rule(in, tracked(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept()),
			rule(in, tracked(expr.CtKeySTATUS, dnatted), accept()),
			rule(in, &expr.Counter{}, verdict(expr.VerdictDrop, "")),
		),
	}
}

// gatewayPart loads that part of an address in the IPv4 header which the network fixes.
func (t *Table) gatewayPart(off uint32) []expr.Any {
	return rule(load(network, off, 4),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(t.gateway.Bits(), 32), Xor: make([]byte, 4)})
}

// tracked asks whether one of the bits is set in what is known of the connection.
func tracked(key expr.CtKey, bits uint32) []expr.Any {
	return rule(
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		differs(0, 0, 0, 0),
	)
}
