package mesh

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
	"ripstop/tun/attach"
)

// lease is an address that the table notes for an attachment.
type lease struct {
	ID   string     `json:"id"`
	Addr netip.Addr `json:"addr"` // invalid while it is asked for
}

// Names in the table are an operator's own words, or have this in them: those are
// attachments', which nobody else may ask for or give back.
const leaseMark = "@"

// isOurs reports whether an address under that name belongs to an attachment.
func isOurs(id string) bool { return strings.Contains(id, leaseMark) }

// hostLease is what the host's own addresses are noted under.
const hostLease = "host" + leaseMark

// How long an address may be waited for. The longest must be over before the local
// API ends the request by itself.
const (
	defaultWait = 10 * time.Second
	longestWait = 25 * time.Second
)

// wish is what a caller wants of the table for an attachment.
type wish struct {
	subnets []netip.Prefix // one address of each
	holder  string         // who has the given addresses, and keeps them; empty: the attachment itself
	sticky  bool
	noIPv6  bool
	wait    time.Duration // 0: defaultWait
	move    bool
}

// leaseID is what a's addresses are noted under: first what people know it by.
func (a *attachment) leaseID() string {
	if a.Exposed {
		return hostLease
	}
	label := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, a.label())
	label = strings.ToValidUTF8(label[:min(len(label), ipam.MaxID/2)], "") // the cut may be inside a letter
	return label + leaseMark + a.Plan.HostInterface
}

// wants are the table's requests for a: a claim for each given address that lies in
// the range, and one address for each subnet, or without any address one of the
// default subnet.
func (n *node) wants(a *attachment, w wish) ([]ipam.Request, error) {
	if w.wait < 0 || w.wait > longestWait {
		return nil, api.Errorf(api.CodeInvalid, "--deadline %v: at most %v", w.wait, longestWait)
	}
	if err := w.checkHolder(a); err != nil {
		return nil, err
	}
	var wanted []ipam.Request
	id := cmp.Or(w.holder, a.leaseID())
	for _, p := range a.Plan.Addresses {
		v4, inside, err := n.inTable(p.Addr())
		if err != nil {
			return nil, err
		}
		if !inside || slices.ContainsFunc(wanted, func(q ipam.Request) bool { return q.Addr == v4 }) {
			continue
		}
		q := ipam.Request{ID: id, Addr: v4, Deadline: w.wait}
		if p.Addr() == v4 {
			q.Subnet = p.Masked()
		}
		wanted = append(wanted, q)
	}
	if w.sticky {
		if a.Name == "" {
			return nil, api.Errorf(api.CodeInvalid, "--sticky keeps an address for a name: give one by --name")
		}
		id = a.Name + leaseMark
	}
	subnets := w.subnets
	if len(subnets) == 0 && len(a.Plan.Addresses) == 0 {
		subnets = []netip.Prefix{n.numbering.Subnet}
	}
	for i, subnet := range subnets {
		q := ipam.Request{ID: id, Subnet: subnet, Sticky: w.sticky, Deadline: w.wait}
		if len(wanted) > 0 {
			q.ID += "+" + strconv.Itoa(i)
		}
		wanted = append(wanted, q)
	}
	if len(a.Plan.Addresses)+2*len(subnets) > maxAddresses {
		return nil, api.Errorf(api.CodeInvalid, "%d subnets beside %d addresses are too many for one interface: %d addresses are the most, and each subnet gives up to two", len(subnets), len(a.Plan.Addresses), maxAddresses)
	}
	return wanted, nil
}

// checkHolder refuses a holder that cannot have a's addresses.
func (w *wish) checkHolder(a *attachment) error {
	switch {
	case w.holder == "":
		return nil
	case isOurs(w.holder):
		return api.Errorf(api.CodeInvalid, "addresses of %q: names with %s in them are of what is attached", w.holder, leaseMark)
	case len(a.Plan.Addresses) == 0, len(w.subnets) > 0, w.sticky, w.move:
		return api.Errorf(api.CodeInvalid, "addresses of %q: those and no others are to be given, and stay where they are", w.holder)
	}
	return nil
}

// inTable reports whether the table knows an address, as itself or as the IPv6 twin
// of v4. A host without IPv6 knows twins as well: they are in use on others.
func (n *node) inTable(a netip.Addr) (v4 netip.Addr, inside bool, err error) {
	if n.numbering.Range.Contains(a) {
		return a, true, nil
	}
	network := n.network.ID()
	if !ipam.ULA(network).Contains(a) {
		return netip.Addr{}, false, nil
	}
	v4, ok := ipam.TwinOf(network, a)
	if !ok || !n.numbering.Range.Contains(v4) {
		return netip.Addr{}, false, api.Errorf(api.CodeInvalid, "--address %v: in %v only the twins of addresses of %v can be given: %v belongs to %v",
			a, ipam.ULA(network), n.numbering.Range, ipam.Twin(network, n.numbering.Range.Addr().Next()).Addr(), n.numbering.Range.Addr().Next())
	}
	return v4, true, nil
}

