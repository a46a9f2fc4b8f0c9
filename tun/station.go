package tun

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// station is the Ethernet side of a host that has only an IP device: it puts
// Ethernet headers on the host's packets and takes them off the overlay's frames,
// answers ARP and ND for the host's addresses, and asks the overlay for others.
// It is pure: time comes with each call, frames to send are collected in out.
//
//	host's packet ──► fromHost ──► neighbour known ────────────► frame, header put in place
//	                     │
//	                     └──────► unknown: copy kept (bounded), request ──► out
//	overlay's frame ─► fromOverlay ─► IP for us or a group ─────► the packet inside
//	                     │
//	                     └─► ARP, ND: answer ──► out; learned ──► kept copies ──► out
//
// The caller serialises all calls.
type station struct {
	mac       [6]byte
	addresses []netip.Prefix
	resolve   func(netip.Addr) ([6]byte, bool)
	table     neighbours
	out       [][]byte // frames to send, in order; at most maxOut
	dropped   [stationDrops]uint64
}

// maxOut bounds the frames waiting in out; the newest is dropped.
const maxOut = 1024

// stationDrop is why a station dropped a frame or packet.
type stationDrop uint8

const (
	dropNotIP stationDrop = iota
	dropMalformed
	dropOtherStation
	dropUnreachable
	dropQueueFull
	dropConflict
	dropOwnNetwork
	stationDrops
)

var stationDropNames = [stationDrops]string{
	dropNotIP:        "routed_not_ip",        // a frame of a protocol that a routed host does not speak, VLAN tags among them
	dropMalformed:    "routed_malformed",     // lengths or sums that contradict each other
	dropOtherStation: "routed_other_station", // a frame for another MAC address
	dropUnreachable:  "routed_unreachable",   // nobody answered for the destination
	dropQueueFull:    "routed_queue_full",    // more was sent than is kept while a destination is asked for
	dropConflict:     "routed_conflict",      // somebody else says it has one of our addresses
	dropOwnNetwork:   "routed_no_address",    // no address of the packet's family here, so nothing to ask with
}

func newStation(mac [6]byte, addresses []netip.Prefix, resolve func(netip.Addr) ([6]byte, bool)) *station {
	if resolve == nil {
		resolve = func(netip.Addr) ([6]byte, bool) { return [6]byte{}, false }
	}
	return &station{mac: mac, addresses: addresses, resolve: resolve, table: newNeighbours()}
}

// fromHost takes the IP packet b[etherHeader:] from the host. True: b is now a
// frame to send. False: the packet was kept, and goes to out later, or dropped.
func (s *station) fromHost(now time.Time, b []byte) bool {
	destination, kind, ok := packetDestination(b[etherHeader:])
	if !ok {
		s.dropped[dropMalformed]++
		return false
	}
	var to [6]byte
	switch {
	case destination.IsMulticast():
		to = groupMAC(destination)
	case s.isBroadcast(destination):
		to = broadcast
	case destination.IsUnspecified() || destination.IsLoopback():
		s.dropped[dropUnreachable]++
		return false
	default:
		n := s.table.find(destination)
		if n == nil || n.due(now) {
			if n = s.ask(now, destination, n); n == nil {
				return false
			}
		}
		n.used = now
		if !n.known {
			s.keep(n, b, kind)
			return false
		}
		to = n.mac
	}
	putEthernet(b, to, s.mac, kind)
	return true
}

// packetDestination is where an IP packet goes, and its Ethernet type.
func packetDestination(p []byte) (netip.Addr, uint16, bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[16:20])), etherIPv4, true
	case len(p) >= ipv6Header && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:40])), etherIPv6, true
	}
	return netip.Addr{}, 0, false
}

// isBroadcast tells whether an IPv4 address means everybody, here or in one of our
// networks.
func (s *station) isBroadcast(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	bytes := a.As4()
	v := binary.BigEndian.Uint32(bytes[:])
	if v == 0xffffffff {
		return true
	}
	for _, own := range s.addresses {
		if !own.Addr().Is4() || own.Bits() >= 31 || !own.Contains(a) {
			continue
		}
		if host := uint32(1)<<(32-own.Bits()) - 1; v&host == host {
			return true
		}
	}
	return false
}

// ask finds out where a destination is, or whether it still is there: n is what is
// known of it, nil for nothing. The result is nil when the packet has no way.
func (s *station) ask(now time.Time, destination netip.Addr, n *neighbour) *neighbour {
	if mac, ok := s.resolve(destination); ok && stationMAC(mac) {
		if n == nil {
			n = s.table.add(destination)
		}
		s.confirm(now, n, mac)
		return n
	}
	source := s.sourceFor(destination)
	if !source.IsValid() {
		s.dropped[dropOwnNetwork]++
		return nil
	}
	switch {
	case n == nil:
		n = s.table.add(destination)
		s.unresolve(now, n)
	case n.tries >= maxTries: // it stopped answering
		n.known = false
		s.unresolve(now, n)
	default:
		n.tries++
		n.next = now.Add(retryAfter)
		s.request(source, destination, n.mac)
		return n
	}
	s.request(source, destination, [6]byte{})
	return n
}

