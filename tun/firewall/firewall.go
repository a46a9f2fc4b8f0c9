// Package firewall guards a bridge with nftables rules, so that what a container
// sends carries its own addresses and nobody else's, whoever the victim is.
//
// The rules stand in the bridge family's prerouting hook, before the bridge learns
// a source address. Their number is fixed; what differs between ports are elements
// of hash sets keyed by the port's name, so that one port and two hundred cost a
// frame the same. Elements change over netlink, each change one transaction.
//
//	frame ──▶ prerouting ──▶ ports{name}? ── trunk (the TAP) ─▶ accept
//	                             │      └──── managed ────────▶ mac ─▶ by protocol:
//	                             ▼                                ipv4   source address; no DHCP server
//	          another bridge's ─▶ accept                          arp    shape, hardware and protocol sender
//	                             ▼                                ipv6   source; ND target and options; no RA,
//	          unmanaged: may be anything but an endpoint                 redirect, DHCP server
//	          (or refused wholly: strict)                         tagged a second tag cannot be looked behind
//	                                                              other  passes: its MAC was checked
//	                             ▼
//	          drop_CAUSE: counted by port and cause, by cause, dropped
//
// What is allowed from a managed port:
//
//   - its MAC, as Ethernet source, in ARP and in ND options;
//   - its addresses, and the IPv6 link-local address made of its MAC (EUI-64). Other
//     link-local addresses would let it take the one that a neighbour chose for
//     itself, which nobody can know; tun/attach therefore sets the interface to
//     EUI-64, and who wants others says so with AllowAddresses fe80::/64;
//   - 0.0.0.0 in ARP probes and DHCP requests; :: in duplicate address detection of
//     its own addresses, router solicitations and multicast reports;
//   - what AllowMACs, AllowAddresses, AnyMAC and AnyAddress add. "Any" never reaches
//     an address that is another endpoint's: that has to be named. AnyAddress also
//     allows to be a router or a DHCP server; both together, frames with two tags.
//
// The kernel takes one VLAN tag off before the hook (skb_vlan_untag in
// net/core/skbuff.c), so frames with one 802.1Q or 802.1ad tag pass the same rules
// as those with none. What still begins with a tag then cannot be looked into and
// is dropped. IP behind other headers (PPPoE, MPLS, 802.3 SNAP) is no IP to its
// neighbours and is not looked at.
//
// Which bridge a port belongs to is asked of the kernel (meta ibrname). Where it
// cannot say (built without CONFIG_NFT_BRIDGE_META), SetMembers tells the ports
// that have no rules, and until it does, a second chain in the forward hook keeps
// what they forge from every port that has some.
//
// Beside it stands a second table, of the inet family: the underlay guard, which
// keeps the overlay out of its own tunnel (guard.go). Where the host is a gateway a third,
// of the ip family, masquerades (gateway.go). In Docker's table there may be one
// rule, by which its firewall lets the bridge's frames pass (docker.go).
//
// All calls speak to the network namespace of the calling thread. Read firewall.go,
// then rules.go (what is checked), sets.go (the keys), port.go (who may what).
package firewall

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table is the rules of one bridge. Its methods may be called from several
// goroutines.
type Table struct {
	bridge string
	table  *nftables.Table // bridge family
	sets   map[string]*nftables.Set

	mu      sync.Mutex // guards what follows
	strict  bool
	trunk   string // the port that carries other hosts' frames, "" when none
	ports   map[string]PortRule
	remote  owned        // what SetRemote said
	host    owned        // what SetHost said
	members []string     // what SetMembers said
	gateway netip.Prefix // what SetGateway said
	spared  uint16       // the port that it said
	guarded uint16       // what SetUnderlayGuard said; 0: nothing
	// byMembers is set by Ensure where the kernel cannot tell a port's bridge.
	byMembers bool
	settled   bool // SetRemote was called: endpoint elements that nobody claims are stale
	// have is what the kernel's sets hold, by set and key; nil until Ensure.
	have map[string]map[string]bool
}

// owned are addresses that belong to endpoints and so may not be used by a port
// that is not theirs.
type owned struct {
	macs      [][6]byte
	addresses []addr
}

// deadline bounds one exchange with the kernel.
const deadline = 5 * time.Second

// New prepares the rules of a bridge. Nothing is asked of the kernel before Ensure.
func New(bridge string) (*Table, error) {
	if bridge == "" || len(bridge) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("firewall: bridge %q: not an interface name", bridge)
	}
	t := &Table{
		bridge: bridge,
		table:  &nftables.Table{Name: TableName(bridge), Family: nftables.TableFamilyBridge},
		ports:  make(map[string]PortRule),
	}
	t.sets = newSets(t.table)
	return t, nil
}

