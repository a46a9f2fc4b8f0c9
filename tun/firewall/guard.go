package firewall

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The underlay guard keeps the overlay out of its own tunnel: what reaches this
// host itself through the bridge and is meant for the daemon's port is dropped.
//
//	inet input:  iifname BRIDGE, tcp or udp dport PORT ─▶ counted, dropped
//
// It stands in the input hook, behind the routing decision, so the same port
// number of containers, here or elsewhere, and of hosts that this one forwards to
// is not touched. It has a table of its own because routed mode needs it too,
// without a bridge.

const (
	chainInput   = "input"
	counterGuard = "underlay_guard"
)

func (t *Table) guardTable() *nftables.Table {
	return &nftables.Table{Name: t.table.Name, Family: nftables.TableFamilyINet}
}

// SetUnderlayGuard drops what arrives through the bridge (or device) for UDP or TCP
// port on this host, replacing the port guarded before. 0 ends it. Ensure puts it back
// when somebody flushed it.
//
// It must not be set on a bridge that carries the underlay itself (a NIC put on
// it): there everything arrives through the bridge.
func (t *Table) SetUnderlayGuard(port uint16) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.guarded
	t.guarded = port
	if err := t.writeGuardLocked(); err != nil {
		t.guarded = old
		return err
	}
	return nil
}

// writeGuardLocked makes the guard what it has to be, as one transaction.
func (t *Table) writeGuardLocked() error {
	c, err := dial()
	if err != nil {
		return fmt.Errorf("firewall: %s: underlay guard: %w", t.bridge, err)
	}
	guard := t.guardChain()
	c.AddTable(guard.chain.Table)
	if t.guarded == 0 {
		c.DelTable(guard.chain.Table)
	} else {
		c.AddObj(&nftables.CounterObj{Table: guard.chain.Table, Name: counterGuard})
		c.AddChain(guard.chain)
		c.FlushChain(guard.chain)
		for _, exprs := range guard.rules {
			c.AddRule(&nftables.Rule{Table: guard.chain.Table, Chain: guard.chain, Exprs: exprs})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("firewall: %s: underlay guard: %w", t.bridge, err)
	}
	return nil
}

// guardChain is the guard's chain with its rules.
func (t *Table) guardChain() chain {
	accepted := nftables.ChainPolicyAccept
	guard := chain{chain: &nftables.Chain{
		Name: chainInput, Table: t.guardTable(),
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityRaw, Policy: &accepted,
	}}
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		guard.rules = append(guard.rules, rule(
			meta(expr.MetaKeyIIFNAME), equal(ifname(t.bridge)...),
			l4proto(proto),
			load(transport, 2, 2), equal(binary.BigEndian.AppendUint16(nil, t.guarded)...),
			&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counterGuard},
			verdict(expr.VerdictDrop, ""),
		))
	}
	return guard
}

// Guarded returns how many packets the underlay guard dropped, 0 without a guard.
func (t *Table) Guarded() (uint64, error) {
	c, err := dial()
	if err != nil {
		return 0, fmt.Errorf("firewall: %s: underlay guard: %w", t.bridge, err)
	}
	objects, err := c.GetObjects(t.guardTable()) // a dump: none when there is no table
	if err != nil {
		return 0, fmt.Errorf("firewall: %s: underlay guard: read counter: %w", t.bridge, err)
	}
	for _, o := range objects {
		if counter, ok := o.(*nftables.CounterObj); ok && counter.Name == counterGuard {
			return counter.Packets, nil
		}
	}
	return 0, nil
}
