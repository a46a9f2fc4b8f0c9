package dns

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Verdict is what is to be done with a query.
type Verdict uint8

// The verdicts.
const (
	Drop     Verdict = iota // it is no query: nothing is said
	Answered                // the answer stands behind dst
	Forward                 // the name is not of this zone: ask upstream
)

// maxShown is how many addresses an answer has at the most: 2000 AAAA records fit
// into one message over TCP.
const maxShown = 2000

// Answer appends the answer to a query behind dst. Over TCP it may be 65535 bytes
// long, else as long as the query says. turn says which of several addresses stands
// first: the caller draws it.
//
// The common questions, those for an address or a name of one that there is, are
// answered from the tables at once; everything else is left to miekg/dns.
func (z *Zone) Answer(dst, query []byte, tcp bool, turn uint32) ([]byte, Verdict) {
	var buf [256]byte
	if q, ok := parseQuestion(query, &buf); ok {
		if tcp {
			q.size = maxTCP
		}
		if out, ok := z.quick(dst, query, &q, turn); ok {
			return out, Answered
		}
	}
	return z.slow(dst, query, tcp, turn)
}

// quick answers A, AAAA and PTR where there is something to be said and it fits.
func (z *Zone) quick(dst, query []byte, q *question, turn uint32) ([]byte, bool) {
	switch q.kind {
	case dns.TypeA, dns.TypeAAAA:
		name, ok := z.under(q.name)
		if !ok {
			return dst, false
		}
		e := z.find(name)
		if e == nil {
			return dst, false
		}
		if q.kind == dns.TypeA {
			return put(dst, query, q, e.v4, 4, turn)
		}
		return put(dst, query, q, e.v6, 16, turn)
	case dns.TypePTR:
		a, ok := parseReverse(q.name)
		if !ok {
			return dst, false
		}
		records := z.pointed(a)
		if len(records) != 1 {
			return dst, false
		}
		return z.putPointer(dst, query, q, records[0].Name)
	}
	return dst, false
}

// under cuts the domain off a name.
func (z *Zone) under(name []byte) ([]byte, bool) {
	n := len(name) - len(z.domain) - 1
	if n <= 0 || name[n] != '.' || string(name[n+1:]) != z.domain {
		return nil, false
	}
	return name[:n], true
}

// put writes an answer with those addresses, each of width bytes; not when there are
// none, or they do not fit.
func put(dst, query []byte, q *question, addresses []byte, width int, turn uint32) ([]byte, bool) {
	n := len(addresses) / width
	length := q.end + n*(12+width)
	if q.edns {
		length += optLen
	}
	if n == 0 || n > maxShown || length > q.size {
		return dst, false
	}
	dst = putHead(dst, query, q, n)
	for i := range n {
		dst = append(dst, 0xc0, headerLen, byte(q.kind>>8), byte(q.kind), 0, dns.ClassINET, 0, 0, 0, TTL, 0, byte(width))
		dst = append(dst, nth(addresses, width, i, turn)...)
	}
	return putOPT(dst, query, q), true
}

// nth is the i-th address when it is the turn's turn to stand first.
func nth(addresses []byte, width, i int, turn uint32) []byte {
	n := len(addresses) / width
	at := (int(turn%uint32(n)) + i) % n * width
	return addresses[at : at+width]
}

// putPointer writes an answer with one name.
func (z *Zone) putPointer(dst, query []byte, q *question, name string) ([]byte, bool) {
	length := len(name) + len(z.domain) + 3
	if q.end+12+length+optLen > q.size {
		return dst, false
	}
	dst = putHead(dst, query, q, 1)
	dst = append(dst, 0xc0, headerLen, 0, byte(dns.TypePTR), 0, dns.ClassINET, 0, 0, 0, TTL, byte(length>>8), byte(length))
	for _, part := range [...]string{name, z.domain} {
		for label := range strings.SplitSeq(part, ".") {
			dst = append(dst, byte(len(label)))
			dst = append(dst, label...)
		}
	}
	return putOPT(append(dst, 0), query, q), true
}

