package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ripstop/crypto"
)

// Cause says in which way a request failed.
type Cause uint8

const (
	CauseNoMap       Cause = iota + 1 // there is no address map yet
	CauseStarting                     // this host does not know yet what is attached
	CauseFull                         // no address is free
	CauseUnreachable                  // what is free, or the owner, cannot be reached
	CauseInUse                        // somebody has the address
	CauseInvalid                      // the request makes no sense
	CauseDisk                         // it could not be saved
	CauseClone                        // another host runs with this identity
	CauseLeft                         // this host has left
	CauseRefused                      // others object, or the state forbids it
	CauseUnknown                      // no such name
)

// Error is why a request failed.
type Error struct {
	Cause Cause
	Text  string
}

// Error is the sentence for people.
func (e *Error) Error() string { return "ipam: " + e.Text }

func fail(c Cause, format string, args ...any) error {
	return &Error{Cause: c, Text: fmt.Sprintf(format, args...)}
}

// Request asks for an address.
type Request struct {
	ID       string        // what it is for: 1 to MaxID bytes, printable; the same ID and subnet get the same address again
	Subnet   netip.Prefix  // where from; zero: Config.Subnet
	Addr     netip.Addr    // this one and no other; Subnet then says its prefix length
	Sticky   bool          // after release keep it for this ID while there are others
	Deadline time.Duration // 0: Config.Deadline
}

// Answer ends a request.
type Answer struct {
	Request uint64
	Addr    netip.Prefix // the address with the length of its subnet
	Addr6   netip.Prefix // its IPv6 twin, if there is one
	Count   int          // of blocks that Leave or Remove moved
	Err     error

	granted bool
}

// pending is a request that was not answered yet.
type pending struct {
	id       uint64
	req      Request
	deadline time.Time
	claim    uint64 // number under which an owner may note an address for it
	made     time.Time

	ask    uint64    // of the last message to donors
	asked  time.Time // first
	next   time.Time
	turn   int
	last   crypto.Name // whom the last message went to, until it refused
	denied map[crypto.Name]int
}

// Allocate asks for an address; an Answer with the number returned follows by the
// deadline, at the latest with the Tick after it.
func (m *Machine) Allocate(now time.Time, req Request) uint64 {
	m.at(now)
	m.requests++
	p := &pending{id: m.requests, req: req, made: m.now, denied: make(map[crypto.Name]int)}
	if err := m.checkRequest(&p.req); err != nil {
		m.refuse(p, err)
		return p.id
	}
	if m.leaving != nil { // what is given out now would go to the heir with its block
		m.refuse(p, fail(CauseLeft, "this host is leaving the network"))
		return p.id
	}
	p.deadline = m.now.Add(p.req.Deadline)
	p.claim = m.claimNumber()
	if m.genesis == nil {
		m.foundAsked = true
		m.evaluate()
	}
	if !m.serve(p, &round{}) {
		m.pendings = append(m.pendings, p)
	}
	return p.id
}

func (m *Machine) checkRequest(r *Request) error {
	if err := checkID(r.ID); err != nil {
		return err
	}
	if r.Deadline <= 0 {
		r.Deadline = m.cfg.Deadline
	}
	if !r.Addr.IsValid() {
		if !r.Subnet.IsValid() {
			r.Subnet = m.cfg.Subnet
		}
		return m.checkSubnet(r.Subnet)
	}
	if r.Addr.Zone() != "" || r.Addr.Is4In6() || r.Addr.IsMulticast() || r.Addr.IsUnspecified() || r.Addr.IsLoopback() {
		return fail(CauseInvalid, "%v is no address for a host", r.Addr)
	}
	if !m.lay.prefix.Contains(r.Addr) && ULA(m.cfg.Network).Contains(r.Addr) { // also where NoIPv6: others have twins
		if a, ok := TwinOf(m.cfg.Network, r.Addr); ok && m.lay.prefix.Contains(a) {
			return fail(CauseInvalid, "%v belongs to %v and goes with it: claim that one", r.Addr, a)
		}
		return fail(CauseInvalid, "%v is in %v, which has only the twins of addresses of %v", r.Addr, ULA(m.cfg.Network), m.lay.prefix)
	}
	if !r.Subnet.IsValid() {
		r.Subnet = netip.PrefixFrom(r.Addr, r.Addr.BitLen())
		if m.cfg.Subnet.Contains(r.Addr) {
			r.Subnet = m.cfg.Subnet
		}
	}
	if !r.Subnet.Contains(r.Addr) {
		return fail(CauseInvalid, "%v is not in %v", r.Addr, r.Subnet)
	}
	if host := r.Addr.BitLen() - r.Subnet.Bits(); host >= 2 && (r.Addr == r.Subnet.Masked().Addr() ||
		r.Addr.Is4() && !r.Subnet.Contains(r.Addr.Next())) {
		return fail(CauseInvalid, "%v is the network or broadcast address of %v", r.Addr, r.Subnet)
	}
	return nil
}

