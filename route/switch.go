package route

import (
	"net/netip"
	"slices"
)

// ReplySize is what the reply buffers of FromLocal and Fit must have.
const ReplySize = 256

// Verdict is what is to be done with a frame.
type Verdict uint8

// The verdicts. The zero Verdict drops.
const (
	DropFrame Verdict = iota // count Decision.Drop
	Deliver                  // write the frame to the TAP
	ToPeer                   // seal it for Decision.Peer
	Copies                   // seal it for each of Table.Copies
	Answer                   // write the reply to the TAP; the frame itself goes nowhere
)

// String is the verdict in a word.
func (v Verdict) String() string {
	switch v {
	case DropFrame:
		return "drop"
	case Deliver:
		return "deliver"
	case ToPeer:
		return "peer"
	case Copies:
		return "copies"
	case Answer:
		return "answer"
	}
	return "unknown"
}

// Decision is what a Switch says of a frame. Peer and MTU (see Fit) belong to ToPeer,
// Drop to DropFrame, Flow (the label for relay headers and the choice of queues) to all
// but it.
type Decision struct {
	Verdict Verdict
	Peer    PeerID
	Drop    Drop
	Flow    uint16
	MTU     uint16
}

func drop(why Drop) Decision { return Decision{Verdict: DropFrame, Drop: why} }

// SwitchConfig sizes a Switch.
type SwitchConfig struct {
	Seed            uint64   // random: hash tables inside can't be aimed at
	Learned         *Learned // nil: a new one of standard size with Seed
	FramesPerSource int      // copied frames a second of one source MAC; 0: 1000
	CopiesPerHost   int      // copies a second of this host; 0: 50 000
}

// Switch decides frame by frame. It holds what isn't in the Table: the MACs learned
// and what the copies of late used up. Any number of goroutines may call it, each
// with the Table of its batch. Time is any clock's nanoseconds, not negative, that
// doesn't go back (by more than goroutines take to meet).
type Switch struct {
	learned  *Learned
	limit    limiter
	onlooker bool
}

// NewSwitch makes a Switch that has learned nothing, but what cfg.Learned has.
func NewSwitch(cfg SwitchConfig) *Switch {
	s := &Switch{learned: cfg.Learned}
	if s.learned == nil {
		s.learned = NewLearned(LearnedConfig{Seed: cfg.Seed})
	}
	frames, copies := cfg.FramesPerSource, cfg.CopiesPerHost
	if frames <= 0 {
		frames = 1000
	}
	if copies <= 0 {
		copies = 50_000
	}
	s.limit.init(cfg.Seed, frames, copies)
	return s
}

// Onlooker makes a Switch that decides as s does, with what s has learned, but learns
// nothing and uses nothing up.
func (s *Switch) Onlooker() *Switch { return &Switch{learned: s.learned, onlooker: true} }

// Learned is the table of MACs that are no endpoint's.
func (s *Switch) Learned() *Learned { return s.learned }

// FromLocal decides on a frame that a local port sent. An answer is written to
// reply, which must have ReplySize bytes, and its length returned. The frame is not
// changed. It does not allocate.
func (s *Switch) FromLocal(t *Table, now int64, vni VNI, frame, reply []byte) (Decision, int) {
	e, why := accept(frame)
	if why != DropNone {
		return drop(why), 0
	}
	source, managed := t.Lookup(vni, e.Source)
	switch {
	case managed && source.Fenced:
		return drop(DropFenced), 0
	case managed && !source.Here:
		return drop(DropForgedMAC), 0
	case !managed && t.strict && !t.allowsMAC(vni, e.Source):
		return drop(DropUnmanaged), 0
	}
	if d, n, done := t.inspect(vni, &e, frame, reply); done {
		return d, n
	}
	if !managed && !s.onlooker {
		s.learned.Learn(now, vni, e.Source, 0)
	}
	if !e.Destination.IsGroup() {
		if at, ok := t.Lookup(vni, e.Destination); ok {
			return at.unicast(&e, frame), 0
		}
		if peer, ok := s.learned.Lookup(now, vni, e.Destination); ok {
			return Location{Peer: peer, Here: peer == 0, Reachable: t.Reachable(peer)}.unicast(&e, frame), 0
		}
	}
	hosts := len(t.Copies(vni))
	if hosts == 0 {
		return drop(DropAlone), 0
	}
	if !s.onlooker {
		if why := s.limit.allow(now, macKey(vni, e.Source), managed, hosts); why != DropNone {
			return drop(why), 0
		}
	}
	return Decision{Verdict: Copies, Flow: flowOf(&e, frame)}, 0
}

