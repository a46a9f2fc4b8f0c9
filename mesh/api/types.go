package api

import (
	"net/netip"
	"slices"
	"time"
)

// Status is everything a daemon tells about itself and the network as it sees it.
type Status struct {
	Version  int    `json:"version"`
	Software string `json:"software"`

	Name     string `json:"name"` // in the form of a MAC address, which is also the bridge's
	ID       string `json:"id"`   // the whole name, 32 hexadecimal digits
	Nickname string `json:"nickname"`
	UID      string `json:"uid"`     // of this run, 16 hexadecimal digits
	Network  string `json:"network"` // network ID, 32 hexadecimal digits
	Cipher   string `json:"cipher"`  // the network's policy: auto or none

	Mode       string         `json:"mode"` // bridge or routed
	Bridge     string         `json:"bridge,omitempty"`
	Device     string         `json:"device"`
	MTU        int            `json:"mtu"` // told to containers, bytes
	Port       uint16         `json:"port"`
	Advertise  []string       `json:"advertise,omitempty"`  // underlay addresses told to peers
	Addresses  []netip.Prefix `json:"addresses,omitempty"`  // the host's own in the overlay
	Masquerade bool           `json:"masquerade,omitempty"` // it is the gateway of what is attached here
	Offloads   []Offload      `json:"offloads"`             // of the device and the sockets
	PID        int            `json:"pid"`
	Started    time.Time      `json:"started"`
	UptimeSec  int64          `json:"uptime_seconds"`
	Metrics    string         `json:"metrics,omitempty"` // address and port where metrics are read over TCP

	StateDir   string `json:"state_dir"`             // path of the state directory
	SecretFile string `json:"secret_file,omitempty"` // path of the file the secret was read from, if one was given

	// Warnings are sentences with cause and remedy, such as a firewall that drops bridged frames.
	Warnings []string `json:"warnings"`

	Peers     []Peer            `json:"peers"`
	Links     []Link            `json:"links"`
	Targets   []Target          `json:"targets"`
	Routes    []Route           `json:"routes"`
	Endpoints []Endpoint        `json:"endpoints"`
	IPAM      *IPAM             `json:"ipam,omitempty"` // without Ranges and Uses
	Counters  map[string]uint64 `json:"counters"`       // frames, datagrams and drops by reason
}

// IsGateway reports whether this host masquerades at an address that no other host has.
func (s *Status) IsGateway(addr netip.Addr) bool {
	is := func(p netip.Prefix) bool { return p.Addr() == addr }
	fenced := func(e Endpoint) bool { return e.Masquerade && slices.ContainsFunc(e.Fenced, is) }
	return s.Masquerade && slices.ContainsFunc(s.Addresses, is) && !slices.ContainsFunc(s.Endpoints, fenced)
}

// noNulls makes lists without entries [] instead of null, which programs trip over.
func (s *Status) noNulls() {
	s.Warnings, s.Peers, s.Links, s.Offloads = filled(s.Warnings), filled(s.Peers), filled(s.Links), filled(s.Offloads)
	s.Targets, s.Routes, s.Endpoints = filled(s.Targets), filled(s.Routes), filled(s.Endpoints)
	for i := range s.Endpoints {
		s.Endpoints[i].Addresses = filled(s.Endpoints[i].Addresses)
	}
	if s.IPAM != nil {
		s.IPAM.noNulls()
	}
	if s.Counters == nil {
		s.Counters = map[string]uint64{}
	}
}