// checkSubnet refuses subnets that have no address of the range.
func (m *Machine) checkSubnet(p netip.Prefix) error {
	if p != p.Masked() {
		return fail(CauseInvalid, "subnet %v has host bits set, %v was meant", p, p.Masked())
	}
	if !m.lay.prefix.Overlaps(p) {
		return fail(CauseInvalid, "subnet %v has no address of the range %v", p, m.lay.prefix)
	}
	if lo, hi := m.lay.usable(p); lo == hi {
		return fail(CauseInvalid, "subnet %v is too small for a host", p)
	}
	return nil
}

func checkID(id string) error {
	if id == "" || len(id) > MaxID || !utf8.ValidString(id) || strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fail(CauseInvalid, "an address is for something with a printable name of 1 to %d bytes", MaxID)
	}
	return nil
}

// claimNumber is one that this host never used before, also in an earlier run.
func (m *Machine) claimNumber() uint64 {
	m.claims++
	return uint64(m.boot)<<32 | uint64(m.claims)
}

// serve answers p if that needs nobody else.
func (m *Machine) serve(p *pending, o *round) bool {
	r := &p.req
	for _, a := range m.ids[r.ID] {
		e := m.entries[a]
		if (e.kind == kindUsed || e.kind == kindForeign && !e.fenced || e.kind == kindOutside) && r.Subnet.Contains(a) && (!r.Addr.IsValid() || r.Addr == a) {
			m.grant(p, a)
			return true
		}
	}
	if r.Addr.IsValid() {
		return m.serveClaim(p)
	}
	if m.genesis == nil || m.granting() != nil {
		return false
	}
	if m.now.Before(m.recover) && !m.planted(bugNoQuarantine) {
		return false
	}
	if r.Sticky {
		for _, a := range m.ids[r.ID] {
			if m.entries[a].kind == kindKept && r.Subnet.Contains(a) {
				m.take(p, a, kindUsed)
				return true
			}
		}
	}
	if o.full[r.Subnet] {
		return false
	}
	a, ok := m.pick(r.Subnet)
	if ok {
		m.take(p, a, kindUsed)
	} else {
		remember(&o.full, r.Subnet, true)
	}
	return ok
}

// serveClaim answers a request for a given address if that needs nobody else.
func (m *Machine) serveClaim(p *pending) bool {
	r := &p.req
	if e := m.entries[r.Addr]; e != nil && e.kind != kindRest && e.kind != kindReturning {
		if e.kind == kindKept && e.id == r.ID || e.kind == kindKept && m.now.After(e.until) {
			m.take(p, r.Addr, kindUsed)
			return true
		}
		who := "this host"
		if e.kind == kindHeld {
			who = e.holder.String()
		}
		m.refuse(p, fail(CauseInUse, "%v is in use on %s%s", r.Addr, who, by(e.id)))
		return true
	}
	if host, there := m.cfg.Elsewhere(r.Addr); there && host != m.self && m.reachable[host] {
		m.refuse(p, fail(CauseInUse, "%v is in use on %v", r.Addr, host))
		return true
	}
	b, inside := m.lay.block(r.Addr)
	if !inside {
		m.take(p, r.Addr, kindOutside)
		return true
	}
	if m.genesis == nil || m.granting() != nil {
		return false
	}
	o := m.own[b]
	if o == nil || o.frozen || !o.until.IsZero() {
		return false
	}
	m.take(p, r.Addr, kindUsed)
	return true
}

// take gives an address to p and notes it.
func (m *Machine) take(p *pending, a netip.Addr, k kind) {
	m.set(a, &entry{kind: k, bits: uint8(p.req.Subnet.Bits()), sticky: p.req.Sticky, id: p.req.ID, claim: p.claim, confirmed: k == kindForeign})
	m.stats.Granted++
	if k != kindOutside {
		m.markGranted()
	}
	m.grant(p, a)
}