// sourceFor is our address to ask for a destination with: the one in the same
// network, else any of the family.
func (s *station) sourceFor(destination netip.Addr) netip.Addr {
	var any netip.Addr
	for _, own := range s.addresses {
		if own.Addr().Is4() != destination.Is4() {
			continue
		}
		if own.Contains(destination) {
			return own.Addr()
		}
		if !any.IsValid() {
			any = own.Addr()
		}
	}
	return any
}

// request asks for an address: one station, or everybody when the MAC is zero.
func (s *station) request(source, target netip.Addr, mac [6]byte) {
	if target.Is4() {
		to := mac
		if mac == ([6]byte{}) {
			to = broadcast
		}
		s.emit(arpMessage{op: arpRequest, senderMAC: s.mac, sender: source, target: target}.frame(to))
		return
	}
	m := ndMessage{kind: ndSolicitation, source: source, destination: target, target: target, mac: s.mac, hasMAC: true}
	to := mac
	if mac == ([6]byte{}) {
		m.destination = solicitedNode(target)
		to = groupMAC(m.destination)
	}
	s.emit(m.frame(to, s.mac))
}

// unresolve begins to ask for a neighbour.
func (s *station) unresolve(now time.Time, n *neighbour) {
	if old := s.table.unresolve(n); old != nil {
		s.give(old)
	}
	n.tries, n.next = 1, now.Add(retryAfter)
}

// keep copies a packet until its destination is known.
func (s *station) keep(n *neighbour, b []byte, kind uint16) {
	if len(n.kept) >= maxKept || s.table.bytes+len(b) > maxKeptBytes {
		s.dropped[dropQueueFull]++
		return
	}
	frame := slices.Clone(b)
	putEthernet(frame, [6]byte{}, s.mac, kind)
	n.kept = append(n.kept, frame)
	s.table.bytes += len(frame)
}

// give drops what is kept for a neighbour that does not answer, and forgets it.
func (s *station) give(n *neighbour) {
	s.dropped[dropUnreachable] += uint64(len(n.kept))
	s.table.remove(n)
}

// confirm notes where a neighbour is, and sends what was kept for it.
func (s *station) confirm(now time.Time, n *neighbour, mac [6]byte) {
	n.mac, n.known, n.confirmed, n.tries, n.next = mac, true, now, 0, now
	for _, frame := range s.table.resolve(n) {
		copy(frame, mac[:])
		s.emit(frame)
	}
}

// heard notes what an address says of itself; create: also if it was not known.
func (s *station) heard(now time.Time, address netip.Addr, mac [6]byte, create bool) {
	if !stationMAC(mac) || address.IsUnspecified() || address.IsMulticast() {
		return
	}
	if mac == s.mac || s.own(address) {
		s.dropped[dropConflict]++
		return
	}
	n := s.table.find(address)
	if n == nil {
		if !create {
			return
		}
		n = s.table.add(address)
		n.used = now
	}
	s.confirm(now, n, mac)
}

func (s *station) own(a netip.Addr) bool {
	for _, own := range s.addresses {
		if own.Addr() == a {
			return true
		}
	}
	return false
}

// emit queues a frame to send.
func (s *station) emit(frame []byte) {
	if len(s.out) >= maxOut {
		s.dropped[dropQueueFull]++
		return
	}
	s.out = append(s.out, frame)
}

// announce tells everybody where our addresses are, by one gratuitous ARP
// (RFC 5227 3) or unsolicited advertisement (RFC 4861 7.2.6) each.
func (s *station) announce() {
	for _, own := range s.addresses {
		a := own.Addr()
		if a.Is4() {
			s.emit(arpMessage{op: arpRequest, senderMAC: s.mac, sender: a, target: a}.frame(broadcast))
			continue
		}
		m := ndMessage{kind: ndAdvertisement, source: a, destination: allNodes, target: a, flags: ndFlagOverride, mac: s.mac, hasMAC: true}
		s.emit(m.frame(groupMAC(allNodes), s.mac))
	}
}

