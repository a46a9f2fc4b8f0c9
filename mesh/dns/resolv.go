package dns

import (
	"net/netip"
	"slices"
	"strings"
)

const (
	maxServers  = 8  // nameservers taken from a resolver file
	maxSearch   = 16 // domains of its search list
	maxResolver = 64 << 10
)

// Resolver is what a resolver file says (resolv.conf(5)).
type Resolver struct {
	Servers []netip.Addr
	Search  []string // lower case, without dots at the end
}

// ParseResolver reads a resolver file. What it does not understand it skips, as every
// reader of these files does; what is too much it leaves out.
func ParseResolver(text []byte) Resolver {
	var r Resolver
	for line := range strings.Lines(string(text[:min(len(text), maxResolver)])) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			a, err := netip.ParseAddr(words[1])
			if err == nil && !a.IsUnspecified() && !slices.Contains(r.Servers, a.Unmap()) && len(r.Servers) < maxServers {
				r.Servers = append(r.Servers, a.Unmap())
			}
		case "search", "domain": // the last such line holds
			r.Search = nil
			for _, w := range words[1:] {
				if d := strings.TrimSuffix(strings.ToLower(w), "."); checkSearch(d) && len(r.Search) < maxSearch {
					r.Search = append(r.Search, d)
				}
			}
		}
	}
	return r
}

// checkSearch takes what may stand in somebody else's resolver file.
func checkSearch(domain string) bool {
	return domain != "" && len(domain) <= maxName && !strings.ContainsFunc(domain, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

// stub reports whether r sends every question to systemd-resolved on this host: then
// its own file of upstreams is the one to use.
func (r Resolver) stub() bool {
	return len(r.Servers) > 0 && !slices.ContainsFunc(r.Servers, func(a netip.Addr) bool {
		return a != netip.AddrFrom4([4]byte{127, 0, 0, 53}) && a != netip.AddrFrom4([4]byte{127, 0, 0, 54})
	})
}