func filled[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// Offload is something that the kernel may leave to ripstop, or do for it.
type Offload struct {
	Name string `json:"name"` // as `up --no-offload` takes it
	Used bool   `json:"used"`
	Why  string `json:"why,omitempty"` // it is not used
}

// Peer is another member of the network.
type Peer struct {
	Name      string   `json:"name"`
	ID        string   `json:"id"`
	Nickname  string   `json:"nickname"`
	UID       string   `json:"uid"`
	Software  string   `json:"software,omitempty"`
	Mode      string   `json:"mode,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // underlay, as it tells them
	Alive     bool     `json:"alive"`               // some host has a link with it
	Reachable bool     `json:"reachable"`           // there is a way to it from here
	Hops      int      `json:"hops"`                // links to cross; 0 = none known
	Via       string   `json:"via,omitempty"`       // name of the first relay; empty when it is a neighbour
	Session   string   `json:"session,omitempty"`   // data cipher; empty without a session
	Path      string   `json:"path,omitempty"`      // udp, tcp or relay
	FramesOut uint64   `json:"frames_out"`          // sealed for it since it was known; a super-frame is one
	BytesOut  uint64   `json:"bytes_out"`           // of these frames
	FramesIn  uint64   `json:"frames_in"`           // opened from it since it was known
	BytesIn   uint64   `json:"bytes_in"`            // of these frames
}

// The states of a Link.
const (
	LinkUp         = "up"         // probes are answered both ways
	LinkConnecting = "connecting" // authenticated, the data path is not proven yet
	LinkDown       = "down"       // authenticated once, unanswered now
)

// Link is a control connection and the path its data takes.
type Link struct {
	Peer     string    `json:"peer"` // name
	Nickname string    `json:"nickname"`
	State    string    `json:"state"`
	Path     string    `json:"path,omitempty"`   // udp or tcp
	Remote   string    `json:"remote,omitempty"` // address and port of the path
	RTTMicro int64     `json:"rtt_us"`           // smoothed; 0 = not measured
	Loss     float64   `json:"loss"`             // 0 to 1, of probes
	MTU      int       `json:"mtu,omitempty"`    // bytes of UDP payload that fit into one packet of the path
	Train    int       `json:"train,omitempty"`  // datagrams that may leave by one call to the kernel
	Dialled  bool      `json:"dialled"`          // this end opened the connection
	Since    time.Time `json:"since"`
	Paths    []Path    `json:"paths,omitempty"`
}

// Path is one way of reaching a neighbour, taken or not.
type Path struct {
	Path     string  `json:"path"`
	Remote   string  `json:"remote,omitempty"`
	Up       bool    `json:"up"`
	Best     bool    `json:"best"`
	RTTMicro int64   `json:"rtt_us"`
	Loss     float64 `json:"loss"`
	MTU      int     `json:"mtu,omitempty"`   // as of a Link
	Train    int     `json:"train,omitempty"` // as of a Link
}

// The states of a Target.
const (
	TargetConnecting = "connecting"
	TargetUp         = "up"
	TargetWaiting    = "waiting" // for NextTry
	TargetSelf       = "self"    // it is this host
	TargetRefused    = "refused" // it answered, and will not have us
)

// Target is an underlay address this host was told to dial.
type Target struct {
	Target  string    `json:"target"` // as it was given
	State   string    `json:"state"`
	Peer    string    `json:"peer,omitempty"` // name of who answers there
	Error   string    `json:"error,omitempty"`
	NextTry time.Time `json:"next_try,omitzero"`
}

// Route is the way to one peer.
type Route struct {
	Peer      string `json:"peer"`
	Nickname  string `json:"nickname"`
	Next      string `json:"next"`                // name of the neighbour frames go to first
	Alternate string `json:"alternate,omitempty"` // used at once when Next's link fails
	Hops      int    `json:"hops"`
	CostMicro int64  `json:"cost_us"` // sum of the links' costs
}

// The states of an Endpoint.
const (
	EndpointHere   = "here"
	EndpointRemote = "remote"
	EndpointFenced = "fenced" // another host's greater claim holds its MAC or address
	EndpointOrphan = "orphan" // its host has no links
)

// Endpoint is an attached container, namespace or exposed host.
type Endpoint struct {
	Version      int            `json:"version,omitempty"` // set where the endpoint is the whole answer
	Name         string         `json:"name,omitempty"`
	Aliases      []string       `json:"aliases,omitempty"` // further names
	MAC          string         `json:"mac"`
	Addresses    []netip.Prefix `json:"addresses"`
	Host         string         `json:"host"` // name
	HostNickname string         `json:"host_nickname"`
	State        string         `json:"state"`
	Fenced       []netip.Prefix `json:"fenced_addresses,omitempty"` // of Addresses: those that another host has, known for those here
	Claim        uint64         `json:"claim"`
	Interface    string         `json:"interface,omitempty"`      // inside the namespace; known for those here
	HostPort     string         `json:"host_interface,omitempty"` // on the bridge; known for those here
	Netns        string         `json:"netns,omitempty"`
	Owner        string         `json:"owner,omitempty"`      // as it was attached; known for those here
	Routes       []netip.Prefix `json:"routes,omitempty"`     // further networks through its interface; known for those here
	Gateway      netip.Addr     `json:"gateway,omitzero"`     // by which its default route leads; known for those here
	Masquerade   bool           `json:"masquerade,omitempty"` // it is this host, as a gateway
	DNS          bool           `json:"dns,omitempty"`        // its resolver file was written
	AllowMAC     []string       `json:"allow_mac,omitempty"`  // opt-outs from the port rules
	AllowAddress []string       `json:"allow_address,omitempty"`
}

// ConnectRequest adds targets, or replaces them all.
type ConnectRequest struct {
	Peers   []string `json:"peers"`
	Replace bool     `json:"replace,omitempty"`
}

// ForgetRequest takes targets off the list. Links that stand are not closed by it.
type ForgetRequest struct {
	Peers []string `json:"peers"`
}

// AttachRequest asks for a place on the network for a namespace. The daemon
// never enters the namespace: it reserves, the caller makes the interface, the
// daemon puts its host end on the bridge.
type AttachRequest struct {
	Netns        string         `json:"netns"`               // as the caller named it, for people
	NetnsID      NetnsID        `json:"netns_id"`            // what it is
	Interface    string         `json:"interface,omitempty"` // inside; empty = DefaultInterface
	Name         string         `json:"name,omitempty"`      // endpoint's name; empty = none
	Aliases      []string       `json:"aliases,omitempty"`   // it is found by these too; at most MaxAliases
	Owner        string         `json:"owner,omitempty"`     // what a runtime knows it by, to detach it without its namespace; empty = none
	MAC          string         `json:"mac,omitempty"`       // empty = chosen by the daemon
	Addresses    []netip.Prefix `json:"addresses,omitempty"`
	AddressesFor string         `json:"addresses_for,omitempty"` // Addresses are allocated to that name, and stay so after detach; empty = the attachment claims them for itself
	Subnets      []netip.Prefix `json:"subnets,omitempty"`       // one address of each is chosen; without it and Addresses one of the default subnet
	Sticky       bool           `json:"sticky,omitempty"`        // keep chosen addresses for Name after detach, while there are others
	NoIPv6       bool           `json:"no_ipv6,omitempty"`       // no IPv6 address beside a chosen one
	Deadline     Duration       `json:"deadline,omitzero"`       // for addresses; 0: 10s
	Routes       []netip.Prefix `json:"routes,omitempty"`
	Gateway      bool           `json:"gateway,omitempty"` // a default route by this host, which has to be exposed and to masquerade
	MTU          int            `json:"mtu,omitempty"`     // 0 = the network's
	Move         bool           `json:"move,omitempty"`
	AllowMAC     []string       `json:"allow_mac,omitempty"`     // MAC addresses, or "any"
	AllowAddress []string       `json:"allow_address,omitempty"` // prefixes, or "any"
	Services     []string       `json:"services,omitempty"`      // NAME:PORT/PROTOCOL
	DNS          bool           `json:"dns,omitempty"`           // the caller will write its resolver file
}

// MaxAliases is how many further names an endpoint has at most.
const MaxAliases = 7

// DefaultInterface is what an attached interface is called inside its namespace.
const DefaultInterface = "rip0"

// NetnsID names a network namespace for as long as it lives.
type NetnsID struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
}

// AttachPlan is what the caller has to make, or to remove.
type AttachPlan struct {
	Version       int            `json:"version"`
	ID            string         `json:"id"`    // to commit or cancel by
	Netns         string         `json:"netns"` // as it was named when attached
	NetnsID       NetnsID        `json:"netns_id"`
	Interface     string         `json:"interface"`
	HostInterface string         `json:"host_interface"`
	MAC           string         `json:"mac"`
	Addresses     []netip.Prefix `json:"addresses"`
	Routes        []netip.Prefix `json:"routes,omitempty"`
	Gateway       netip.Addr     `json:"gateway,omitzero"` // of a default route of IPv4
	MTU           int            `json:"mtu"`
	HostMTU       int            `json:"host_mtu"`
	// Resolver is for the resolver file, where that was asked for.
	Resolver *Resolver `json:"resolver,omitempty"`
	// Existing says that this very attachment stands already: nothing is to be made.
	Existing bool      `json:"existing,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
}

// CommitRequest names a reservation.
type CommitRequest struct {
	ID string `json:"id"`
}

// DetachRequest names an attachment by its namespace, its endpoint's name or its owner;
// one of them is enough.
type DetachRequest struct {
	NetnsID   NetnsID `json:"netns_id,omitzero"`
	Netns     string  `json:"netns,omitempty"` // as it was named when attached, for one that is gone
	Name      string  `json:"name,omitempty"`
	Owner     string  `json:"owner,omitempty"`
	Interface string  `json:"interface,omitempty"` // which, when the namespace has several
}

// ExposeRequest gives the host itself addresses on the overlay, as an AttachRequest does.
// A host that has such stays as it is, but Masquerade may be added.
type ExposeRequest struct {
	Addresses  []netip.Prefix `json:"addresses,omitempty"`
	Subnets    []netip.Prefix `json:"subnets,omitempty"`
	Masquerade bool           `json:"masquerade,omitempty"` // be the gateway of what is attached here
	Deadline   Duration       `json:"deadline,omitzero"`
}
