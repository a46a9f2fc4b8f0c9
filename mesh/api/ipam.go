package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// The paths about addresses.
const (
	pathIPAM     = "/v1/ipam"
	pathAllocate = "/v1/ipam/allocate"
	pathRelease  = "/v1/ipam/release"
	pathStart    = "/v1/ipam/start"
	pathAdopt    = "/v1/ipam/adopt"
	pathLeave    = "/v1/leave"
	pathRemove   = "/v1/rmpeer"
)

// AddressBackend is the part of a Backend that gives out addresses.
type AddressBackend interface {
	// IPAM tells all of the address map, with ranges and single addresses.
	IPAM(ctx context.Context) (IPAM, error)
	// Allocate gives an address to a name: any one of a subnet, or a given one.
	Allocate(ctx context.Context, r AllocateRequest) (Address, error)
	// Release takes one or all addresses of a name back.
	Release(ctx context.Context, r ReleaseRequest) (Moved, error)
	// Start begins the address map with this host as the only founder.
	Start(ctx context.Context) error
	// Adopt leaves this host's map for the one that was met.
	Adopt(ctx context.Context) error
	// Leave begins to hand this host's blocks over, or goes on with it, and returns
	// after some seconds: with Done set when all is over.
	Leave(ctx context.Context, r LeaveRequest) (Moved, error)
	// Remove takes the blocks of a host that is gone for good.
	Remove(ctx context.Context, r RemoveRequest) (Moved, error)
}

// Duration is a time.Duration as JSON has it: "10s".
type Duration time.Duration

// Duration is the time itself.
func (d Duration) Duration() time.Duration { return time.Duration(d) }

// MarshalJSON writes the form of time.Duration.String.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads the form of time.ParseDuration.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no time such as 10s", s)
	}
	*d = Duration(v)
	return nil
}

// IPAM is what a host knows of the address map.
type IPAM struct {
	Version  int            `json:"version,omitempty"` // set where this is the whole answer
	Range    netip.Prefix   `json:"range"`
	Range6   netip.Prefix   `json:"range6,omitzero"` // of the IPv6 addresses beside those of Range
	Subnet   netip.Prefix   `json:"default_subnet"`
	Reserved []netip.Prefix `json:"reserved,omitempty"`
	Map      string         `json:"map,omitempty"` // 8 hexadecimal digits, equal on hosts that share it; empty: there is none yet
	Founders []string       `json:"founders"`      // names
	Waiting  string         `json:"waiting,omitempty"`

	Hosts     []IPAMHost  `json:"hosts"`
	Used      int         `json:"used"`    // addresses in use here
	Held      int         `json:"held"`    // of this host's blocks, by other hosts
	Resting   int         `json:"resting"` // released, not given again for a while
	Fenced    int         `json:"fenced"`  // in use here, but another host's
	Pending   int         `json:"pending"` // requests that wait
	Conflicts int         `json:"conflicts"`
	Leaving   bool        `json:"leaving,omitempty"`
	SaveError string      `json:"save_error,omitempty"` // why nothing is given out
	Events    []IPAMEvent `json:"events"`               // the last ones, oldest first

	Ranges []IPAMRange `json:"ranges,omitempty"` // of one owner each, in order
	Uses   []IPAMUse   `json:"uses,omitempty"`   // the addresses that are not simply free here, in order
}

// noNulls is as a Status's.
func (i *IPAM) noNulls() {
	i.Founders, i.Hosts, i.Events = filled(i.Founders), filled(i.Hosts), filled(i.Events)
}

// IPAMHost is one host's share of the range.
type IPAMHost struct {
	Host      string `json:"host"` // name
	Nickname  string `json:"nickname"`
	Blocks    int    `json:"blocks"`
	Addresses int    `json:"addresses"` // in them
	Free      int    `json:"free"`      // of them, as it said last; of this host: now
	Reachable bool   `json:"reachable"`
}

