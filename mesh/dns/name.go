package dns

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxWireName = 255 // bytes of a name in a message (RFC 1035 2.3.4)
	maxName     = 253 // characters of a whole name, without the last dot (RFC 1035 2.3.4)
	maxLabel    = 63
	// maxLabels bounds what a name costs: each that only has names below it is kept too.
	maxLabels = 8
	// maxDomain leaves room for a name, its host and a service in front of the domain.
	maxDomain = 100
)

// Canonical is a name as the zone has it: lower case, without the domain. It has up to 8
// labels of 1 to 63 letters, digits and hyphens, no hyphen at either end of one. The
// name may be given with the domain behind it, and with a dot at the end then.
func Canonical(name, domain string) (string, error) {
	s := strings.ToLower(name)
	if full, dotted := strings.CutSuffix(s, "."); dotted || strings.HasSuffix(s, "."+domain) {
		under, ok := strings.CutSuffix(full, "."+domain)
		if !ok {
			return "", fmt.Errorf("dns: name %q: it is outside the domain %s", name, domain)
		}
		s = under
	}
	if err := checkLabels(s); err != nil {
		return "", fmt.Errorf("dns: name %q: %w", name, err)
	}
	if n := strings.Count(s, ".") + 1; n > maxLabels {
		return "", fmt.Errorf("dns: name %q: %d parts between dots, %d are the most", name, n, maxLabels)
	}
	if len(s)+1+len(domain) > maxName {
		return "", fmt.Errorf("dns: name %q: %d characters with the domain %s, %d are the most", name, len(s)+1+len(domain), domain, maxName)
	}
	return s, nil
}

// CanonicalDomain is a domain in lower case, without the dot at the end.
func CanonicalDomain(domain string) (string, error) {
	s := strings.TrimSuffix(strings.ToLower(domain), ".")
	if err := checkLabels(s); err != nil {
		return "", fmt.Errorf("dns: domain %q: %w", domain, err)
	}
	if len(s) > maxDomain {
		return "", fmt.Errorf("dns: domain %q: %d characters, %d are the most", domain, len(s), maxDomain)
	}
	if s == "arpa" || strings.HasSuffix(s, ".arpa") {
		return "", fmt.Errorf("dns: domain %q: names under arpa stand for addresses", domain)
	}
	return s, nil
}

// checkLabels takes letters, digits and hyphens (RFC 1123 2.1).
func checkLabels(s string) error {
	if s == "" {
		return errors.New("it is empty")
	}
	for label := range strings.SplitSeq(s, ".") {
		switch {
		case label == "":
			return errors.New("two dots without anything between, or a dot at an end")
		case len(label) > maxLabel:
			return fmt.Errorf("%q has %d characters, %d are the most between two dots", label, len(label), maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return fmt.Errorf("%q begins or ends with a hyphen", label)
		}
		for _, c := range label {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return fmt.Errorf("%q: only letters, digits, hyphens and dots", string(c))
			}
		}
	}
	return nil
}

// HostLabel is the name of a host with that nickname: what stands before the first
// dot, in lower case, a hyphen for everything that no name may hold. Empty when
// nothing is left.
func HostLabel(nickname string) string {
	first, _, _ := strings.Cut(strings.ToLower(nickname), ".")
	label := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, first)
	return strings.Trim(label[:min(len(label), maxLabel)], "-")
}

// Service is what an endpoint offers: `http:80/tcp`.
type Service struct {
	Name     string // 1 to 15 letters, digits and hyphens, a letter among them (RFC 6335 5.1)
	Port     uint16 // not 0
	Protocol string // tcp, udp or sctp
}

// ParseService reads NAME:PORT/PROTOCOL; without protocol it is tcp.
func ParseService(text string) (Service, error) {
	bad := func(why string) (Service, error) {
		return Service{}, fmt.Errorf("dns: service %q: %s: it is given as NAME:PORT/PROTOCOL, such as http:80/tcp", text, why)
	}
	name, rest, ok := strings.Cut(strings.ToLower(text), ":")
	if !ok {
		return bad("there is no port")
	}
	port, protocol, ok := strings.Cut(rest, "/")
	if !ok {
		protocol = "tcp"
	}
	switch {
	case len(name) > 15 || strings.Contains(name, ".") || checkLabels(name) != nil || !strings.ContainsFunc(name, func(c rune) bool { return c >= 'a' && c <= 'z' }):
		return bad("the name has 1 to 15 letters, digits and hyphens, a letter among them")
	case protocol != "tcp" && protocol != "udp" && protocol != "sctp":
		return bad("the protocol is tcp, udp or sctp")
	}
	var n uint32
	for _, c := range port {
		if c < '0' || c > '9' || n > 65535 {
			return bad("the port is a number from 1 to 65535")
		}
		n = n*10 + uint32(c-'0')
	}
	if n == 0 || n > 65535 {
		return bad("the port is a number from 1 to 65535")
	}
	return Service{Name: name, Port: uint16(n), Protocol: protocol}, nil
}

// String is the form that ParseService reads.
func (s Service) String() string { return fmt.Sprintf("%s:%d/%s", s.Name, s.Port, s.Protocol) }

// Of is the name under which name's service is found (RFC 2782).
func (s Service) Of(name string) string { return "_" + s.Name + "._" + s.Protocol + "." + name }

// SplitService takes apart what Of made: the service, and whose it is.
func SplitService(text string, port uint16) (s Service, of string, err error) {
	name, rest, _ := strings.Cut(text, ".")
	protocol, of, _ := strings.Cut(rest, ".")
	if !strings.HasPrefix(name, "_") || !strings.HasPrefix(protocol, "_") || of == "" {
		return s, "", fmt.Errorf("dns: service name %q: it is _SERVICE._PROTOCOL.NAME", text)
	}
	s, err = ParseService(fmt.Sprintf("%s:%d/%s", name[1:], port, protocol[1:]))
	return s, of, err
}
