package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"ripstop/crypto"
)

const (
	minRangeBits = 2  // a range has at least 4 addresses
	maxRangeBits = 24 // and at most 16 777 216
	maxBlockSize = 64 // addresses; a block's state is one word
)

// DefaultRange is the range of a network that names none.
var DefaultRange = netip.MustParsePrefix("10.32.0.0/12")

// layout cuts a range into equal blocks. Addresses are numbered from the start of
// the range (offsets), blocks from 0.
type layout struct {
	prefix netip.Prefix
	total  uint32 // addresses
	size   uint32 // addresses of a block, a power of two up to 64
	blocks uint32
}

// newLayout cuts prefix into blocks of clamp(N/1024, 1, 64) addresses.
func newLayout(prefix netip.Prefix) (layout, error) {
	if !prefix.IsValid() || prefix.Addr().Is4In6() {
		return layout{}, fmt.Errorf("ipam: range %v: not a prefix", prefix)
	}
	if prefix != prefix.Masked() {
		return layout{}, fmt.Errorf("ipam: range %v: has host bits set, %v was meant", prefix, prefix.Masked())
	}
	host := prefix.Addr().BitLen() - prefix.Bits()
	if host < minRangeBits || host > maxRangeBits {
		return layout{}, fmt.Errorf("ipam: range %v: must have 4 to 16777216 addresses: /%d to /%d",
			prefix, prefix.Addr().BitLen()-maxRangeBits, prefix.Addr().BitLen()-minRangeBits)
	}
	l := layout{prefix: prefix, total: 1 << host}
	l.size = min(max(l.total/1024, 1), maxBlockSize)
	l.blocks = l.total / l.size
	return l, nil
}

// offset numbers an address of the range.
func (l layout) offset(a netip.Addr) (uint32, bool) {
	if !l.prefix.Contains(a) {
		return 0, false
	}
	b := a.As16()
	return binary.BigEndian.Uint32(b[12:]) & (l.total - 1), true
}

// addr is the address of an offset.
func (l layout) addr(offset uint32) netip.Addr {
	b := l.prefix.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])|offset)
	if l.prefix.Addr().Is4() {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

// block is the block of an address of the range.
func (l layout) block(a netip.Addr) (uint32, bool) {
	o, ok := l.offset(a)
	return o / l.size, ok
}

// span is the interval [lo, hi) of offsets that subnet has in the range.
func (l layout) span(subnet netip.Prefix) (lo, hi uint32) {
	if !l.prefix.Overlaps(subnet) {
		return 0, 0
	}
	if subnet.Bits() <= l.prefix.Bits() {
		return 0, l.total
	}
	lo, _ = l.offset(subnet.Addr())
	return lo, lo + l.total>>(subnet.Bits()-l.prefix.Bits())
}

// usable is span without the subnet's own address and its broadcast address,
// which a host cannot have; subnets of one or two addresses have neither.
func (l layout) usable(subnet netip.Prefix) (lo, hi uint32) {
	lo, hi = l.span(subnet)
	if lo == hi || subnet.Addr().BitLen()-subnet.Bits() < 2 {
		return lo, hi
	}
	if l.addr(lo) == subnet.Masked().Addr() {
		lo++
	}
	if subnet.Addr().Is4() && !subnet.Contains(l.addr(hi-1).Next()) {
		hi--
	}
	return lo, max(lo, hi)
}

// mask has a bit for each address of block b that is in [lo, hi).
func (l layout) mask(b, lo, hi uint32) uint64 {
	first := b * l.size
	from, to := max(lo, first), min(hi, first+l.size)
	if from >= to {
		return 0
	}
	return ^uint64(0) << (from - first) & (^uint64(0) >> (64 - (to - first)))
}

// whole has a bit for each address of a block.
func (l layout) whole() uint64 { return ^uint64(0) >> (64 - l.size) }

// founder says which of n founders a block belongs to before its first step:
// equal parts, in address order.
func (l layout) founder(b uint32, n int) int {
	return int(uint64(b) * uint64(n) / uint64(l.blocks))
}

// ULA is the /64 that every host of a network derives from the network's ID. The
// twin of an IPv4 address stands in its last 32 bits.
func ULA(network crypto.NetworkID) netip.Prefix {
	h := sha256.Sum256(append([]byte("ripstop ula v1"), network[:]...))
	var b [16]byte
	b[0] = 0xfd
	copy(b[1:8], h[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// Twin is the IPv6 address that belongs to an IPv4 address of the range: who holds
// the one holds the other, so it needs no map of its own.
func Twin(network crypto.NetworkID, a netip.Addr) netip.Prefix {
	b := ULA(network).Addr().As16()
	v4 := a.As4()
	copy(b[12:], v4[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// TwinOf is the IPv4 address that an address of the ULA is the twin of. Other addresses
// of the ULA are nobody's: ok is false.
func TwinOf(network crypto.NetworkID, twin netip.Addr) (a netip.Addr, ok bool) {
	b := twin.As16()
	a = netip.AddrFrom4([4]byte(b[12:]))
	return a, Twin(network, a).Addr() == twin
}

// lowest is the position of the lowest bit, which must exist.
func lowest(mask uint64) uint32 { return uint32(bits.TrailingZeros64(mask)) }