// lease gets what a wants of the table, and notes it in a, which must be a
// reservation's, so that it is given back when that ends. n.mu must not be held.
func (n *node) lease(ctx context.Context, a *attachment, wanted []ipam.Request, w wish) error {
	ipv6 := !w.noIPv6 && a.Plan.MTU >= minIPv6MTU
	for i, q := range wanted {
		n.mu.Lock()
		if w.sticky { // whose container may have been started again quicker than the ports are looked at
			n.forgetEnded(time.Now(), func(other *attachment) bool { return other.leased(q.ID) })
		}
		taken := !q.Addr.IsValid() && n.leased(q.ID, a)
		if !taken {
			a.Leases = append(a.Leases, lease{ID: q.ID, Addr: q.Addr})
		}
		n.mu.Unlock()
		if taken {
			return api.Errorf(api.CodeConflict, "the address that is kept for %s is in use on this host: detach that one first, or give the other a name of its own", a.Name)
		}
		answer, err := n.leaseOne(ctx, a, q, w)
		if err != nil {
			return err
		}
		n.mu.Lock()
		a.Leases[i].Addr = answer.Addr.Addr()
		if !q.Addr.IsValid() {
			a.Plan.Addresses = append(a.Plan.Addresses, answer.Addr)
			if ipv6 && answer.Addr6.IsValid() {
				a.Plan.Addresses = append(a.Plan.Addresses, answer.Addr6)
			}
		}
		n.mu.Unlock()
	}
	return nil
}

// minIPv6MTU is what every IPv6 link must carry (RFC 8200).
const minIPv6MTU = 1280

// leaseOne is one request. When an address moves, its old host may still be giving it
// back: that is waited for. What cannot be asked because its host is gone, the
// operator's word is taken for: the owner of the block decides when it is there again.
func (n *node) leaseOne(ctx context.Context, a *attachment, q ipam.Request, w wish) (ipam.Answer, error) {
	until := time.Now().Add(releaseWait)
	for {
		answer, err := n.askMachine(ctx, q.ID, func(now time.Time) uint64 { return n.machine.Allocate(now, q) })
		if err == nil || !w.move || !q.Addr.IsValid() || ctx.Err() != nil {
			return answer, err
		}
		switch n.mu.Lock(); {
		case api.IsCode(err, api.CodeUnavailable), api.IsCode(err, api.CodeConflict) && n.holderGone(q.Addr):
			bits := q.Addr.BitLen()
			if q.Subnet.IsValid() { // not where the twin alone was given
				bits = q.Subnet.Bits()
			}
			n.machine.Listed(time.Now(), []ipam.Attached{{ID: q.ID, Addr: netip.PrefixFrom(q.Addr, bits)}})
			n.addressWork()
			n.log.Warn("address moved here without a word of its old host", "endpoint", a.Name, "address", q.Addr, "error", err)
			n.mu.Unlock()
			return ipam.Answer{Addr: netip.PrefixFrom(q.Addr, q.Addr.BitLen())}, nil
		}
		n.mu.Unlock()
		if !api.IsCode(err, api.CodeConflict) || time.Now().After(until) {
			return answer, err
		}
		pause := time.NewTimer(releaseWait / 8)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// holderGone reports whether the endpoint map has an address at a host that cannot be
// reached. n.mu must be held.
func (n *node) holderGone(a netip.Addr) bool {
	host, there := n.elsewhere(a)
	p := n.peers[host]
	return there && (p == nil || !n.table.Reachable(p.ID))
}

// leased reports whether a has an address under that name.
func (a *attachment) leased(id string) bool {
	return slices.ContainsFunc(a.Leases, func(l lease) bool { return l.ID == id })
}

// leased reports whether an attachment or reservation other than except has an
// address under that name. n.mu must be held.
func (n *node) leased(id string, except *attachment) bool {
	has := func(a *attachment) bool { return a != except && a.leased(id) }
	for _, r := range n.reservations {
		if has(&r.attachment) {
			return true
		}
	}
	return slices.ContainsFunc(n.attachments, has)
}

// giveBack releases a's addresses, except those that stay with their holder. n.mu must
// be held.
func (n *node) giveBack(a *attachment) {
	for _, l := range a.Leases {
		if isOurs(l.ID) && !n.leased(l.ID, a) {
			n.machine.Release(time.Now(), l.ID, netip.Addr{})
		}
		delete(n.fenced, l.Addr)
	}
	if len(a.Leases) > 0 {
		n.addressWork()
	}
}

// listAttached tells the machine what really has addresses here, before it gives out
// any, and releases those of attachments that are there no more. n.mu must be held.
func (n *node) listAttached(now time.Time) {
	var list []ipam.Attached
	for _, a := range n.attachments {
		if len(a.Leases) == 0 { // of a version that kept no table
			for _, p := range a.Plan.Addresses {
				v4, inside, err := n.inTable(p.Addr())
				if l := (lease{a.leaseID(), v4}); err == nil && inside && !slices.Contains(a.Leases, l) {
					a.Leases = append(a.Leases, l)
				}
			}
		}
		for _, l := range a.Leases {
			bits := l.Addr.BitLen()
			for _, p := range a.Plan.Addresses {
				if p.Addr() == l.Addr {
					bits = p.Bits()
				}
			}
			list = append(list, ipam.Attached{ID: l.ID, Addr: netip.PrefixFrom(l.Addr, bits)})
		}
	}
	n.machine.Listed(now, list)
	for _, u := range n.machine.Uses() {
		there := slices.ContainsFunc(list, func(l ipam.Attached) bool { return l.ID == u.ID && l.Addr.Addr() == u.Addr.Addr() })
		if isOurs(u.ID) && u.State != "kept" && !there && !(u.ID == hostLease && n.choosesOwn()) {
			n.machine.Release(now, u.ID, u.Addr.Addr())
		}
	}
	n.addressWork()
}

// listFenced takes up what was fenced when the daemon last ran. n.mu must be held.
func (n *node) listFenced() {
	for _, u := range n.machine.Uses() {
		if u.State == "fenced" {
			n.fenced[u.Addr.Addr()] = true
		}
	}
}

// fence cuts an attachment here off from an address that another host has, or gives
// it back: its record and its port's rules go without it. n.mu must be held.
func (n *node) fence(addr netip.Addr, on bool) {
	if on {
		n.fenced[addr] = true
	} else {
		delete(n.fenced, addr)
	}
	for _, a := range n.attachments {
		if !slices.ContainsFunc(a.Leases, func(l lease) bool { return l.Addr == addr }) {
			continue
		}
		err := n.install(a)
		if on && a.Exposed && n.bridge != nil {
			err = attach.Hide(n.cfg.Bridge, n.fencedOf(a))
		}
		if err != nil {
			n.log.Error("port rules of a fenced address cannot be set", "endpoint", a.Name, "address", addr, "error", err)
		}
		n.publishAttachment(a, time.Now())
	}
}

// fencedOf are the addresses of a that are fenced, and their twins. n.mu must be held.
func (n *node) fencedOf(a *attachment) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(a.Plan.Addresses), func(p netip.Prefix) bool { return !n.isFenced(p.Addr()) })
}

