package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"ripstop/crypto"
)

var (
	errTruncated = errors.New("ipam: message ends early")
	errTrailing  = errors.New("ipam: bytes behind the message")
	errOrder     = errors.New("ipam: not in ascending order")
)

// reader takes fields from the front of b; after the first error all are zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = errTruncated
	}
	if r.err != nil {
		return make([]byte, min(n, 64))
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) u8() byte              { return r.take(1)[0] }
func (r *reader) u16() uint16           { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32           { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64           { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) name() crypto.Name     { return crypto.Name(r.take(16)) }
func (r *reader) hash() hash            { return hash(r.take(32)) }
func (r *reader) sig() crypto.Signature { return crypto.Signature(r.take(64)) }
func (r *reader) keys() (k crypto.PublicKeys) {
	copy(k.Noise[:], r.take(32))
	copy(k.Sign[:], r.take(32))
	return k
}

// count reads a number of things of at least size bytes each, so that no more
// memory is taken than the message can fill.
func (r *reader) count(what string, limit, size int) int {
	n := int(r.u16())
	if n > limit {
		r.fail(fmt.Errorf("ipam: %d %s, at most %d", n, what, limit))
	} else if r.err == nil && n*size > len(r.b) {
		r.fail(errTruncated)
	}
	if r.err != nil {
		return 0
	}
	return n
}

func (r *reader) text(limit int) string {
	n := int(r.u16())
	if n > limit {
		r.fail(fmt.Errorf("ipam: text of %d bytes, at most %d", n, limit))
	}
	if r.err != nil || n > len(r.b) {
		r.fail(errTruncated)
		return ""
	}
	return string(r.take(n))
}

func (r *reader) addr() netip.Addr {
	switch n := r.u8(); n {
	case 4:
		return netip.AddrFrom4([4]byte(r.take(4)))
	case 16:
		a := netip.AddrFrom16([16]byte(r.take(16)))
		if a.Is4In6() {
			r.fail(errors.New("ipam: IPv4 address in IPv6 form"))
		}
		return a
	default:
		r.fail(fmt.Errorf("ipam: address of %d bytes", n))
		return netip.Addr{}
	}
}

func (r *reader) prefix() netip.Prefix {
	a := r.addr()
	p := netip.PrefixFrom(a, int(r.u8()))
	if r.err == nil && !p.IsValid() {
		r.fail(errors.New("ipam: prefix too long"))
	}
	return p
}

func (r *reader) names(limit int) []crypto.Name {
	n := r.count("names", limit, 16)
	var names []crypto.Name
	for i := range n {
		names = append(names, r.name())
		if i > 0 && names[i-1].Compare(names[i]) >= 0 {
			r.fail(errOrder)
		}
	}
	return names
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = errTrailing
	}
	return r.err
}

func put16(b []byte, v int) []byte    { return binary.BigEndian.AppendUint16(b, uint16(v)) }
func put32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func put64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func putText(b []byte, s string) []byte { return append(put16(b, len(s)), s...) }

func putAddr(b []byte, a netip.Addr) []byte {
	return append(append(b, byte(a.BitLen()/8)), a.AsSlice()...)
}

func putPrefix(b []byte, p netip.Prefix) []byte {
	return append(putAddr(b, p.Addr()), byte(p.Bits()))
}

func putNames(b []byte, names []crypto.Name) []byte {
	b = put16(b, len(names))
	for _, n := range names {
		b = append(b, n[:]...)
	}
	return b
}

func putKeys(b []byte, k crypto.PublicKeys) []byte {
	return append(append(b, k.Noise[:]...), k.Sign[:]...)
}

func putBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
