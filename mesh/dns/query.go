package dns

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	optLen    = 11 // an EDNS record without options
	// maxQuery bounds what is read as a question over UDP.
	maxQuery = 4096
	// minSize and maxSize bound an answer over UDP: without EDNS, and what passes every
	// path without fragments (1232 = 1280 - 40 - 8; the overlay carries more).
	minSize = 512
	maxSize = 1232
	maxTCP  = 65535
)

const (
	flagResponse = 1 << 15
	flagAnswer   = 1 << 10 // authoritative
	flagCut      = 1 << 9  // truncated
	flagDesired  = 1 << 8  // recursion
	flagRecurse  = 1 << 7  // recursion is available
	opcodeBits   = 0xf << 11
)

// question is the common query: one question of class IN, and perhaps an EDNS record
// without options.
//
//	0   2      4   6   8   10  12
//	+---+------+---+---+---+---+------------+-----+-----+ +-----------+
//	|id |flags |1  |0  |0  |0/1| labels, 0  |type |class| | OPT       |
//	+---+------+---+---+---+---+------------+-----+-----+ +-----------+
type question struct {
	name  []byte // lower case text, without the dot at the end
	kind  uint16
	end   int // of the question section
	edns  bool
	size  int // how long an answer may be over UDP
	class uint16
}

// parseQuestion reads a query of the common form; false means that it has another, or
// none. The name is put into buf. It does not allocate.
func parseQuestion(b []byte, buf *[256]byte) (q question, ok bool) {
	if len(b) < headerLen || binary.BigEndian.Uint16(b[2:])&(flagResponse|opcodeBits) != 0 ||
		binary.BigEndian.Uint32(b[4:]) != 1<<16 || b[8] != 0 || b[9] != 0 || b[10] != 0 || b[11] > 1 {
		return q, false
	}
	at, n := headerLen, 0
	for {
		if at >= len(b) {
			return q, false
		}
		length := int(b[at])
		at++
		if length == 0 {
			break
		}
		if length > maxLabel || at+length > len(b) || n+length+1 > len(buf) {
			return q, false
		}
		if n > 0 {
			buf[n] = '.'
			n++
		}
		for _, c := range b[at : at+length] {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return q, false
			}
			buf[n] = c
			n++
		}
		at += length
	}
	if at+4 > len(b) || n > maxName {
		return q, false
	}
	q = question{name: buf[:n], kind: binary.BigEndian.Uint16(b[at:]), class: binary.BigEndian.Uint16(b[at+2:]), end: at + 4, size: minSize}
	if q.class != dns.ClassINET {
		return q, false
	}
	rest := b[q.end:]
	if b[11] == 0 {
		return q, len(rest) == 0
	}
	// root name, type 41, size, extended code 0, version 0, flags, no options
	if len(rest) != optLen || rest[0] != 0 || rest[1] != 0 || rest[2] != byte(dns.TypeOPT) || rest[5] != 0 || rest[6] != 0 || rest[9] != 0 || rest[10] != 0 {
		return q, false
	}
	q.edns, q.size = true, answerSize(binary.BigEndian.Uint16(rest[3:]))
	return q, true
}

// answerSize is how long an answer over UDP may be to somebody who takes so much.
func answerSize(takes uint16) int { return min(max(int(takes), minSize), maxSize) }

// parseReverse reads the address from a name under in-addr.arpa or ip6.arpa.
func parseReverse(name []byte) (netip.Addr, bool) {
	const v4, v6 = ".in-addr.arpa", ".ip6.arpa"
	switch {
	case len(name) > len(v4) && string(name[len(name)-len(v4):]) == v4:
		var a [4]byte
		at := 4
		for part := name[:len(name)-len(v4)]; at > 0; {
			end := len(part)
			for i, c := range part {
				if c == '.' {
					end = i
					break
				}
			}
			n, err := strconv.ParseUint(string(part[:end]), 10, 8)
			if err != nil || end > 1 && part[0] == '0' {
				return netip.Addr{}, false
			}
			at--
			a[at] = byte(n)
			if end == len(part) {
				part = nil
			} else {
				part = part[end+1:]
			}
			if (at == 0) != (part == nil) {
				return netip.Addr{}, false
			}
		}
		return netip.AddrFrom4(a), true
	case len(name) == 63+len(v6) && string(name[63:]) == v6:
		var a [16]byte
		for i := range 32 {
			c := name[2*i]
			if i < 31 && name[2*i+1] != '.' {
				return netip.Addr{}, false
			}
			switch {
			case c >= '0' && c <= '9':
				c -= '0'
			case c >= 'a' && c <= 'f':
				c -= 'a' - 10
			default:
				return netip.Addr{}, false
			}
			a[15-i/2] |= c << (4 * (i % 2))
		}
		return netip.AddrFrom16(a), true
	}
	return netip.Addr{}, false
}
