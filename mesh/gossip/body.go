package gossip

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"ripstop/crypto"
)

// Every body starts with its layout number; a body of another layout is not
// understood, and trailing bytes are refused.
const bodyLayout = 1

const (
	MaxNickname     = 64   // bytes
	MaxSoftware     = 32   // bytes
	MaxPeerAddress  = 32   // underlay addresses of a peer
	MaxLinks        = 1024 // links a host reports
	linkLen         = 24
	linksHeaderLen  = 3
	maxLinksBody    = linksHeaderLen + MaxLinks*linkLen
	keysLen         = 64
	maxRTTPublished = time.Duration(1<<32-1) * time.Microsecond
)

// PeerBody is what a host says of itself.
//
//	layout 1 | mode 1 | uid 8 | noise key 32 | sign key 32 | nickname length 1 | nickname |
//	software length 1 | software | count 1 | count × (family 1: 4 or 6 | address 4 or 16 | port 2)
type PeerBody struct {
	Nickname  string // at most MaxNickname bytes, printable
	UID       crypto.UID
	Keys      crypto.PublicKeys
	Addresses []netip.AddrPort // where it can be dialled; at most MaxPeerAddress
	Software  string           // at most MaxSoftware bytes, printable
	Mode      uint8            // how its device works; opaque here
}

// Append writes the body behind dst; an error means a limit was exceeded.
func (p PeerBody) Append(dst []byte) ([]byte, error) {
	if err := checkText("nickname", p.Nickname, MaxNickname); err != nil {
		return nil, err
	}
	if err := checkText("software", p.Software, MaxSoftware); err != nil {
		return nil, err
	}
	if len(p.Addresses) > MaxPeerAddress {
		return nil, fmt.Errorf("gossip: peer: %d addresses, at most %d", len(p.Addresses), MaxPeerAddress)
	}
	dst = append(dst, bodyLayout, p.Mode)
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.UID))
	dst = append(dst, p.Keys.Noise[:]...)
	dst = append(dst, p.Keys.Sign[:]...)
	dst = appendText(dst, p.Nickname)
	dst = appendText(dst, p.Software)
	dst = append(dst, byte(len(p.Addresses)))
	for _, a := range p.Addresses {
		if !dialable(a) {
			return nil, fmt.Errorf("gossip: peer: address %v cannot be dialled", a)
		}
		dst = appendAddr(dst, a.Addr())
		dst = binary.BigEndian.AppendUint16(dst, a.Port())
	}
	return dst, nil
}

// ParsePeerBody reads what Append wrote.
func ParsePeerBody(b []byte) (PeerBody, error) {
	r := reader{b: b}
	r.layout()
	var p PeerBody
	p.Mode = r.u8()
	p.UID = crypto.UID(r.u64())
	copy(p.Keys.Noise[:], r.take(32))
	copy(p.Keys.Sign[:], r.take(32))
	p.Nickname = r.text("nickname", MaxNickname)
	p.Software = r.text("software", MaxSoftware)
	n := r.count("addresses", MaxPeerAddress)
	for range n {
		a := netip.AddrPortFrom(r.addr(), r.u16())
		if r.err == nil && !dialable(a) {
			r.fail(fmt.Errorf("gossip: peer: address %v cannot be dialled", a))
		}
		if r.err != nil {
			break
		}
		p.Addresses = append(p.Addresses, a)
	}
	if err := r.end(); err != nil {
		return PeerBody{}, err
	}
	return p, nil
}

// dialable reports whether a is an address that some host could listen on.
func dialable(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.IsValid() && ip.Zone() == "" && a.Port() != 0 && !ip.IsUnspecified() && !ip.IsMulticast()
}

// LinkInfo is one end's figure for one link.
type LinkInfo struct {
	Peer crypto.Name
	RTT  time.Duration // whole microseconds; quantised by Quantise before it is published
	Loss uint8         // percent, 0 to 100
	MTU  uint16        // bytes of a datagram that the path carries; 0 = not known
	Path uint8         // transport's kind of path
}

// LinksBody are the links that are up at this end, by peer name.
//
//	layout 1 | count 2 | count × (peer 16 | RTT in µs 4 | loss 1 | MTU 2 | path 1), peers strictly ascending
type LinksBody struct{ Links []LinkInfo }

// Append writes the body behind dst in the order of names; an error means a
// limit was exceeded or a peer named twice.
func (l LinksBody) Append(dst []byte) ([]byte, error) {
	if len(l.Links) > MaxLinks {
		return nil, fmt.Errorf("gossip: links: %d, at most %d", len(l.Links), MaxLinks)
	}
	links := slices.Clone(l.Links)
	slices.SortFunc(links, func(a, b LinkInfo) int { return a.Peer.Compare(b.Peer) })
	start := len(dst)
	dst = append(dst, bodyLayout)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(links)))
	for _, k := range links {
		if k.RTT < 0 || k.RTT > maxRTTPublished {
			return nil, fmt.Errorf("gossip: links: round trip %v out of range", k.RTT)
		}
		dst = append(dst, k.Peer[:]...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(k.RTT/time.Microsecond))
		dst = append(dst, k.Loss)
		dst = binary.BigEndian.AppendUint16(dst, k.MTU)
		dst = append(dst, k.Path)
	}
	if err := checkLinks(dst[start:]); err != nil {
		return nil, err
	}
	return dst, nil
}

