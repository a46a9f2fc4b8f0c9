package route

import "encoding/binary"

const (
	protoICMP       = 1
	icmpUnreachable = 3
	icmpFragNeeded  = 4 // code of it
	icmpEcho        = 8
	icmpEchoReply   = 0
	icmpHeaderLen   = 8
	icmpv6TooBig    = 2
	icmpv6Errors    = 128 // types below are errors
	errorHops       = 64
	minMTUv6        = 1280 // RFC 8200 section 5
)

// Fit looks whether a frame for a peer, no super-frame, is longer than the destination's
// own interface takes. There it would vanish without a word (the kernel's veth drops it),
// so this host says to the sender what a router would: Answer, with the length of the
// reply that was written to reply, which must have ReplySize bytes. Everything else it
// leaves as it is. It does not allocate.
//
// A packet that may be cut (IPv4 without DF) is refused like others: the sender's kernel
// takes notice for those too, and cuts the next one.
func (d Decision) Fit(frame, reply []byte) (Decision, int) {
	if d.MTU == 0 || len(frame) <= ethernetLen+int(d.MTU) {
		return d, 0
	}
	e, ok := ParseEthernet(frame)
	packet := frame[e.Payload:]
	if !ok || len(packet) <= int(d.MTU) {
		return d, 0
	}
	if len(reply) < ReplySize {
		return drop(DropReplyRoom), 0
	}
	n := 0
	switch e.Type {
	case typeIPv4:
		n = putTooBig4(reply[e.Payload:ReplySize], packet, d.MTU)
	case typeIPv6:
		n = putTooBig6(reply[e.Payload:ReplySize], packet, d.MTU)
	}
	if n == 0 {
		return drop(DropTooLong), 0
	}
	copy(reply, frame[:e.Payload]) // the tags, too
	copy(reply[0:6], e.Source[:])
	copy(reply[6:12], e.Destination[:])
	return Decision{Verdict: Answer}, e.Payload + n
}

// putTooBig4 writes an IPv4 packet that says, in the name of packet's destination, that it
// takes mtu bytes only (RFC 792, RFC 1191 section 4), and returns its length; 0 where
// RFC 1122 section 3.2.2 forbids an answer.
func putTooBig4(b, packet []byte, mtu uint16) int {
	if len(packet) < ipv4Len || packet[0]>>4 != 4 {
		return 0
	}
	header := 4 * int(packet[0]&0x0f)
	later := binary.BigEndian.Uint16(packet[6:8])&0x1fff != 0 // a fragment that is not the first
	source := packet[12:16]
	switch {
	case header < ipv4Len || len(packet) < header+icmpHeaderLen || later:
		return 0
	case source[0] == 0 || source[0] == 127 || source[0] >= 224: // nobody's, or many's
		return 0
	case packet[9] == protoICMP && packet[header] != icmpEcho && packet[header] != icmpEchoReply: // perhaps an error itself
		return 0
	}
	quoted := header + icmpHeaderLen
	total := ipv4Len + icmpHeaderLen + quoted
	ip := b[:ipv4Len]
	clear(ip)
	ip[0], ip[8], ip[9] = 0x45, errorHops, protoICMP
	binary.BigEndian.PutUint16(ip[2:4], uint16(total))
	copy(ip[12:16], packet[16:20])
	copy(ip[16:20], source)
	binary.BigEndian.PutUint16(ip[10:12], internetSum(0, ip))
	icmp := b[ipv4Len:total]
	clear(icmp[:icmpHeaderLen])
	icmp[0], icmp[1] = icmpUnreachable, icmpFragNeeded
	binary.BigEndian.PutUint16(icmp[6:8], mtu)
	copy(icmp[icmpHeaderLen:], packet[:quoted])
	binary.BigEndian.PutUint16(icmp[2:4], internetSum(0, icmp))
	return total
}

// putTooBig6 is putTooBig4 for IPv6 (RFC 4443 sections 2.4 and 3.2).
func putTooBig6(b, packet []byte, mtu uint16) int {
	if len(packet) < ipv6Len || packet[0]>>4 != 6 || mtu < minMTUv6 {
		return 0
	}
	source := packet[8:24]
	if source[0] == 0xff || [16]byte(source) == [16]byte{} {
		return 0
	}
	if proto, upper, ok := ipv6Upper(packet); ok && proto == protoICMPv6 && (len(upper) == 0 || upper[0] < icmpv6Errors) {
		return 0 // an error itself
	}
	quoted := (len(b) - ipv6Len - icmpHeaderLen) &^ 1 // the packet is longer; icmpv6Sum wants it even
	ip := b[:ipv6Len]
	binary.BigEndian.PutUint32(ip[0:4], 6<<28)
	binary.BigEndian.PutUint16(ip[4:6], uint16(icmpHeaderLen+quoted))
	ip[6], ip[7] = protoICMPv6, errorHops
	copy(ip[8:24], packet[24:40])
	copy(ip[24:40], source)
	icmp := b[ipv6Len : ipv6Len+icmpHeaderLen+quoted]
	clear(icmp[:icmpHeaderLen])
	icmp[0] = icmpv6TooBig
	binary.BigEndian.PutUint32(icmp[4:8], uint32(mtu))
	copy(icmp[icmpHeaderLen:], packet[:quoted])
	binary.BigEndian.PutUint16(icmp[2:4], icmpv6Sum(ip, icmp))
	return ipv6Len + len(icmp)
}