// IPAMEvent is something that happened to the address map.
type IPAMEvent struct {
	Time    time.Time  `json:"time"`
	Kind    string     `json:"kind"` // fenced, unfenced, lost, conflict, recovery, clone, meeting, joined, taken, range
	Host    string     `json:"host,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	Text    string     `json:"text"`
}

// IPAMRange is a part of the range with one owner.
type IPAMRange struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
	Host  string     `json:"host"` // name
}

// IPAMUse is an address that is not simply free here.
type IPAMUse struct {
	Address netip.Prefix `json:"address"`
	For     string       `json:"for,omitempty"`
	State   string       `json:"state"`            // used, held, resting, kept, foreign, returning, outside, fenced
	Holder  string       `json:"holder,omitempty"` // of one that is held: the host that has it
	Owner   string       `json:"owner,omitempty"`  // the host whose block it is in
}

// AllocateRequest asks for an address by name.
type AllocateRequest struct {
	For      string       `json:"for"`
	Subnet   netip.Prefix `json:"subnet,omitzero"`  // where from; of a given address: its network
	Address  netip.Addr   `json:"address,omitzero"` // this one and no other
	Sticky   bool         `json:"sticky,omitempty"` // after release keep it for the name while there are others
	Deadline Duration     `json:"deadline,omitzero"`
}

// Address is an address that was given.
type Address struct {
	Version   int            `json:"version"`
	For       string         `json:"for"`
	Addresses []netip.Prefix `json:"addresses"` // with the length of the subnet; the IPv6 one beside it
}

// ReleaseRequest gives addresses back.
type ReleaseRequest struct {
	For     string     `json:"for"`
	Address netip.Addr `json:"address,omitzero"` // zero: all
}

// LeaveRequest hands this host's blocks over.
type LeaveRequest struct {
	Deadline Duration `json:"deadline,omitzero"` // 0: 2m
}

// RemoveRequest names a host that is gone for good.
type RemoveRequest struct {
	Host  string `json:"host"` // nickname or name
	Force bool   `json:"force,omitempty"`
	Check bool   `json:"check,omitempty"` // only say whether there is such a host to remove
}

// Moved is how much changed hands.
type Moved struct {
	Version int    `json:"version"`
	Done    bool   `json:"done"`
	Count   int    `json:"count"`          // addresses of Release, blocks of Leave and Remove
	Left    int    `json:"left,omitempty"` // blocks that Leave has still to hand over
	Host    string `json:"host,omitempty"` // name, of Remove
}

// ipamRoutes adds what is about addresses.
func (s *Server) ipamRoutes(mux *http.ServeMux) {
	b := s.cfg.Backend
	mux.HandleFunc("GET "+pathIPAM, func(w http.ResponseWriter, r *http.Request) {
		all, err := b.IPAM(r.Context())
		all.Version = Version
		all.noNulls()
		s.answer(w, all, err)
	})
	versionMoved := func(m *Moved) { m.Version = Version }
	mux.HandleFunc("POST "+pathAllocate, question(s, b.Allocate, func(a *Address) { a.Version = Version }))
	mux.HandleFunc("POST "+pathRelease, question(s, b.Release, versionMoved))
	mux.HandleFunc("POST "+pathStart, command(s, bare(b.Start)))
	mux.HandleFunc("POST "+pathAdopt, command(s, bare(b.Adopt)))
	mux.HandleFunc("POST "+pathLeave, question(s, b.Leave, versionMoved))
	mux.HandleFunc("POST "+pathRemove, question(s, b.Remove, versionMoved))
}

// IPAM asks for all of the address map.
func (c *Client) IPAM(ctx context.Context) (IPAM, error) {
	return ask[IPAM](ctx, c, http.MethodGet, pathIPAM, nil)
}

// Allocate asks for an address.
func (c *Client) Allocate(ctx context.Context, r AllocateRequest) (Address, error) {
	return ask[Address](ctx, c, http.MethodPost, pathAllocate, r)
}

// Release gives addresses back.
func (c *Client) Release(ctx context.Context, r ReleaseRequest) (Moved, error) {
	return ask[Moved](ctx, c, http.MethodPost, pathRelease, r)
}

// Start begins the address map.
func (c *Client) Start(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathStart, nil, nil)
}

// Adopt goes over to the other address map.
func (c *Client) Adopt(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathAdopt, nil, nil)
}

// Leave hands this host's blocks over; it is called again until Done.
func (c *Client) Leave(ctx context.Context, r LeaveRequest) (Moved, error) {
	return ask[Moved](ctx, c, http.MethodPost, pathLeave, r)
}

// Remove takes over what a host had that is gone for good.
func (c *Client) Remove(ctx context.Context, r RemoveRequest) (Moved, error) {
	return ask[Moved](ctx, c, http.MethodPost, pathRemove, r)
}
