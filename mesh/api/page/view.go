package page

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"ripstop/mesh/api"
)

// The bounds of what one view holds. What is left out is counted.
const (
	maxHosts     = 1000
	maxLinks     = 4000
	maxEndpoints = 2000
	maxNames     = 2000
	maxWarnings  = 50
)

// view is what the page shows: of what the daemon tells what is of use there, put together
// by host.
type view struct {
	Version int `json:"version"`
	// Problem is why there is nothing else here: the daemon does not answer.
	Problem string `json:"problem,omitempty"`

	Network   string         `json:"network,omitempty"`
	Cipher    string         `json:"cipher,omitempty"`
	Warnings  []string       `json:"warnings"`
	Hosts     []host         `json:"hosts"` // by name
	Links     []link         `json:"links"`
	Endpoints []endpoint     `json:"endpoints"`
	IPAM      *ipam          `json:"ipam,omitempty"`
	DNS       dns            `json:"dns"`
	LeftOut   map[string]int `json:"left_out"` // by list
}

// host is a member of the network.
type host struct {
	Name      string   `json:"name"`
	Nickname  string   `json:"nickname"`
	Self      bool     `json:"self,omitempty"`
	Alive     bool     `json:"alive"`
	Reachable bool     `json:"reachable"`
	Software  string   `json:"software,omitempty"`
	Mode      string   `json:"mode,omitempty"`
	Underlay  []string `json:"underlay,omitempty"`
	Hops      int      `json:"hops,omitempty"`
	Via       string   `json:"via,omitempty"` // name of the first relay
	Path      string   `json:"path,omitempty"`
	Session   string   `json:"session,omitempty"`
	CostMicro int64    `json:"cost_us,omitempty"`
	FramesOut uint64   `json:"frames_out"`
	BytesOut  uint64   `json:"bytes_out"`
	FramesIn  uint64   `json:"frames_in"`
	BytesIn   uint64   `json:"bytes_in"`

	// Of this host only.
	Overlay   []netip.Prefix `json:"overlay,omitempty"`
	Bridge    string         `json:"bridge,omitempty"`
	MTU       int            `json:"mtu,omitempty"`
	UptimeSec int64          `json:"uptime_seconds,omitempty"`
}

// The states of a link beside those of api.TopologyLink and, of this host's own, api.Link.
const linkDirect = "direct" // a path of this host without a link: nobody else's frames take it

// link is a line between two hosts.
type link struct {
	From      string  `json:"from"` // name
	To        string  `json:"to"`   // name
	State     string  `json:"state"`
	Path      string  `json:"path,omitempty"`
	Own       bool    `json:"own,omitempty"`    // it is this host's: the rest is measured here, else told by the ends
	RTTMicro  int64   `json:"rtt_us,omitempty"` // 0 = not known
	Loss      float64 `json:"loss,omitempty"`   // 0 to 1
	CostMicro int64   `json:"cost_us,omitempty"`
}

// endpoint is what is attached somewhere.
type endpoint struct {
	Name         string         `json:"name,omitempty"`
	Aliases      []string       `json:"aliases,omitempty"`
	Addresses    []netip.Prefix `json:"addresses"`
	MAC          string         `json:"mac"`
	Host         string         `json:"host"`
	HostNickname string         `json:"host_nickname"`
	State        string         `json:"state"`
}

// ipam is how much of the range is given out, by host.
type ipam struct {
	Range   netip.Prefix   `json:"range"`
	Range6  netip.Prefix   `json:"range6,omitzero"`
	Size    int64          `json:"size"` // addresses in Range
	Waiting string         `json:"waiting,omitempty"`
	Used    int            `json:"used"` // in use here
	Fenced  int            `json:"fenced"`
	Hosts   []api.IPAMHost `json:"hosts"`
}

// dns is the names.
type dns struct {
	Domain  string     `json:"domain"`
	Problem string     `json:"problem,omitempty"`
	Names   []api.Name `json:"names"`
}

// newView puts a view together.
func newView(s api.Status, t api.Topology, n api.Names) view {
	v := view{Version: api.Version, Network: s.Network, Cipher: s.Cipher, Warnings: s.Warnings, DNS: dns{n.Domain, n.Problem, n.Names}, LeftOut: make(map[string]int)}
	v.Hosts = hostsOf(&s, t.Hosts)
	v.Hosts = bounded(&v, "hosts", v.Hosts, maxHosts)
	slices.SortFunc(v.Hosts, func(a, b host) int { return strings.Compare(a.Name, b.Name) })
	v.Links = linksOf(&s, t.Links, v.Hosts)
	v.Links = bounded(&v, "links", v.Links, maxLinks)
	v.LeftOut["links"] += t.LeftOut
	for _, e := range bounded(&v, "endpoints", s.Endpoints, maxEndpoints) {
		v.Endpoints = append(v.Endpoints, endpoint{e.Name, e.Aliases, e.Addresses, e.MAC, e.Host, e.HostNickname, e.State})
	}
	v.Warnings = bounded(&v, "warnings", v.Warnings, maxWarnings)
	v.DNS.Names = bounded(&v, "names", v.DNS.Names, maxNames)
	if i := s.IPAM; i != nil {
		v.IPAM = &ipam{Range: i.Range, Range6: i.Range6, Waiting: i.Waiting, Used: i.Used, Fenced: i.Fenced, Hosts: bounded(&v, "shares", i.Hosts, maxHosts)}
		if i.Range.IsValid() {
			v.IPAM.Size = 1 << (i.Range.Addr().BitLen() - i.Range.Bits())
		}
	}
	v.noNulls()
	return v
}

