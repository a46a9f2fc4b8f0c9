package api

import (
	"context"
	"net/http"
)

// InternalsRequest says what else is wanted.
type InternalsRequest struct {
	Stacks bool `json:"stacks,omitempty"`
}

// Internals is what a daemon knows of itself beside its Status: of use to who looks for a
// fault in it. There is no secret and no key in it.
type Internals struct {
	Version  int               `json:"version"`
	Sizes    map[string]int    `json:"sizes"`              // of tables, by name
	Settings map[string]string `json:"settings"`           // what `up` was asked for
	Log      []string          `json:"log"`                // its last lines, oldest first
	LogLost  int               `json:"log_lost,omitempty"` // lines before them that were not kept
	Stacks   string            `json:"stacks,omitempty"`   // of its goroutines, those that are alike once, without arguments
}

func (i *Internals) settle() {
	i.Version = Version
	i.Log = filled(i.Log)
	if i.Sizes == nil {
		i.Sizes = map[string]int{}
	}
	if i.Settings == nil {
		i.Settings = map[string]string{}
	}
}

// Internals asks for what the daemon knows of itself.
func (c *Client) Internals(ctx context.Context, r InternalsRequest) (Internals, error) {
	return ask[Internals](ctx, c, http.MethodPost, pathInternals, r)
}
