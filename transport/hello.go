package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unicode"
	"unicode/utf8"

	"ripstop/crypto"
)

// Bounds of a Hello. A longer nickname or software string is cut when sent and
// refused when received; so are more addresses.
const (
	MaxNickname       = 64 // bytes of UTF-8
	MaxSoftware       = 32 // bytes of UTF-8
	MaxHelloAddresses = 32
	// MaxHelloLen is the longest Hello, below crypto's MaxHello.
	MaxHelloLen = helloFixed + 1 + MaxNickname + 1 + MaxSoftware + 1 + (MaxHelloAddresses+1)*maxAddrPort
	helloFixed  = 1 + 8 + 8 + 2
	maxAddrPort = 1 + 16 + 2
	maxAge      = 1 << 42 // ms, 139 years
)

// helloVersion is the first byte of a Hello. Bytes behind the fields of version 1
// are ignored, so that fields can be added without a new number.
const helloVersion = 1

// Hello is what the two ends of a control connection tell each other of
// themselves, once both have proved the network's secret:
//
//	version 1 | UID 8 | age 8 | port 2 |
//	nickname 1+n | software 1+n | observed 1+n | addresses 1, each 1+n
//
// where an address is its length (0, 4 or 16), its bytes and the port.
type Hello struct {
	UID       crypto.UID       // this run of the sender, not 0
	Age       time.Duration    // of this run, in whole milliseconds: tells the older of two with one key
	Nickname  string           // for people; printable
	Software  string           // program and version, printable
	Port      uint16           // where the sender listens, TCP and UDP
	Addresses []netip.AddrPort // where the sender thinks it can be reached
	Observed  netip.AddrPort   // where the sender sees the receiver; the zero value when it cannot tell
}

// Append appends the Hello to b. Texts too long are cut at a rune's border and
// the list of addresses at MaxHelloAddresses.
func (h Hello) Append(b []byte) []byte {
	b = append(b, helloVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(h.UID))
	b = binary.BigEndian.AppendUint64(b, uint64(max(0, h.Age).Milliseconds()))
	b = binary.BigEndian.AppendUint16(b, h.Port)
	b = appendText(b, h.Nickname, MaxNickname)
	b = appendText(b, h.Software, MaxSoftware)
	b = appendAddrPort(b, h.Observed)
	addresses := h.Addresses[:min(len(h.Addresses), MaxHelloAddresses)]
	b = append(b, byte(len(addresses)))
	for _, a := range addresses {
		b = appendAddrPort(b, a)
	}
	return b
}

// errShort is the cause of every parse error of bytes that end too early.
var errShort = errors.New("too short")

// ParseHello reads what Append wrote. It takes no memory beyond the bounds above.
func ParseHello(b []byte) (Hello, error) {
	h, err := parseHello(b)
	if err != nil {
		return Hello{}, fmt.Errorf("transport: parse hello: %w", err)
	}
	return h, nil
}

func parseHello(b []byte) (h Hello, err error) {
	if len(b) < helloFixed {
		return h, errShort
	}
	if b[0] != helloVersion {
		return h, fmt.Errorf("unknown version %d", b[0])
	}
	h.UID = crypto.UID(binary.BigEndian.Uint64(b[1:]))
	if h.UID == 0 {
		return h, errors.New("uid 0")
	}
	age := binary.BigEndian.Uint64(b[9:])
	if age > maxAge {
		return h, fmt.Errorf("age of %d ms", age)
	}
	h.Age = time.Duration(age) * time.Millisecond
	h.Port = binary.BigEndian.Uint16(b[17:])
	b = b[helloFixed:]
	if h.Nickname, b, err = parseText(b, MaxNickname); err != nil {
		return h, fmt.Errorf("nickname: %w", err)
	}
	if h.Software, b, err = parseText(b, MaxSoftware); err != nil {
		return h, fmt.Errorf("software: %w", err)
	}
	if h.Observed, b, err = parseAddrPort(b); err != nil {
		return h, fmt.Errorf("observed address: %w", err)
	}
	if len(b) < 1 {
		return h, errShort
	}
	n := int(b[0])
	b = b[1:]
	if n > MaxHelloAddresses {
		return h, fmt.Errorf("%d addresses, more than %d", n, MaxHelloAddresses)
	}
	if n == 0 {
		return h, nil
	}
	h.Addresses = make([]netip.AddrPort, n)
	for i := range h.Addresses {
		if h.Addresses[i], b, err = parseAddrPort(b); err != nil {
			return h, fmt.Errorf("address %d: %w", i, err)
		}
		if !h.Addresses[i].IsValid() {
			return h, fmt.Errorf("address %d: empty", i)
		}
	}
	return h, nil
}

// appendText appends one length byte and at most limit bytes of s, limit below 256.
func appendText(b []byte, s string, limit int) []byte {
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 {
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	b = append(b, byte(len(s)))
	return append(b, s...)
}

// parseText reads a text that people will see, so only printable runes pass.
func parseText(b []byte, limit int) (string, []byte, error) {
	if len(b) < 1 {
		return "", nil, errShort
	}
	n := int(b[0])
	b = b[1:]
	if n > limit {
		return "", nil, fmt.Errorf("%d bytes, more than %d", n, limit)
	}
	if len(b) < n {
		return "", nil, errShort
	}
	s := string(b[:n])
	if !utf8.ValidString(s) {
		return "", nil, errors.New("not UTF-8")
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return "", nil, errors.New("not printable")
		}
	}
	return s, b[n:], nil
}

// appendAddrPort appends an address without its zone, IPv4 in IPv6 form unmapped.
func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	addr := a.Addr().Unmap().AsSlice()
	b = append(b, byte(len(addr)))
	if len(addr) == 0 {
		return b
	}
	b = append(b, addr...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

func parseAddrPort(b []byte) (netip.AddrPort, []byte, error) {
	if len(b) < 1 {
		return netip.AddrPort{}, nil, errShort
	}
	n := int(b[0])
	b = b[1:]
	switch n {
	case 0:
		return netip.AddrPort{}, b, nil
	case 4, 16:
	default:
		return netip.AddrPort{}, nil, fmt.Errorf("an address of %d bytes", n)
	}
	if len(b) < n+2 {
		return netip.AddrPort{}, nil, errShort
	}
	addr, _ := netip.AddrFromSlice(b[:n])
	if addr.Is4In6() {
		return netip.AddrPort{}, nil, errors.New("an IPv4 address in IPv6 form")
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[n:])), b[n+2:], nil
}