// FromPeer decides on a frame that came out of the session with src: Deliver or
// DropFrame. The frame is not changed. It does not allocate.
func (s *Switch) FromPeer(t *Table, now int64, vni VNI, src PeerID, frame []byte) Decision {
	if src == 0 {
		return drop(DropUnknownPeer)
	}
	e, why := accept(frame)
	if why != DropNone {
		return drop(why)
	}
	source, managed := t.Lookup(vni, e.Source)
	switch {
	case managed && source.Fenced:
		return drop(DropFenced)
	case managed && source.Peer != src: // ours, or a third host's
		return drop(DropForgedMAC)
	}
	if !e.Destination.IsGroup() {
		if at, ok := t.Lookup(vni, e.Destination); ok && at.Fenced {
			return drop(DropFenced)
		} else if ok && !at.Here {
			return drop(DropElsewhere)
		}
	}
	if e.Type == typeARP {
		if a, ok := ParseARP(frame[e.Payload:]); ok && t.namesHostOnly(a) {
			return drop(DropForgedAddress)
		}
	}
	if !managed && !s.onlooker {
		s.learned.Learn(now, vni, e.Source, src)
	}
	return Decision{Verdict: Deliver, Flow: flowOf(&e, frame)}
}

// accept reads the header and refuses what never crosses the overlay.
func accept(frame []byte) (Ethernet, Drop) {
	e, ok := ParseEthernet(frame)
	switch {
	case !ok:
		return e, DropRunt
	case e.Source.IsGroup() || e.Source.IsZero():
		return e, DropSource
	case e.Destination.IsLinkLocal():
		return e, DropLinkLocal
	}
	return e, DropNone
}

// unicast is the decision for a frame whose destination is at l.
func (l Location) unicast(e *Ethernet, frame []byte) Decision {
	switch {
	case l.Fenced:
		return drop(DropFenced)
	case l.Here:
		return drop(DropHere)
	case !l.Reachable:
		return drop(DropUnreachable)
	}
	return Decision{Verdict: ToPeer, Peer: l.Peer, Flow: flowOf(e, frame), MTU: l.MTU}
}

// inspect looks at the addresses that a local frame uses, and answers ARP and ND.
// done means that the decision is final.
func (t *Table) inspect(vni VNI, e *Ethernet, frame, reply []byte) (d Decision, n int, done bool) {
	packet := frame[e.Payload:]
	switch e.Type {
	case typeIPv4:
		if a, ok := IPv4Source(packet); ok && !t.mayUse4(vni, e.Source, a) {
			return drop(DropForgedAddress), 0, true
		}
	case typeARP:
		if a, ok := ParseARP(packet); ok {
			return t.inspectARP(vni, e, a, reply)
		}
	case typeIPv6:
		a, ok := IPv6Source(packet)
		if !ok {
			break
		}
		if !t.mayUse6(vni, e.Source, a) {
			return drop(DropForgedAddress), 0, true
		}
		if nd, ok := ParseND(packet); ok {
			return t.inspectND(vni, e, nd, reply)
		}
	}
	return Decision{}, 0, false
}

func (t *Table) inspectARP(vni VNI, e *Ethernet, a ARP, reply []byte) (Decision, int, bool) {
	if t.namesHostOnly(a) {
		return drop(DropHere), 0, true
	}
	if !t.mayName(vni, e.Source, a.SenderMAC) ||
		!t.mayUse4(vni, e.Source, a.SenderAddress) || !t.mayUse4(vni, a.SenderMAC, a.SenderAddress) {
		return drop(DropForgedAddress), 0, true
	}
	if a.Operation != arpRequest || a.Gratuitous() || e.VLAN != 0 {
		return Decision{}, 0, false
	}
	owner, ok := t.directory.ip4[ip4Key(vni, a.TargetAddress)]
	if d, done := t.toAnswer(e, owner, ok, reply); done {
		if d.Verdict != Answer {
			return d, 0, true
		}
		return d, putARPReply(reply, e.Source, a, owner.mac), true
	}
	return Decision{}, 0, false
}

