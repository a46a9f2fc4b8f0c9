package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
)

// Names is everything about names.
type Names struct {
	Version int    `json:"version"`
	Domain  string `json:"domain"` // behind every name
	// Address is where the host's containers ask; none when nothing is answered.
	Address   *netip.Addr `json:"address,omitempty"`
	Problem   string      `json:"problem,omitempty"` // why nothing is answered, and what helps
	Upstreams []Upstream  `json:"upstreams"`         // asked for names of others, in this order
	Search    []string    `json:"search"`            // the host's own list
	Names     []Name      `json:"names"`             // by name, then host
}

func (n *Names) settle() {
	n.Version = Version
	n.Upstreams, n.Search, n.Names = filled(n.Upstreams), filled(n.Search), filled(n.Names)
	for i := range n.Names {
		n.Names[i].Addresses = filled(n.Names[i].Addresses)
	}
}

// Upstream is a resolver of the host.
type Upstream struct {
	Address netip.Addr `json:"address"`
	Resting bool       `json:"resting"` // it did not answer lately, and is asked last
}

// How a name came about.
const (
	NameEndpoint = "endpoint" // attached, or exposed
	NameAdded    = "added"    // by `ripstop dns add`
	NameService  = "service"  // of an endpoint
)

// Name is what one host says of a name.
type Name struct {
	Name         string       `json:"name"` // without the domain
	Kind         string       `json:"kind"`
	Addresses    []netip.Addr `json:"addresses"`
	Port         uint16       `json:"port,omitempty"`   // of a service
	Target       string       `json:"target,omitempty"` // of a service, without the domain
	Host         string       `json:"host"`
	HostNickname string       `json:"host_nickname"`
}

// NameRequest adds addresses to a name, or takes them back.
type NameRequest struct {
	Name      string       `json:"name"` // with or without the domain
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// LookupRequest asks for a name, or for the names of an address.
type LookupRequest struct {
	Name string `json:"name"` // or an address
}

// LookupAnswer is what there is.
type LookupAnswer struct {
	Version   int          `json:"version"`
	Name      string       `json:"name"` // with the domain; or the address
	Addresses []netip.Addr `json:"addresses"`
	Services  []NameTarget `json:"services"`
	Names     []string     `json:"names"` // of the address, with the domain
}

func (a *LookupAnswer) settle() {
	a.Version = Version
	a.Addresses, a.Services, a.Names = filled(a.Addresses), filled(a.Services), filled(a.Names)
}

// NameTarget is where a service is.
type NameTarget struct {
	Target string `json:"target"` // with the domain
	Port   uint16 `json:"port"`
}

// ValidName reports whether s can be an endpoint's name: DNS labels.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
		}) {
			return false
		}
	}
	return true
}

// Resolver is what a container's resolver file is to hold.
type Resolver struct {
	Servers []netip.Addr `json:"servers"`
	Search  []string     `json:"search"` // the domain first
}

// Names asks for everything about names.
func (c *Client) Names(ctx context.Context) (Names, error) {
	return ask[Names](ctx, c, http.MethodGet, pathDNS, nil)
}

// AddName gives a name addresses, or further ones.
func (c *Client) AddName(ctx context.Context, r NameRequest) error {
	return c.call(ctx, http.MethodPost, pathDNSAdd, r, nil)
}

// RemoveName takes them back.
func (c *Client) RemoveName(ctx context.Context, r NameRequest) error {
	return c.call(ctx, http.MethodPost, pathDNSRemove, r, nil)
}

// Lookup asks what there is of a name or an address.
func (c *Client) Lookup(ctx context.Context, r LookupRequest) (LookupAnswer, error) {
	return ask[LookupAnswer](ctx, c, http.MethodPost, pathDNSLookup, r)
}