// TableName is the name of a bridge's tables, for people and for
// `nft list table bridge NAME`.
func TableName(bridge string) string { return "ripstop-" + bridge }

// Bridge is the bridge's name.
func (t *Table) Bridge() string { return t.bridge }

// Ensure puts the rules in place, or back when somebody flushed them. Rules of an
// earlier run are replaced in one transaction while their elements stay, so the
// ports they guard are never open and never cut off; from then on the elements
// are this Table's. It may be called at any time.
func (t *Table) Ensure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ensureLocked()
}

// Present reports whether the kernel has the rules: false when somebody flushed them, or
// those of the guard or the gateway, or of a single chain. An error says nothing about them.
func (t *Table) Present() (bool, error) {
	t.mu.Lock()
	wanted := t.wantedLocked()
	t.mu.Unlock()
	c, err := dial()
	if err != nil {
		return false, fmt.Errorf("firewall: %s: look for the rules: %w", t.bridge, err)
	}
	for _, want := range wanted {
		rules, err := c.GetRules(want.chain.Table, want.chain) // a dump: none when there is no such chain
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, fmt.Errorf("firewall: %s: look for the rules: %w", t.bridge, err)
		}
		if len(rules) < len(want.rules) {
			return false, nil
		}
	}
	return true, nil
}

// wantedLocked are the chains that have to be there.
func (t *Table) wantedLocked() []chain {
	chains := t.chains(t.byMembers)
	if t.guarded != 0 {
		chains = append(chains, t.guardChain())
	}
	if t.gateway.IsValid() {
		chains = append(chains, t.gatewayChains(t.gatewayTable())...)
	}
	return chains
}

func (t *Table) ensureLocked() error {
	if err := t.installLocked(); err != nil {
		return err
	}
	have, err := t.readLocked()
	if err != nil {
		return fmt.Errorf("firewall: %s: %w", t.bridge, err)
	}
	t.have = have
	changes := append(t.endpointChangesLocked(nil), t.memberChangesLocked()...)
	if t.trunk != "" {
		changes = append(changes, t.trunkChangesLocked(t.trunk)...)
	}
	for _, rule := range t.ports {
		changes = append(changes, t.portChangesLocked(rule.Port, rule.elements())...)
	}
	if err := t.applyLocked(changes); err != nil {
		return err
	}
	if t.guarded != 0 {
		err = t.writeGuardLocked()
	}
	if t.gateway.IsValid() {
		err = errors.Join(err, t.writeGatewayLocked())
	}
	return err
}

// installLocked writes the rules, in the first form that the kernel takes: the
// bridge told by its name or by its members, with the sets as they are or, where
// those are of an older shape, made anew.
func (t *Table) installLocked() error {
	var first error
	for _, byMembers := range []bool{false, true} {
		for _, anew := range []bool{false, true} {
			err := t.writeLocked(byMembers, anew)
			if err == nil {
				t.byMembers = byMembers
				return nil
			}
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("firewall: %s: install rules: %w (CAP_NET_ADMIN is needed)", t.bridge, err)
			}
			first = cmp.Or(first, err)
		}
	}
	return fmt.Errorf("firewall: %s: install rules: %w (the kernel needs nf_tables with the bridge family)", t.bridge, first)
}

// writeLocked writes table, sets, counters, chains and rules as one transaction,
// which either happens wholly or not at all.
func (t *Table) writeLocked(byMembers, anew bool) error {
	c, err := dial()
	if err != nil {
		return err
	}
	if anew {
		c.AddTable(t.table) // so that there is something to delete
		c.DelTable(t.table)
	}
	c.AddTable(t.table)
	for cause := range causes {
		c.AddObj(&nftables.CounterObj{Table: t.table, Name: cause.String()})
	}
	chains := t.chains(byMembers)
	for _, ch := range chains {
		c.AddChain(ch.chain)
	}
	for _, name := range setOrder {
		if err := c.AddSet(t.sets[name], t.fixed(name)); err != nil {
			return err
		}
	}
	for _, ch := range chains {
		c.FlushChain(ch.chain)
		for _, exprs := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t.table, Chain: ch.chain, Exprs: exprs})
		}
	}
	return c.Flush()
}

// readLocked returns the elements that the kernel holds.
func (t *Table) readLocked() (map[string]map[string]bool, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	have := make(map[string]map[string]bool)
	for _, name := range elementSets {
		elements, err := c.GetSetElements(t.sets[name])
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", name, err)
		}
		have[name] = make(map[string]bool, len(elements))
		for _, e := range elements {
			have[name][string(e.Key)+string(e.KeyEnd)] = true
		}
	}
	return have, nil
}

