package api

import (
	"context"
	"net/http"
)

// MaxTopologyLinks is how many links a Topology has at most.
const MaxTopologyLinks = 16384

// Topology is who links with whom, as the records of all hosts tell it here.
type Topology struct {
	Version int            `json:"version"`
	Hosts   []TopologyHost `json:"hosts"`              // by name, this one among them
	Links   []TopologyLink `json:"links"`              // by From, then To
	LeftOut int            `json:"left_out,omitempty"` // links beyond MaxTopologyLinks
}

func (t *Topology) settle() {
	t.Version = Version
	t.Hosts, t.Links = filled(t.Hosts), filled(t.Links)
	if n := len(t.Links) - MaxTopologyLinks; n > 0 {
		t.Links, t.LeftOut = t.Links[:MaxTopologyLinks], n
	}
}

// TopologyHost is a member of the network.
type TopologyHost struct {
	Name      string `json:"name"`
	Nickname  string `json:"nickname"`
	Alive     bool   `json:"alive"`     // some host has a link with it
	Reachable bool   `json:"reachable"` // there is a way to it from here
}

// The states of a TopologyLink.
const (
	TopologyUp   = "up"   // both ends tell of it: frames may take it
	TopologyHalf = "half" // From tells of it, To does not: no frame takes it
	TopologyOld  = "old"  // neither end is alive: it is what they told last
)

// TopologyLink is a link of which a host's record tells. Of one that is up or old, From is
// the end with the lower name; of one that only one end tells of, From is that end.
type TopologyLink struct {
	From      string  `json:"from"` // name
	To        string  `json:"to"`   // name
	State     string  `json:"state"`
	Path      string  `json:"path,omitempty"` // udp or tcp: what the slower end uses
	RTTMicro  int64   `json:"rtt_us"`         // as the ends tell it, the greater one
	Loss      float64 `json:"loss"`           // 0 to 1, as well
	CostMicro int64   `json:"cost_us"`        // as ways are compared by it: round trip, losses, and the hop
}

// Topology asks who links with whom.
func (c *Client) Topology(ctx context.Context) (Topology, error) {
	return ask[Topology](ctx, c, http.MethodGet, pathTopology, nil)
}