func (m *Machine) grant(p *pending, a netip.Addr) {
	m.answers = append(m.answers, Answer{Request: p.id, Addr: netip.PrefixFrom(a, p.req.Subnet.Bits()), Addr6: m.twin(a), granted: true})
}

// twin is the IPv6 address beside an IPv4 address of the range.
func (m *Machine) twin(a netip.Addr) netip.Prefix {
	if m.cfg.NoIPv6 || !a.Is4() || !m.lay.prefix.Contains(a) {
		return netip.Prefix{}
	}
	return Twin(m.cfg.Network, a)
}

func (m *Machine) refuse(p *pending, err error) {
	m.refusals = append(m.refusals, Answer{Request: p.id, Err: err})
}

// takeBack turns an answer that could not be saved into an error, and releases
// what it gave.
func (m *Machine) takeBack(a Answer, cause error) {
	if a.granted {
		if e := m.entries[a.Addr.Addr()]; e != nil {
			m.drop(a.Addr.Addr(), e)
		}
	}
	m.refusals = append(m.refusals, Answer{Request: a.Request, Err: fail(CauseDisk, "the address table could not be saved: %v", cause)})
}

// Release takes an address back from id; the zero address: all it has. The answer
// follows when that is durable; Count says how many there were.
func (m *Machine) Release(now time.Time, id string, a netip.Addr) uint64 {
	m.at(now)
	m.requests++
	n := 0
	for _, b := range slices.Clone(m.ids[id]) {
		if e := m.entries[b]; e.kind != kindKept && (!a.IsValid() || a == b) {
			m.drop(b, e)
			n++
		}
	}
	if n == 0 {
		m.refusals = append(m.refusals, Answer{Request: m.requests, Err: fail(CauseUnknown, "%q was given no such address here by `ripstop ipam`: `ripstop status ipam` lists what is in use; what is attached gives its own back by `ripstop detach`", id)})
	} else {
		m.answers = append(m.answers, Answer{Request: m.requests, Count: n})
	}
	return m.requests
}

// drop ends the use of an address here.
func (m *Machine) drop(a netip.Addr, e *entry) {
	m.stats.Released++
	switch {
	case e.kind == kindUsed && e.sticky:
		m.set(a, &entry{kind: kindKept, bits: e.bits, sticky: true, id: e.id, until: m.now.Add(m.cfg.Rest)})
	case e.kind == kindUsed:
		m.rest(a)
	case e.kind == kindForeign && !e.fenced:
		m.set(a, &entry{kind: kindReturning, claim: e.claim})
		m.sendReturn(a)
	default:
		m.set(a, nil)
		m.touch(saveKey{kind: saveEntry, addr: a})
	}
}

// maxAsking is how many requests that are the same to donors ask them at a time. What
// one hears is true for those behind it as well, and what it gets goes to the first.
const maxAsking = 16

// alike is what makes requests the same to donors.
type alike struct {
	subnet netip.Prefix
	sticky bool
}

func (p *pending) alike() alike { return alike{p.req.Subnet, p.req.Sticky} }

// round is one look at all requests that wait: what was found out for one of them
// holds for those behind it, so that a thousand cost no thousand searches.
type round struct {
	full    map[netip.Prefix]bool  // nothing of it is free here
	asking  map[alike]int          // how many there were so far
	nothing map[alike]time.Time    // everybody has said so since then
	why     map[netip.Prefix]error // fullReason
}

// remember writes into a map that mostly is not needed.
func remember[K comparable, V any](set *map[K]V, k K, v V) {
	if *set == nil {
		*set = make(map[K]V)
	}
	(*set)[k] = v
}

// workRequests goes on with what was not answered, and ends what is due.
func (m *Machine) workRequests() {
	waiting, o := m.pendings, new(round)
	m.pendings = nil
	m.stats.Looked += uint64(len(waiting))
	for i, p := range waiting {
		switch {
		case m.serve(p, o):
		case !m.now.Before(p.deadline) && !m.planted(bugNoDeadline), m.nothingFor(p, o):
			m.refuse(p, m.reason(p, o))
		default:
			m.pendings = append(m.pendings, p)
			m.goOn(p, o, len(waiting)-i)
		}
	}
}

