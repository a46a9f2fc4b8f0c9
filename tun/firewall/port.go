package firewall

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// PortRule says what a port may send as.
type PortRule struct {
	Port           string         // the host's end of the veth pair
	MAC            [6]byte        // the container's
	Addresses      []netip.Addr   // the container's; IPv4 and IPv6
	AllowMACs      [][6]byte      // further source MACs
	AnyMAC         bool           // every MAC but those of other endpoints
	AllowAddresses []netip.Prefix // further addresses
	AnyAddress     bool           // every address but those of other endpoints; router and DHCP server too
}

func (r PortRule) check() error {
	if r.Port == "" || len(r.Port) >= unix.IFNAMSIZ {
		return fmt.Errorf("firewall: port %q: not an interface name", r.Port)
	}
	for _, mac := range append([][6]byte{r.MAC}, r.AllowMACs...) {
		if mac[0]&1 != 0 || mac == [6]byte{} {
			return fmt.Errorf("firewall: port %s: % x: not a unicast MAC", r.Port, mac)
		}
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("firewall: port %s: address %s: not a unicast address", r.Port, a)
		}
	}
	for _, p := range r.AllowAddresses {
		if !p.IsValid() {
			return fmt.Errorf("firewall: port %s: prefix %s: not valid", r.Port, p)
		}
	}
	return nil
}

// owns are the addresses that belong to the port alone.
func (r PortRule) owns() owned {
	o := owned{macs: [][6]byte{r.MAC}, addresses: []addr{linkLocal(r.MAC)}}
	for _, a := range r.Addresses {
		o.addresses = append(o.addresses, plain(a))
	}
	return o
}

// elements are the port's elements, by set.
func (r PortRule) elements() map[string][]nftables.SetElement {
	name := ifname(r.Port)
	with := func(tail []byte) nftables.SetElement {
		return nftables.SetElement{Key: append(slices.Clone(name), tail...)}
	}
	e := map[string][]nftables.SetElement{
		setPorts: {{Key: name, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainManaged}}},
		setKnown: {{Key: name}},
	}
	for _, mac := range append([][6]byte{r.MAC}, r.AllowMACs...) {
		e[setMACs] = append(e[setMACs], with(macKey(mac)))
	}
	for _, a := range r.owns().addresses {
		set := setIPv6
		if a.Is4() {
			set = setIPv4
		}
		e[set] = append(e[set], with(a.AsSlice()))
	}
	for _, p := range disjoint(r.AllowAddresses) {
		set := setNet6
		if p.Addr().Is4() {
			set = setNet4
		}
		el := with(p.Addr().AsSlice())
		el.KeyEnd = append(slices.Clone(name), last(p).AsSlice()...)
		e[set] = append(e[set], el)
	}
	if r.AnyMAC {
		e[setAnyMAC] = []nftables.SetElement{{Key: name}}
	}
	if r.AnyAddress {
		e[setAnyAddress] = []nftables.SetElement{{Key: name}}
	}
	return e
}

// disjoint returns the prefixes without those inside another, which the kernel's
// interval sets refuse.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	sorted := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		sorted[i] = p.Masked()
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	for _, p := range sorted {
		if !slices.ContainsFunc(out, func(q netip.Prefix) bool { return q.Overlaps(p) }) {
			out = append(out, p)
		}
	}
	return out
}

// SetPort sets what a port may send as, replacing what was said of it before, in one
// transaction. The port need not exist yet: rules come before the port joins the
// bridge.
func (t *Table) SetPort(rule PortRule) error {
	if err := rule.check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old, had := t.ports[rule.Port]
	before := t.claimedLocked()
	t.ports[rule.Port] = rule
	err := t.changeLocked(func() []change {
		return append(t.portChangesLocked(rule.Port, rule.elements()), t.endpointChangesLocked(before)...)
	})
	if err != nil {
		if had {
			t.ports[rule.Port] = old
		} else {
			delete(t.ports, rule.Port)
		}
	}
	return err
}

// DeletePort forgets a port: from now on it is an unmanaged one. So it is to be
// called when the port has left the bridge. It is no error when there is no such
// port.
func (t *Table) DeletePort(port string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.claimedLocked()
	delete(t.ports, port)
	if err := t.changeLocked(func() []change {
		return append(t.portChangesLocked(port, nil), t.endpointChangesLocked(before)...)
	}); err != nil {
		return err
	}
	return t.forgetDropsLocked(port)
}