// bounded is the first of a list, as many as may be.
func bounded[T any](v *view, name string, list []T, most int) []T {
	if n := len(list) - most; n > 0 {
		v.LeftOut[name] = n
		return list[:most]
	}
	return list
}

// noNulls makes lists without entries [], for the script.
func (v *view) noNulls() {
	v.Warnings = append([]string{}, v.Warnings...)
	v.Hosts, v.Links, v.Endpoints = append([]host{}, v.Hosts...), append([]link{}, v.Links...), append([]endpoint{}, v.Endpoints...)
	v.DNS.Names = append([]api.Name{}, v.DNS.Names...)
	if v.IPAM != nil {
		v.IPAM.Hosts = append([]api.IPAMHost{}, v.IPAM.Hosts...)
	}
}

// hostsOf are this host, and the others as topology and status know them; those worth most
// to who looks first.
func hostsOf(s *api.Status, members []api.TopologyHost) (all []host) {
	peers, routes := make(map[string]*api.Peer), make(map[string]*api.Route)
	for i := range s.Peers {
		peers[s.Peers[i].Name] = &s.Peers[i]
	}
	for i := range s.Routes {
		routes[s.Routes[i].Peer] = &s.Routes[i]
	}
	all = append(all, host{
		Name: s.Name, Nickname: s.Nickname, Self: true, Alive: true, Reachable: true, Software: s.Software, Mode: s.Mode, Underlay: s.Advertise,
		Overlay: s.Addresses, Bridge: s.Bridge, MTU: s.MTU, UptimeSec: s.UptimeSec,
	})
	for _, m := range members {
		if m.Name == s.Name {
			continue
		}
		h := host{Name: m.Name, Nickname: m.Nickname, Alive: m.Alive, Reachable: m.Reachable}
		if p := peers[m.Name]; p != nil {
			h.Software, h.Mode, h.Underlay, h.Hops, h.Path, h.Session = p.Software, p.Mode, p.Addresses, p.Hops, p.Path, p.Session
			h.FramesOut, h.BytesOut, h.FramesIn, h.BytesIn = p.FramesOut, p.BytesOut, p.FramesIn, p.BytesIn
			if r := routes[m.Name]; r != nil {
				h.CostMicro = r.CostMicro
				if p.Via != "" {
					h.Via = r.Next
				}
			}
		}
		all = append(all, h)
	}
	slices.SortStableFunc(all, func(a, b host) int {
		return cmp.Or(worth(&b)-worth(&a), strings.Compare(a.Name, b.Name))
	})
	return all
}

// worth is how much a host's place in the view is worth.
func worth(h *host) int {
	switch {
	case h.Self:
		return 4
	case h.Hops == 1:
		return 3
	case h.Reachable:
		return 2
	case h.Alive:
		return 1
	}
	return 0
}

// linksOf are the links between hosts, each once: this host's own as it sees them itself, the
// others as they are told.
func linksOf(s *api.Status, told []api.TopologyLink, hosts []host) (all []link) {
	shown := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		shown[h.Name] = true
	}
	own := make(map[string]*api.Link)
	for i := range s.Links {
		own[s.Links[i].Peer] = &s.Links[i]
	}
	drawn := make(map[string]bool) // peers with a line to this host
	add := func(l link, peer string) {
		if o := own[peer]; o != nil {
			l.State, l.Path, l.Own, l.RTTMicro, l.Loss = o.State, o.Path, true, o.RTTMicro, o.Loss
		} else if peer != "" && l.State == api.TopologyUp {
			l.State = api.LinkDown // both tell of it still, and this end has lost it
		}
		if peer != "" {
			drawn[peer] = true
		}
		if shown[l.From] && shown[l.To] {
			all = append(all, l)
		}
	}
	for _, t := range told {
		peer := ""
		switch s.Name {
		case t.From:
			peer = t.To
		case t.To:
			peer = t.From
		}
		add(link{From: t.From, To: t.To, State: t.State, Path: t.Path, RTTMicro: t.RTTMicro, Loss: t.Loss, CostMicro: t.CostMicro}, peer)
	}
	for _, o := range s.Links {
		if !drawn[o.Peer] {
			add(link{From: s.Name, To: o.Peer}, o.Peer)
		}
	}
	for _, h := range hosts {
		if !h.Self && h.Hops == 1 && h.Path != "" && h.Via == "" && !drawn[h.Name] {
			all = append(all, link{From: s.Name, To: h.Name, State: linkDirect, Path: h.Path})
		}
	}
	return all
}