func (n *node) isFenced(addr netip.Addr) bool {
	v4, inside, err := n.inTable(addr)
	return err == nil && inside && n.fenced[v4]
}

// usable are a's addresses without those that are fenced, and their twins. n.mu must
// be held.
func (n *node) usable(a *attachment) []netip.Addr {
	return slices.DeleteFunc(a.addrs(), n.isFenced)
}

// peerCalled finds a host by nickname, name or whole name, also one that has gone.
// n.mu must be held.
func (n *node) peerCalled(word string) (crypto.Name, error) {
	var found []crypto.Name
	names := n.nicknames()
	for _, h := range n.machine.Status().Hosts {
		if _, there := names[h.Host]; !there {
			names[h.Host] = ""
		}
	}
	for name, nickname := range names {
		id, _ := name.MarshalText()
		if short := strings.TrimSuffix(nickname, "("+name.String()+")"); word == short || word == nickname || word == name.String() || word == string(id) {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 0:
		return crypto.Name{}, api.Errorf(api.CodeNotFound, "no host %s is known: `ripstop status ipam` lists them", word)
	case 1:
		return found[0], nil
	}
	texts := make([]string, len(found))
	for i, name := range found {
		texts[i] = name.String()
	}
	slices.Sort(texts)
	return crypto.Name{}, api.Errorf(api.CodeConflict, "%d hosts are called %s: say which one by its name, one of %s", len(found), word, strings.Join(texts, ", "))
}

// ownIPv6 reports whether the host itself takes IPv6 addresses on its bridge or device.
func (n *node) ownIPv6() bool {
	name := n.deviceName
	if n.bridge != nil {
		name = n.cfg.Bridge
	}
	return !ipv6Disabled(name)
}

// ownAttachment is the attachment of the host itself, with those addresses.
func (n *node) ownAttachment(addresses []netip.Prefix) attachment {
	name := n.deviceName
	if n.bridge != nil {
		name = n.cfg.Bridge
	}
	return attachment{Exposed: true, Claim: 1, Plan: api.AttachPlan{
		Interface: name, HostInterface: name, MAC: macOf(n.identity.Name().MAC()), Addresses: addresses, MTU: n.cfg.MTU,
	}}
}