// Ports lists the ports that have rules, those of an earlier run too.
func (t *Table) Ports() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := make(map[string]bool)
	for key := range t.have[setPorts] {
		if name := portOf(key); name != t.trunk {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// SetTrunk names the port that carries other hosts' frames, the TAP: it is not
// checked. "" takes that away.
func (t *Table) SetTrunk(port string) error {
	if len(port) >= unix.IFNAMSIZ {
		return fmt.Errorf("firewall: port %q: not an interface name", port)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.trunk
	t.trunk = port
	return t.changeLocked(func() []change {
		var changes []change
		if old != "" && old != port {
			changes = t.portChangesLocked(old, nil)
		}
		if port != "" {
			changes = append(changes, t.trunkChangesLocked(port)...)
		}
		return changes
	})
}

// trunkChangesLocked makes a port the trunk. An element of that name may stand for
// something else since an earlier run, so it is made anew.
func (t *Table) trunkChangesLocked(port string) []change {
	changes := t.portChangesLocked(port, nil)
	return append(changes,
		change{set: setKnown, element: nftables.SetElement{Key: ifname(port)}},
		change{set: setPorts, element: nftables.SetElement{
			Key: ifname(port), VerdictData: &expr.Verdict{Kind: expr.VerdictAccept},
		}})
}

// SetMembers says which ports the bridge has; it is to be called whenever one comes
// or goes. Where the kernel can tell a port's bridge by itself it changes nothing.
func (t *Table) SetMembers(ports []string) error {
	for _, port := range ports {
		if port == "" || len(port) >= unix.IFNAMSIZ {
			return fmt.Errorf("firewall: port %q: not an interface name", port)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.members = append([]string{}, ports...)
	return t.changeLocked(t.memberChangesLocked)
}

func (t *Table) memberChangesLocked() []change {
	var changes []change
	want := make(map[string]bool)
	for _, port := range t.members {
		key := string(ifname(port))
		if !want[key] && !t.have[setMembers][key] {
			changes = append(changes, change{set: setMembers, element: nftables.SetElement{Key: []byte(key)}})
		}
		want[key] = true
	}
	for key := range t.have[setMembers] {
		// Those of an earlier run stay until SetMembers has said what there is.
		if !want[key] && t.members != nil {
			changes = append(changes, change{set: setMembers, element: nftables.SetElement{Key: []byte(key)}, remove: true})
		}
	}
	return changes
}

// SetRemote says what belongs to endpoints of other hosts, all of it; only what
// differs from before is sent. Unmanaged ports may not use it, nor may ports with
// AnyMAC or AnyAddress. The link-local addresses made of the MACs are added.
func (t *Table) SetRemote(macs [][6]byte, addresses []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.claimedLocked()
	t.remote = newOwned(macs, addresses)
	t.settled = true
	return t.changeLocked(func() []change { return t.endpointChangesLocked(before) })
}

// SetHost says what belongs to the host itself, exposed on the bridge: like
// SetRemote, for an endpoint that has no port.
func (t *Table) SetHost(macs [][6]byte, addresses []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.claimedLocked()
	t.host = newOwned(macs, addresses)
	return t.changeLocked(func() []change { return t.endpointChangesLocked(before) })
}

func newOwned(macs [][6]byte, addresses []netip.Addr) owned {
	o := owned{macs: slices.Clone(macs)}
	for _, mac := range macs {
		o.addresses = append(o.addresses, linkLocal(mac))
	}
	for _, a := range addresses {
		o.addresses = append(o.addresses, plain(a))
	}
	return o
}

// claimedLocked is everything that belongs to an endpoint, by endpoint set.
func (t *Table) claimedLocked() map[string]map[string]bool {
	claimed := map[string]map[string]bool{setEndpointMAC: {}, setEndpointIPv4: {}, setEndpointIPv6: {}}
	add := func(o owned) {
		for _, mac := range o.macs {
			claimed[setEndpointMAC][string(mac[:])] = true
		}
		for _, a := range o.addresses {
			if a.Is4() {
				claimed[setEndpointIPv4][string(a.AsSlice())] = true
			} else {
				claimed[setEndpointIPv6][string(a.AsSlice())] = true
			}
		}
	}
	add(t.remote)
	add(t.host)
	for _, rule := range t.ports {
		add(rule.owns())
	}
	return claimed
}

// endpointChangesLocked brings the endpoint sets to what is claimed now. before is
// what was claimed until now: elements of an earlier run, which this Table never
// claimed, stay until SetRemote has said what there is.
func (t *Table) endpointChangesLocked(before map[string]map[string]bool) []change {
	var changes []change
	for set, want := range t.claimedLocked() {
		for key := range want {
			if !t.have[set][key] {
				changes = append(changes, change{set: set, element: nftables.SetElement{Key: []byte(key)}})
			}
		}
		for key := range t.have[set] {
			if !want[key] && (t.settled || before[set][key]) {
				changes = append(changes, change{set: set, element: nftables.SetElement{Key: []byte(key)}, remove: true})
			}
		}
	}
	// Alike elements side by side make few messages.
	slices.SortStableFunc(changes, func(a, b change) int { return bytes.Compare([]byte(a.set), []byte(b.set)) })
	return changes
}

// portChangesLocked brings a port's elements to what is wanted; nil removes them.
func (t *Table) portChangesLocked(port string, want map[string][]nftables.SetElement) []change {
	var changes []change
	for _, set := range portSets {
		wanted := make(map[string]bool)
		for _, e := range want[set] {
			ch := change{set: set, element: e}
			if !t.have[set][ch.key()] && !wanted[ch.key()] {
				changes = append(changes, ch)
			}
			wanted[ch.key()] = true
		}
		for key := range t.have[set] {
			if portOf(key) == port && !wanted[key] {
				changes = append(changes, change{set: set, element: t.element(set, key), remove: true})
			}
		}
	}
	return changes
}

// element makes an element of what have holds for it.
func (t *Table) element(set, key string) nftables.SetElement {
	e := nftables.SetElement{Key: []byte(key)}
	if t.sets[set].Interval {
		e.Key, e.KeyEnd = []byte(key[:len(key)/2]), []byte(key[len(key)/2:])
	}
	return e
}
