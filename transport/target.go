package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Target is an underlay address that a host was told to dial: an IP address or a
// name that is resolved again at each dial. It can be compared.
type Target struct {
	Host string     // a DNS name in lower case, "" when Addr is set
	Addr netip.Addr // an address, IPv4 never in IPv6 form
	Port uint16     // 0: the port that this network's hosts use by default
}

// ParseTarget reads "name", "name:port", "192.0.2.1", "192.0.2.1:6783",
// "2001:db8::1" or "[2001:db8::1]:6783". What it accepts can be dialled as far as
// can be told without asking anybody.
func ParseTarget(s string) (Target, error) {
	t, err := parseTarget(s)
	if err != nil {
		return Target{}, fmt.Errorf("transport: peer %q: %w", s, err)
	}
	return t, nil
}

func parseTarget(s string) (Target, error) {
	if s == "" {
		return Target{}, errors.New("empty")
	}
	bare, bracketed := s, false
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare, bracketed = s[1:len(s)-1], true
	}
	if addr, err := netip.ParseAddr(bare); err == nil {
		if bracketed && addr.Is4() {
			return Target{}, errors.New("brackets go around an IPv6 address")
		}
		return addrTarget(addr, 0)
	}
	host, port := s, uint16(0)
	if strings.ContainsAny(s, ":[]") {
		h, p, err := net.SplitHostPort(s)
		if err != nil {
			return Target{}, errors.New("neither a name, an address, name:port nor [IPv6 address]:port")
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return Target{}, fmt.Errorf("port %q is not a number from 1 to 65535", p)
		}
		host, port = h, uint16(n)
		if strings.HasPrefix(s, "[") {
			addr, err := netip.ParseAddr(h)
			if err != nil || !addr.Is6() {
				return Target{}, errors.New("brackets go around an IPv6 address")
			}
			return addrTarget(addr, port)
		}
		if addr, err := netip.ParseAddr(h); err == nil {
			return addrTarget(addr, port)
		}
	}
	if err := checkHost(host); err != nil {
		return Target{}, err
	}
	return Target{Host: strings.ToLower(host), Port: port}, nil
}

func addrTarget(addr netip.Addr, port uint16) (Target, error) {
	addr = addr.Unmap()
	switch {
	case addr.IsUnspecified():
		return Target{}, errors.New("the unspecified address is nobody's")
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return Target{}, errors.New("a multicast or broadcast address cannot be dialled")
	case len(addr.Zone()) > 15 || strings.ContainsFunc(addr.Zone(), func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:[]%", r) }):
		return Target{}, fmt.Errorf("no interface can be called %q", addr.Zone())
	}
	return Target{Addr: addr, Port: port}, nil
}

// checkHost accepts what RFC 1123 section 2.1 calls a host name, and underscores.
func checkHost(host string) error {
	name := strings.TrimSuffix(host, ".")
	if name == "" {
		return errors.New("no host")
	}
	if len(name) > 253 {
		return errors.New("a name has at most 253 characters")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return errors.New("each part of a name has 1 to 63 characters")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("no part of a name begins or ends with a hyphen")
		}
		for _, c := range []byte(label) {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return fmt.Errorf("a name cannot contain %q", rune(c))
			}
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New("not an IP address, and no name ends with a number")
	}
	return nil
}

// String is the form that ParseTarget reads; two equal targets have the same one.
func (t Target) String() string {
	host := t.Host
	if t.Addr.IsValid() {
		host = t.Addr.String()
	}
	if t.Port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(t.Port)))
}