// ParseLinksBody reads what Append wrote.
func ParseLinksBody(b []byte) (LinksBody, error) {
	if err := checkLinks(b); err != nil {
		return LinksBody{}, err
	}
	l := LinksBody{Links: make([]LinkInfo, 0, len(b)/linkLen)}
	for b = b[linksHeaderLen:]; len(b) > 0; b = b[linkLen:] {
		l.Links = append(l.Links, LinkInfo{
			Peer: crypto.Name(b[:16]),
			RTT:  time.Duration(binary.BigEndian.Uint32(b[16:])) * time.Microsecond,
			Loss: b[20], MTU: binary.BigEndian.Uint16(b[21:]), Path: b[23],
		})
	}
	return l, nil
}

// checkLinks is ParseLinksBody without its result, so that the topology can be
// walked in the bytes themselves.
func checkLinks(b []byte) error {
	if len(b) < linksHeaderLen {
		return errTruncated
	}
	if b[0] != bodyLayout {
		return fmt.Errorf("gossip: links: layout %d", b[0])
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n > MaxLinks {
		return fmt.Errorf("gossip: links: %d, at most %d", n, MaxLinks)
	}
	if len(b) != linksHeaderLen+n*linkLen {
		return fmt.Errorf("gossip: links: %d bytes for %d links", len(b), n)
	}
	for i := range n {
		e := b[linksHeaderLen+i*linkLen:]
		if e[20] > 100 {
			return fmt.Errorf("gossip: links: loss of %d percent", e[20])
		}
		if i == 0 {
			if crypto.Name(e[:16]).IsZero() {
				return fmt.Errorf("gossip: links: a link to nobody")
			}
		} else if string(e[:16]) <= string(b[linksHeaderLen+(i-1)*linkLen:][:16]) {
			return fmt.Errorf("gossip: links: peers not ascending")
		}
	}
	return nil
}

// linkPeers walks the peers named in a links body that checkLinks has passed.
func linkPeers(b []byte, yield func(crypto.Name) bool) {
	for b = b[linksHeaderLen:]; len(b) >= linkLen; b = b[linkLen:] {
		if !yield(crypto.Name(b[:16])) {
			return
		}
	}
}

// checkText refuses what is too long or could disturb a terminal.
func checkText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("gossip: %s: %d bytes, at most %d", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("gossip: %s: not UTF-8", what)
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return fmt.Errorf("gossip: %s: unprintable character %U", what, c)
		}
	}
	return nil
}

// appendText writes a length of one byte and the text.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, byte(len(s)))
	return append(dst, s...)
}

// appendAddr writes the family (4 or 6) and the address; mapped IPv4 is written as IPv4.
func appendAddr(dst []byte, a netip.Addr) []byte {
	a = a.Unmap()
	if a.Is4() {
		dst = append(dst, 4)
	} else {
		dst = append(dst, 6)
	}
	return append(dst, a.AsSlice()...)
}

// reader takes fields from the front of b; after the first error it yields zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

// take returns the next n bytes, or n zero bytes when they are not there (n is at most 65535).
func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.b) < n {
		r.fail(errTruncated)
		return make([]byte, n)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// layout checks the first byte of a body.
func (r *reader) layout() {
	if v := r.u8(); r.err == nil && v != bodyLayout {
		r.fail(fmt.Errorf("gossip: body layout %d", v))
	}
}

// count reads a number of items, one byte.
func (r *reader) count(what string, limit int) int {
	n := int(r.u8())
	if n > limit {
		r.fail(fmt.Errorf("gossip: %d %s, at most %d", n, what, limit))
	}
	if r.err != nil {
		return 0
	}
	return n
}

func (r *reader) text(what string, limit int) string {
	n := r.count(what+" bytes", limit)
	s := string(r.take(n))
	if r.err == nil {
		if err := checkText(what, s, limit); err != nil {
			r.fail(err)
		}
	}
	return s
}

// addr reads a family and an address; a mapped IPv4 address has no second form.
func (r *reader) addr() netip.Addr {
	switch family := r.u8(); family {
	case 4:
		return netip.AddrFrom4([4]byte(r.take(4)))
	case 6:
		a := netip.AddrFrom16([16]byte(r.take(16)))
		if a.Is4In6() {
			r.fail(fmt.Errorf("gossip: mapped IPv4 address"))
		}
		return a
	default:
		r.fail(fmt.Errorf("gossip: address family %d", family))
		return netip.Addr{}
	}
}

// end refuses trailing bytes.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail(errTrailing)
	}
	return r.err
}