// putHead writes header and question.
func putHead(dst, query []byte, q *question, answers int) []byte {
	at := len(dst)
	dst = append(dst, query[:q.end]...)
	flags := binary.BigEndian.Uint16(query[2:])&flagDesired | flagResponse | flagAnswer | flagRecurse
	binary.BigEndian.PutUint16(dst[at+2:], flags)
	binary.BigEndian.PutUint16(dst[at+6:], uint16(answers))
	return dst
}

// putOPT answers EDNS with EDNS.
func putOPT(dst, query []byte, q *question) []byte {
	if !q.edns {
		return dst
	}
	asked := query[q.end:]
	return append(dst, 0, 0, byte(dns.TypeOPT), maxSize>>8, maxSize&0xff, 0, 0, asked[7]&0x80, 0, 0, 0)
}

// slow answers every other query, or says that it is to be forwarded.
func (z *Zone) slow(dst, query []byte, tcp bool, turn uint32) ([]byte, Verdict) {
	if len(query) < headerLen || query[2]&(flagResponse>>8) != 0 {
		return dst, Drop
	}
	ask := new(dns.Msg)
	if err := ask.Unpack(query); err != nil {
		return refuse(dst, query, dns.RcodeFormatError), Answered
	}
	reply := new(dns.Msg)
	reply.SetReply(ask)
	reply.Compress, reply.RecursionAvailable = true, true
	size := minSize
	opt := ask.IsEdns0()
	if opt != nil {
		size = answerSize(opt.UDPSize())
		reply.SetEdns0(maxSize, opt.Do())
	}
	if tcp {
		size = maxTCP
	}
	switch {
	case ask.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
	case len(ask.Question) != 1:
		reply.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		reply.Rcode = dns.RcodeBadVers
	case ask.Question[0].Qclass != dns.ClassINET && ask.Question[0].Qclass != dns.ClassANY:
		reply.Rcode = dns.RcodeRefused
	default:
		if !z.fill(reply, turn) {
			if q := ask.Question[0].Qtype; ask.RecursionDesired && q != dns.TypeAXFR && q != dns.TypeIXFR {
				return dst, Forward
			}
			reply.Rcode = dns.RcodeRefused
		}
	}
	reply.Truncate(size)
	out, err := reply.Pack()
	if err != nil || len(out) > size {
		return refuse(dst, query, dns.RcodeServerFailure), Answered
	}
	return append(dst, out...), Answered
}

// refuse appends an answer that says no more than why there is none, with the question
// where it can be told: without it some stub resolvers do not believe an answer.
func refuse(dst, query []byte, code byte) []byte {
	flags := query[2]&(opcodeBits>>8|flagDesired>>8) | flagResponse>>8
	end, ok := questionEnd(query)
	if !ok {
		return append(dst, query[0], query[1], flags, flagRecurse|code, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	dst = append(dst, query[0], query[1], flags, flagRecurse|code, 0, 1, 0, 0, 0, 0, 0, 0)
	return append(dst, query[headerLen:end]...)
}

// fill answers the question; false when it is not this zone's.
func (z *Zone) fill(m *dns.Msg, turn uint32) bool {
	q := m.Question[0]
	text := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if a, ok := parseReverse([]byte(text)); ok {
		return z.fillReverse(m, q, a)
	}
	if !dns.IsSubDomain(z.domain+".", q.Name) {
		return false
	}
	m.Authoritative = true
	wants := func(kind uint16) bool { return q.Qtype == kind || q.Qtype == dns.TypeANY }
	soa := &dns.SOA{Hdr: head(z.domain+".", dns.TypeSOA), Ns: z.domain + ".", Mbox: "hostmaster." + z.domain + ".",
		Serial: z.serial, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: TTL}
	if text == z.domain {
		if wants(dns.TypeSOA) {
			m.Answer = append(m.Answer, soa)
		}
		if wants(dns.TypeNS) {
			m.Answer = append(m.Answer, &dns.NS{Hdr: head(q.Name, dns.TypeNS), Ns: z.domain + "."})
		}
	} else if name, ok := z.under([]byte(text)); ok {
		e := z.find(name)
		switch {
		case e == nil:
			m.Rcode = dns.RcodeNameError
		case wants(dns.TypeA) || wants(dns.TypeAAAA) || wants(dns.TypeSRV):
			if wants(dns.TypeA) {
				m.Answer = append(m.Answer, addressRecords(q.Name, e.v4, 4, turn)...)
			}
			if wants(dns.TypeAAAA) {
				m.Answer = append(m.Answer, addressRecords(q.Name, e.v6, 16, turn)...)
			}
			if wants(dns.TypeSRV) {
				z.fillServices(m, e, q.Name, turn)
			}
		}
	} else {
		m.Rcode = dns.RcodeNameError // characters that no name of ours has
	}
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, soa)
	}
	return true
}