// tick asks again for what has not answered and gives up what was asked for often
// enough. The result is when it is due next; zero: not before something is asked.
func (s *station) tick(now time.Time) time.Time {
	for _, n := range slices.Clone(s.table.unresolved) {
		if n.next.After(now) {
			continue
		}
		if mac, ok := s.resolve(n.address); ok && stationMAC(mac) {
			s.confirm(now, n, mac)
			continue
		}
		if n.tries >= maxTries {
			s.give(n)
			continue
		}
		n.tries++
		n.next = now.Add(retryAfter)
		s.request(s.sourceFor(n.address), n.address, [6]byte{})
	}
	var due time.Time
	for _, n := range s.table.unresolved {
		if due.IsZero() || n.next.Before(due) {
			due = n.next
		}
	}
	return due
}

// concernsLink tells, without the station's state, whether a frame from the overlay
// concerns the link itself (ARP, neighbour discovery) and so goes to fromOverlay;
// all others go to packetIn.
func concernsLink(frame []byte) bool {
	if len(frame) < etherMinimum {
		return false
	}
	switch binary.BigEndian.Uint16(frame[etherType:]) {
	case etherARP:
		return true
	case etherIPv6:
		return isND(frame[etherHeader:])
	}
	return false
}

// packetIn is the length of the IP packet that stands at frame[etherHeader:] if it
// is for this host; else the reason why not. It reads only what never changes.
func (s *station) packetIn(frame []byte) (length int, drop stationDrop, ok bool) {
	if len(frame) < etherMinimum {
		return 0, dropMalformed, false
	}
	if frame[0]&1 == 0 && [6]byte(frame[:6]) != s.mac {
		return 0, dropOtherStation, false
	}
	p := frame[etherHeader:]
	switch binary.BigEndian.Uint16(frame[etherType:]) {
	case etherIPv4:
		if len(p) < 20 || p[0]>>4 != 4 {
			return 0, dropMalformed, false
		}
		header, total := int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:]))
		if header < 20 || total < header || total > len(p) {
			return 0, dropMalformed, false
		}
		return total, 0, true // without the padding of short frames
	case etherIPv6:
		if len(p) < ipv6Header || p[0]>>4 != 6 {
			return 0, dropMalformed, false
		}
		total := ipv6Header + int(binary.BigEndian.Uint16(p[4:]))
		if total > len(p) {
			return 0, dropMalformed, false
		}
		return total, 0, true
	}
	return 0, dropNotIP, false
}

// fromOverlay takes a frame for which concernsLink holds.
func (s *station) fromOverlay(now time.Time, frame []byte) {
	if frame[0]&1 == 0 && [6]byte(frame[:6]) != s.mac {
		s.dropped[dropOtherStation]++
		return
	}
	if binary.BigEndian.Uint16(frame[etherType:]) == etherARP {
		m, ok := parseARP(frame[etherHeader:])
		if !ok {
			s.dropped[dropMalformed]++
			return
		}
		s.fromARP(now, m)
		return
	}
	length, drop, ok := s.packetIn(frame)
	if !ok {
		s.dropped[drop]++
		return
	}
	p := frame[etherHeader : etherHeader+length]
	if !isND(p) { // it was one only with the padding behind it
		s.dropped[dropMalformed]++
		return
	}
	if kind := p[ipv6Header]; kind != ndSolicitation && kind != ndAdvertisement {
		s.dropped[dropNotIP]++ // routers of the overlay have no say over this host's routes
		return
	}
	m, ok := parseND(p)
	if !ok {
		s.dropped[dropMalformed]++
		return
	}
	s.fromND(now, m, [6]byte(frame[etherSource:etherType]))
}

func (s *station) fromARP(now time.Time, m arpMessage) {
	forUs := s.own(m.target)
	s.heard(now, m.sender, m.senderMAC, forUs && m.op == arpRequest)
	if m.op == arpRequest && forUs && m.sender != m.target {
		s.emit(arpMessage{op: arpReply, senderMAC: s.mac, sender: m.target, targetMAC: m.senderMAC, target: m.sender}.frame(m.senderMAC))
	}
}

func (s *station) fromND(now time.Time, m ndMessage, from [6]byte) {
	if m.kind == ndAdvertisement {
		if m.hasMAC {
			s.heard(now, m.target, m.mac, false)
		} else {
			s.heard(now, m.target, from, false) // a unicast answer may leave it out (RFC 4861 4.4)
		}
		return
	}
	forUs := s.own(m.target)
	if m.hasMAC {
		s.heard(now, m.source, m.mac, forUs)
	}
	if !forUs {
		return
	}
	answer := ndMessage{kind: ndAdvertisement, source: m.target, destination: m.source, target: m.target,
		flags: ndFlagSolicited | ndFlagOverride, mac: s.mac, hasMAC: true}
	to := from
	if m.source.IsUnspecified() {
		answer.destination, answer.flags, to = allNodes, ndFlagOverride, groupMAC(allNodes)
	}
	s.emit(answer.frame(to, s.mac))
}
