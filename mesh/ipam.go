package mesh

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
)

// IPAM tells all of the address map.
func (b *backend) IPAM(context.Context) (api.IPAM, error) {
	n := (*node)(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.statusIPAM(n.nicknames())
	for _, r := range n.machine.Runs() {
		all.Ranges = append(all.Ranges, api.IPAMRange{First: r.First, Last: r.Last, Host: r.Owner.String()})
	}
	for _, u := range n.machine.Uses() {
		if u.Addr.Bits() == 0 { // nothing here has it
			u.Addr = netip.PrefixFrom(u.Addr.Addr(), u.Addr.Addr().BitLen())
		}
		all.Uses = append(all.Uses, api.IPAMUse{Address: u.Addr, For: u.ID, State: u.State, Holder: nameOrNone(u.Holder), Owner: nameOrNone(u.Owner)})
	}
	return all, nil
}

// statusIPAM is the address map without single addresses. n.mu must be held.
func (n *node) statusIPAM(nicknames map[crypto.Name]string) api.IPAM {
	s := n.machine.Status()
	all := api.IPAM{
		Range: s.Range, Range6: s.Range6, Subnet: n.numbering.Subnet, Reserved: n.numbering.Reserved,
		Map: s.Map, Waiting: n.forPeople(s.Waiting),
		Used: s.Used, Held: s.Held, Resting: s.Resting, Fenced: s.Fenced, Pending: s.Pending, Conflicts: n.machine.Conflicts(),
		Leaving: !n.leaving.over(), SaveError: n.saveError, Events: slices.Clone(n.happened),
	}
	for _, f := range s.Founders {
		all.Founders = append(all.Founders, f.String())
	}
	for _, h := range s.Hosts {
		all.Hosts = append(all.Hosts, api.IPAMHost{Host: h.Host.String(), Nickname: nicknames[h.Host],
			Blocks: h.Blocks, Addresses: h.Addresses, Free: int(h.Free), Reachable: h.Reachable})
	}
	return all
}

// Allocate gives an address to a name of the operator's.
func (b *backend) Allocate(ctx context.Context, q api.AllocateRequest) (api.Address, error) {
	n := (*node)(b)
	if isOurs(q.For) {
		return api.Address{}, api.Errorf(api.CodeInvalid, "%q: names with %s in them are of what is attached: `ripstop attach` gives it an address", q.For, leaseMark)
	}
	wait := q.Deadline.Duration()
	if wait < 0 || wait > longestWait {
		return api.Address{}, api.Errorf(api.CodeInvalid, "--deadline %v: at most %v", wait, longestWait)
	}
	request := ipam.Request{ID: q.For, Subnet: q.Subnet, Addr: q.Address, Sticky: q.Sticky, Deadline: wait}
	if q.Address.IsValid() {
		v4, inside, err := n.inTable(q.Address)
		if err != nil {
			return api.Address{}, err
		}
		if !inside {
			return api.Address{}, api.Errorf(api.CodeInvalid, "%v is outside the range %v: nobody else is given it by ripstop, so it need not be claimed", q.Address, n.numbering.Range)
		}
		request.Addr = v4
	}
	answer, err := n.askMachine(ctx, q.For, func(now time.Time) uint64 { return n.machine.Allocate(now, request) })
	if err != nil {
		return api.Address{}, err
	}
	a := api.Address{For: q.For, Addresses: []netip.Prefix{answer.Addr}}
	if answer.Addr6.IsValid() {
		a.Addresses = append(a.Addresses, answer.Addr6)
	}
	return a, nil
}

// Release takes addresses of a name of the operator's back.
func (b *backend) Release(ctx context.Context, q api.ReleaseRequest) (api.Moved, error) {
	n := (*node)(b)
	if isOurs(q.For) {
		return api.Moved{}, api.Errorf(api.CodeInvalid, "%q is attached: `ripstop detach` gives its addresses back", q.For)
	}
	address := q.Address
	if v4, inside, err := n.inTable(address); err == nil && inside {
		address = v4 // an IPv6 address goes with its twin
	}
	if a, busy := n.attachedWith(q.For, address); busy {
		return api.Moved{}, api.Errorf(api.CodeConflict, "%v of %q is attached: take that off the network first, by `ripstop detach`", a, q.For)
	}
	answer, err := n.askMachine(ctx, q.For, func(now time.Time) uint64 { return n.machine.Release(now, q.For, address) })
	return api.Moved{Done: err == nil, Count: answer.Count}, err
}

// attachedWith is an address of a name, that one or with the zero value any, that an
// attachment or a reservation has.
func (n *node) attachedWith(name string, address netip.Addr) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	has := func(a *attachment) (netip.Addr, bool) {
		i := slices.IndexFunc(a.Leases, func(l lease) bool { return l.ID == name && (l.Addr == address || !address.IsValid()) })
		if i < 0 {
			return netip.Addr{}, false
		}
		return a.Leases[i].Addr, true
	}
	for _, r := range n.reservations {
		if a, ok := has(&r.attachment); ok {
			return a, true
		}
	}
	for _, attached := range n.attachments {
		if a, ok := has(attached); ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Start begins the address map here.
func (b *backend) Start(ctx context.Context) error {
	n := (*node)(b)
	_, err := n.askMachine(ctx, "", func(now time.Time) uint64 { return n.machine.Start(now) })
	return err
}

// Adopt goes over to the other address map.
func (b *backend) Adopt(ctx context.Context) error {
	n := (*node)(b)
	_, err := n.askMachine(ctx, "", func(now time.Time) uint64 { return n.machine.Adopt(now) })
	return err
}

// leaving is a hand-over of this host's blocks that goes on, whoever watches it.
type leaving struct {
	started int // blocks at the start
	watched time.Time
	waiter
}

// over reports whether the hand-over has ended: what is left of it is an answer.
func (l *leaving) over() bool { return l == nil || len(l.answer) > 0 }

const (
	leaveWait  = 2 * time.Minute        // the deadline of a leave that names none
	leaveLong  = time.Hour              // the longest one
	leaveWatch = 500 * time.Millisecond // how long one call looks on
	leaveStale = 10 * time.Second       // an answer that nobody has asked for so long is told to nobody
)

// Leave begins the hand-over, or looks on at the one that goes on.
func (b *backend) Leave(ctx context.Context, q api.LeaveRequest) (api.Moved, error) {
	n := (*node)(b)
	deadline := q.Deadline.Duration()
	if deadline < 0 || deadline > leaveLong {
		return api.Moved{}, api.Errorf(api.CodeInvalid, "--deadline %v: at most %v", deadline, leaveLong)
	}
	n.mu.Lock()
	now, l := time.Now(), n.leaving
	if l == nil || l.over() && now.Sub(l.watched) > leaveStale {
		l = &leaving{started: n.ownBlocks(), waiter: waiter{answer: make(chan ipam.Answer, 1)}}
		n.leaving = l
		n.waiting[n.machine.Leave(now, cmp.Or(deadline, leaveWait))] = &l.waiter
		n.addressWork()
	}
	l.watched = now
	n.mu.Unlock()
	watch := time.NewTimer(leaveWatch)
	defer watch.Stop()
	select {
	case answer := <-l.answer:
		n.mu.Lock()
		if n.leaving == l {
			n.leaving = nil
		}
		n.mu.Unlock()
		if answer.Err != nil {
			return api.Moved{}, n.addressError(answer.Err)
		}
		return api.Moved{Done: true, Count: answer.Count}, nil
	case <-ctx.Done():
	case <-watch.C:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	left := n.ownBlocks()
	return api.Moved{Count: max(l.started-left, 0), Left: left}, nil
}

// ownBlocks counts this host's blocks. n.mu must be held.
func (n *node) ownBlocks() int {
	for _, h := range n.machine.Status().Hosts {
		if h.Host == n.identity.Name() {
			return h.Blocks
		}
	}
	return 0
}

// Remove takes the blocks of a host that is gone for good.
func (b *backend) Remove(ctx context.Context, q api.RemoveRequest) (api.Moved, error) {
	n := (*node)(b)
	n.mu.Lock()
	victim, err := n.peerCalled(q.Host)
	n.mu.Unlock()
	if err != nil {
		return api.Moved{}, err
	}
	if victim == n.identity.Name() {
		return api.Moved{}, api.Errorf(api.CodeConflict, "%s is this host, which does not remove itself: run `ripstop leave` here", q.Host)
	}
	if q.Check {
		return api.Moved{Host: victim.String()}, nil
	}
	answer, err := n.askMachine(ctx, "", func(now time.Time) uint64 { return n.machine.Remove(now, victim, q.Force) })
	return api.Moved{Done: err == nil, Count: answer.Count, Host: victim.String()}, err
}