// fillServices adds an entry's services, and the addresses of their targets.
func (z *Zone) fillServices(m *dns.Msg, e *entry, name string, turn uint32) {
	type place struct {
		target string
		port   uint16
	}
	seen := make(map[place]bool)
	var places []place
	for _, r := range e.records {
		if p := (place{r.Target, r.Port}); r.Port != 0 && !seen[p] && len(places) < maxShown/10 {
			seen[p] = true
			places = append(places, p)
		}
	}
	told := make(map[string]bool)
	for i := range places {
		p := places[(int(turn%uint32(len(places)))+i)%len(places)]
		target := z.Full(p.target) + "."
		m.Answer = append(m.Answer, &dns.SRV{Hdr: head(name, dns.TypeSRV), Port: p.port, Target: target})
		at := z.find([]byte(p.target))
		if at == nil || told[target] || len(m.Extra) > maxShown/10 {
			continue
		}
		told[target] = true
		m.Extra = append(m.Extra, addressRecords(target, at.v4, 4, turn)...)
		m.Extra = append(m.Extra, addressRecords(target, at.v6, 16, turn)...)
	}
}

// addressRecords are A or AAAA records of those addresses.
func addressRecords(name string, addresses []byte, width int, turn uint32) []dns.RR {
	records := make([]dns.RR, 0, len(addresses)/width)
	for i := range min(len(addresses)/width, maxShown) {
		a := net.IP(nth(addresses, width, i, turn))
		if width == 4 {
			records = append(records, &dns.A{Hdr: head(name, dns.TypeA), A: a})
		} else {
			records = append(records, &dns.AAAA{Hdr: head(name, dns.TypeAAAA), AAAA: a})
		}
	}
	return records
}

// head is what every record of ours begins with.
func head(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: TTL}
}

// fillReverse answers for an address; false when it is nobody's here.
func (z *Zone) fillReverse(m *dns.Msg, q dns.Question, a netip.Addr) bool {
	names := z.Reverse(a)
	if len(names) == 0 {
		return false
	}
	m.Authoritative = true
	if q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
		for _, name := range names {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: head(q.Name, dns.TypePTR), Ptr: z.Full(name) + "."})
		}
	}
	return true
}

// sameQuestion reports whether an answer is one to that query: its number, and the
// question but for upper and lower case.
func sameQuestion(query, answer []byte) bool {
	end, ok := questionEnd(query)
	if !ok || len(answer) < end || answer[2]&(flagResponse>>8) == 0 || !bytes.Equal(query[:2], answer[:2]) || !bytes.Equal(query[4:6], answer[4:6]) {
		return false
	}
	return bytes.EqualFold(query[headerLen:end], answer[headerLen:end])
}

// questionEnd is where the one question of a query ends; its name is not compressed.
func questionEnd(b []byte) (int, bool) {
	if len(b) < headerLen || b[4] != 0 || b[5] != 1 {
		return 0, false
	}
	at := headerLen
	for at < len(b) && b[at] != 0 {
		if b[at] > maxLabel {
			return 0, false
		}
		at += 1 + int(b[at])
	}
	if at++; at-headerLen > maxWireName {
		return 0, false
	}
	if at += 4; at > len(b) {
		return 0, false
	}
	return at, true
}