// namesHostOnly reports whether ARP is about the address that each host answers itself.
func (t *Table) namesHostOnly(a ARP) bool {
	return t.hostOnly != [4]byte{} && (a.SenderAddress == t.hostOnly || a.TargetAddress == t.hostOnly)
}

// hostOnly is the form in which ARP names an address.
func hostOnly(a netip.Addr) [4]byte {
	if !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}

func (t *Table) inspectND(vni VNI, e *Ethernet, nd ND, reply []byte) (Decision, int, bool) {
	claimed := nd.Target
	if nd.Type == ndSolicitation {
		claimed = nd.Source
	}
	forged := nd.Ambiguous || !t.mayUse6(vni, e.Source, claimed)
	if !nd.LinkLayer.IsZero() {
		forged = forged || !t.mayName(vni, e.Source, nd.LinkLayer) || !t.mayUse6(vni, nd.LinkLayer, claimed)
	}
	if forged {
		return drop(DropForgedAddress), 0, true
	}
	if nd.Type != ndSolicitation || nd.Source == nd.Target || e.VLAN != 0 {
		return Decision{}, 0, false
	}
	owner, ok := t.directory.ip6[makeIP6Key(vni, nd.Target)]
	if d, done := t.toAnswer(e, owner, ok, reply); done {
		if d.Verdict != Answer {
			return d, 0, true
		}
		return d, putNDAnswer(reply, e.Source, nd, owner.mac), true
	}
	return Decision{}, 0, false
}

// toAnswer decides on a question for the address that owner holds. Not done: the
// question goes on like any other frame, because nobody holds the address or the
// asker itself does.
func (t *Table) toAnswer(e *Ethernet, owner addrPlace, held bool, reply []byte) (Decision, bool) {
	if !held || owner.mac == e.Source {
		return Decision{}, false
	}
	switch at := t.places[owner.host]; {
	case at.here: // the bridge has brought the question there
		return drop(DropHere), true
	case !at.reachable:
		return drop(DropUnreachable), true
	case len(reply) < ReplySize:
		return drop(DropReplyRoom), true
	}
	return Decision{Verdict: Answer}, true
}

// mayUse4 reports whether a station of this host with that MAC may speak for an
// IPv4 address in a VNI: it is no endpoint's, or its own, or allowed to it. That mac
// is not the MAC of an endpoint elsewhere is checked before.
func (t *Table) mayUse4(vni VNI, mac MAC, a [4]byte) bool {
	owner, held := t.directory.ip4[ip4Key(vni, a)]
	return !held || owner.mac == mac || t.allows(vni, mac, owner, netip.AddrFrom4(a))
}

// mayUse6 is mayUse4 for IPv6.
func (t *Table) mayUse6(vni VNI, mac MAC, a [16]byte) bool {
	owner, held := t.directory.ip6[makeIP6Key(vni, a)]
	return !held || owner.mac == mac || t.allows(vni, mac, owner, netip.AddrFrom16(a))
}

// mayName reports whether a station may name mac as the hardware address inside a
// packet: its own, or one that is no endpoint's.
func (t *Table) mayName(vni VNI, source, mac MAC) bool {
	if source == mac {
		return true
	}
	_, held := t.directory.macs[macKey(vni, mac)]
	return !held
}

// allows reports whether a local port's opt-outs let mac use an address that owner
// holds: the port's MACs may use the port's own addresses and those allowed to it.
// The table can't tell ports, so any port's opt-out counts; the port rules can.
func (t *Table) allows(vni VNI, mac MAC, owner addrPlace, a netip.Addr) bool {
	for _, g := range t.grants[vni] {
		if g.MAC != mac && !g.allowsMAC(mac) {
			continue
		}
		if owner.mac == g.MAC {
			return true
		}
		for _, p := range g.AllowAddresses {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

// allowsMAC reports whether a local port's opt-outs let it send from mac, which is
// no endpoint's.
func (t *Table) allowsMAC(vni VNI, mac MAC) bool {
	for _, g := range t.grants[vni] {
		if g.allowsMAC(mac) {
			return true
		}
	}
	return false
}

func (e *Endpoint) allowsMAC(mac MAC) bool {
	return e.AllowAnyMAC || slices.Contains(e.AllowMACs, mac)
}
