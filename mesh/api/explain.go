package api

import (
	"context"
	"net/http"
)

// MaxPlace is how many characters From and To of an ExplainRequest may have: the longest
// DNS name, with a dot behind it.
const MaxPlace = 254

// ExplainRequest asks how a frame gets to a place.
type ExplainRequest struct {
	// From is an endpoint of this host, by name, address, MAC or namespace; empty: any of them.
	From string `json:"from,omitempty"`
	// To is an overlay address, a MAC, a name as `dns lookup` takes it, or a host by
	// nickname or name: what it is first, in this order, counts.
	To string `json:"to"`
}

// Explanation is how a frame gets there, or why it does not.
type Explanation struct {
	Version int    `json:"version"`
	From    string `json:"from"` // as people call it
	To      string `json:"to"`   // as it was asked for
	Steps   []Step `json:"steps"`
	// Way is the hosts that the frame passes, by name: this one first, that of To last; empty
	// where it does not get there, or does not go to one host.
	Way     []string `json:"way"`
	Arrives bool     `json:"arrives"`          // it gets there: no step failed
	Verdict string   `json:"verdict"`          // a sentence
	Advice  string   `json:"advice,omitempty"` // what to do when it does not
}

func (e *Explanation) settle() {
	e.Version = Version
	e.Steps, e.Way = filled(e.Steps), filled(e.Way)
}

// The states of a Step.
const (
	StepOK   = "ok"
	StepWarn = "warn" // it gets on, but not as it should
	StepFail = "fail" // it gets no further
)

// What a Step is about, in the order in which they come; some come more than once.
const (
	StepFrom     = "from"     // where the frame comes from, and what its port may send
	StepName     = "name"     // what To, a name, stands for
	StepAddress  = "address"  // To, an address that no endpoint has
	StepMAC      = "mac"      // To, a MAC that no endpoint has
	StepEndpoint = "endpoint" // who has the address or MAC
	StepHost     = "host"     // the endpoint's
	StepWay      = "way"      // the hosts to pass
	StepMissing  = "missing"  // a link without which there is no way
	StepLink     = "link"     // with the first host of the way
	StepSession  = "session"  // with the endpoint's host
	StepMTU      = "mtu"      // what goes in one datagram
	StepOffloads = "offloads" // what is left out between the two kernels
)

// Step is one thing that has to be right for the frame to get there.
type Step struct {
	What   string `json:"what"`
	State  string `json:"state"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// Explain asks how a frame gets to a place.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	return ask[Explanation](ctx, c, http.MethodPost, pathExplain, r)
}