// SetStrict decides whether ports without rules are refused wholly (true) or only
// kept from using what belongs to endpoints (false, the default).
func (t *Table) SetStrict(strict bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.strict == strict {
		return nil
	}
	t.strict = strict
	if t.have == nil {
		return nil // Ensure has yet to come
	}
	return t.ensureLocked()
}

// Delete takes the rules, the counters, the underlay guard, the gateway and what PassDocker
// added away. It is no error when there are none.
func (t *Table) Delete() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.have = nil
	t.ports = make(map[string]PortRule)
	t.remote, t.host, t.trunk, t.members, t.settled = owned{}, owned{}, "", nil, false
	c, err := dial()
	if err != nil {
		return fmt.Errorf("firewall: %s: delete: %w", t.bridge, err)
	}
	t.gateway, t.guarded = netip.Prefix{}, 0
	for _, table := range []*nftables.Table{t.table, t.guardTable(), t.gatewayTable()} {
		c.AddTable(table)
		c.DelTable(table)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("firewall: %s: delete: %w", t.bridge, err)
	}
	if err := stopPassingDocker(t.bridge); err != nil {
		return fmt.Errorf("firewall: %s: delete the rule in %s: %w", t.bridge, chainDocker, err)
	}
	return nil
}

// dial opens a connection that speaks to the calling thread's namespace and does
// not wait for ever. One is opened for each exchange: after a refused transaction
// an old one may still hold answers.
func dial() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Best effort: without it only very large transactions are refused.
		c.SetWriteBuffer(4 << 20)
		c.SetReadBuffer(4 << 20)
		return c.SetDeadline(time.Now().Add(deadline))
	}))
}

// change is one element that comes or goes.
type change struct {
	set     string
	element nftables.SetElement
	remove  bool
}

func (c change) key() string { return string(c.element.Key) + string(c.element.KeyEnd) }

// Elements a message, and messages a transaction: an attribute holds less than
// 64 KiB, a socket's buffer a few hundred.
const (
	elementsPerMessage     = 400
	elementsPerTransaction = 2000
)

// applyLocked sends changes, removals before additions, in as few transactions as
// fit: one for anything of a port's size.
func (t *Table) applyLocked(changes []change) error {
	ordered := make([]change, 0, len(changes))
	for _, remove := range []bool{true, false} {
		for _, ch := range changes {
			if ch.remove == remove {
				ordered = append(ordered, ch)
			}
		}
	}
	for len(ordered) > 0 {
		part := ordered[:min(len(ordered), elementsPerTransaction)]
		ordered = ordered[len(part):]
		if err := t.sendLocked(part); err != nil {
			return fmt.Errorf("firewall: %s: change %d elements: %w", t.bridge, len(part), err)
		}
		for _, ch := range part {
			if ch.remove {
				delete(t.have[ch.set], ch.key())
			} else {
				t.have[ch.set][ch.key()] = true
			}
		}
	}
	return nil
}

// sendLocked is one transaction.
func (t *Table) sendLocked(changes []change) error {
	c, err := dial()
	if err != nil {
		return err
	}
	for len(changes) > 0 {
		// A run of the same kind for the same set makes one message.
		n := 1
		for n < len(changes) && n < elementsPerMessage && changes[n].set == changes[0].set && changes[n].remove == changes[0].remove {
			n++
		}
		elements := make([]nftables.SetElement, n)
		for i := range elements {
			elements[i] = changes[i].element
		}
		set := t.sets[changes[0].set]
		if changes[0].remove {
			err = c.SetDeleteElements(set, elements)
		} else {
			err = c.SetAddElements(set, elements)
		}
		if err != nil {
			return err
		}
		changes = changes[n:]
	}
	return c.Flush()
}

// changeLocked applies what compute returns. When the kernel no longer knows the
// table or an element (flushed by somebody), everything is put back from memory.
func (t *Table) changeLocked(compute func() []change) error {
	if t.have == nil {
		return fmt.Errorf("firewall: %s: no rules yet: Ensure comes first", t.bridge)
	}
	err := t.applyLocked(compute())
	if errors.Is(err, unix.ENOENT) {
		return t.ensureLocked()
	}
	return err
}

// portOf is the port that an element keyed by port belongs to.
func portOf(key string) string {
	name, _, _ := bytes.Cut([]byte(key[:unix.IFNAMSIZ]), []byte{0})
	return string(name)
}