// nothingFor reports whether everybody has said, since p was made, that there is nothing.
func (m *Machine) nothingFor(p *pending, o *round) bool {
	if p.req.Addr.IsValid() || m.genesis == nil || m.granting() != nil {
		return false
	}
	if since, said := o.nothing[p.alike()]; said && !p.made.After(since) {
		return true
	}
	if m.now.Before(p.next) || !m.exhausted(p) {
		return false
	}
	remember(&o.nothing, p.alike(), p.asked)
	return true
}

// goOn asks others for p when it is time to; n requests wait from p on.
func (m *Machine) goOn(p *pending, o *round, n int) {
	if m.genesis == nil || m.granting() != nil {
		return
	}
	if p.req.Addr.IsValid() {
		if !m.now.Before(p.next) {
			m.askClaim(p)
		}
		return
	}
	asking := o.asking[p.alike()]
	remember(&o.asking, p.alike(), asking+1)
	if asking < maxAsking && !m.now.Before(p.next) {
		m.askDonor(p, wanted(n, m.lay))
	}
}

// wanted is how many blocks n requests may need.
func wanted(n int, l layout) int { return min(1+n/int(l.size), 16) }

// reason says why p was not served.
func (m *Machine) reason(p *pending, o *round) error {
	if m.genesis == nil {
		_, lacks := m.component()
		if own := m.statements[m.self]; own == nil {
			lacks = "this host's own targets"
		}
		if lacks == "" {
			lacks = "the signatures of all founders"
		}
		if m.strange != "" {
			return fail(CauseNoMap, "there is no address map yet: %s", m.strange)
		}
		return fail(CauseNoMap, "there is no address map yet: %v waits for %s; if that will not come, run `ripstop ipam start` on one host", m.self, lacks)
	}
	if err := m.granting(); err != nil {
		return err
	}
	if p.req.Addr.IsValid() {
		b, _ := m.lay.block(p.req.Addr)
		owner := m.owner(b)
		if owner == m.self {
			return fail(CauseStarting, "%v is in a block that came to this host lately and may be in use: it may be given in %v", p.req.Addr, m.waits(b))
		}
		return fail(CauseUnreachable, "%v is in a block of %v, which did not answer", p.req.Addr, owner)
	}
	if m.now.Before(m.recover) {
		return fail(CauseStarting, "this host's address table was lost: it waits %v for others to say what they hold of its addresses", m.recover.Sub(m.now).Round(time.Second))
	}
	why := o.why[p.req.Subnet]
	if why == nil {
		why = m.fullReason(p.req.Subnet)
		remember(&o.why, p.req.Subnet, why)
	}
	return why
}

// by says what an address is for, where that is known.
func by(id string) string {
	if id == "" {
		return ""
	}
	return fmt.Sprintf(" by %q", id)
}

func (m *Machine) waits(b uint32) time.Duration {
	if o := m.own[b]; o != nil && !o.until.IsZero() {
		return o.until.Sub(m.now).Round(time.Second)
	}
	return 0
}

// fullReason tells a full subnet from one whose free part is out of reach.
func (m *Machine) fullReason(subnet netip.Prefix) error {
	lo, hi := m.lay.usable(subnet)
	m.stats.Looked += uint64((hi-lo)/m.lay.size) + uint64(len(m.entries))
	gone := make(map[crypto.Name]uint32)
	for b := lo / m.lay.size; b*m.lay.size < hi; b++ {
		if o := m.owner(b); o != m.self && !m.reachable[o] {
			gone[o]++
		}
	}
	resting := 0
	for _, e := range m.entries {
		if e.kind == kindRest {
			resting++
		}
	}
	tail := ""
	if resting > 0 {
		tail = fmt.Sprintf("; %d addresses of this host rest for up to %v", resting, m.cfg.Rest)
	}
	if len(gone) == 0 {
		return fail(CauseFull, "no address of %v is free here or at the %d hosts in reach%s", subnet, len(m.reachable), tail)
	}
	var parts []string
	for _, n := range sortedNames(gone) {
		parts = append(parts, fmt.Sprintf("%v (%d blocks)", n, gone[n]))
	}
	if len(parts) > 4 {
		parts = append(parts[:4], fmt.Sprintf("%d more", len(parts)-4))
	}
	return fail(CauseUnreachable, "no address of %v is free here or in reach, and these owners are out of reach: %s; for one that is gone for good run `ripstop rmpeer`%s",
		subnet, strings.Join(parts, ", "), tail)
}
