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
//	ip forward:      from BRIDGE to elsewhere, destination in RANGE ─▶ dropped
//	                 from elsewhere to BRIDGE, destination in RANGE: answers ─▶ accepted
//	                                 what somebody's rule published (DNAT) ─▶ accepted
//	                                 anything else ─▶ dropped
//
// What only passes the bridge comes from it and goes to it, and so is not touched where
// br_netfilter shows it to these hooks. The table is one of its own, because a nat chain
// belongs to a family of IP. Nothing that it accepts is spared other tables' rules.
const (
	chainLeaving = "leaving"
	chainThrough = "through"
)

// dnatted is the bit of a connection's state that says that its destination was rewritten
// (IPS_DST_NAT in include/uapi/linux/netfilter/nf_conntrack_common.h).
const dnatted = 1 << 5

func (t *Table) gatewayTable() *nftables.Table {
	return &nftables.Table{Name: t.table.Name, Family: nftables.TableFamilyIPv4}
}

// SetGateway masquerades what leaves the bridge from addresses of an IPv4 network to
// addresses outside of it, and closes the network to what nobody in it asked for. The
// zero prefix ends both. Ensure puts it back when somebody flushed it.
func (t *Table) SetGateway(network netip.Prefix) error {
	if network.IsValid() && !network.Addr().Is4() {
		return fmt.Errorf("firewall: %s: gateway of %v: not a network of IPv4", t.bridge, network)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.gateway
	t.gateway = network.Masked()
	if err := t.writeGatewayLocked(); err != nil {
		t.gateway = old
		return err
	}
	return nil
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
	return []chain{
		base(chainLeaving, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
			rule(out, source, equal(inside...), destination, differs(inside...), &expr.Counter{}, &expr.Masq{}),
		),
		base(chainThrough, nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
			rule(out, destination, equal(inside...), &expr.Counter{}, verdict(expr.VerdictDrop, "")),
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
