package page

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"ripstop/mesh/api"
)

const (
	// every is how far polls of the daemon are apart at least.
	every = time.Second
	// pollTimeout is how long one may take; the server's answer has to leave after it.
	pollTimeout = 5 * time.Second
)

// Daemon is what is asked; an *api.Client is one.
type Daemon interface {
	Status(context.Context) (api.Status, error)
	Topology(context.Context) (api.Topology, error)
	Names(context.Context) (api.Names, error)
}

// poller asks the daemon when somebody looks.
type poller struct {
	daemon Daemon
	turn   chan struct{} // held by the one who asks, and by who reads or writes what follows
	last   []byte        // the view as JSON
	at     time.Time     // when the last poll was over
}

func newPoller(d Daemon) *poller { return &poller{daemon: d, turn: make(chan struct{}, 1)} }

// view is the view as JSON, made anew unless the last one is fresh. It fails only when ctx
// ends; that the daemon fails is what the view says then.
func (p *poller) view(ctx context.Context) ([]byte, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.turn }()
	if p.last != nil && time.Since(p.at) < every {
		return p.last, nil
	}
	v := p.ask(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err // who asked has gone, and what failed by that is nobody's
	}
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	p.last, p.at = body, time.Now()
	return p.last, nil
}

// ask makes a view of what the daemon tells now.
func (p *poller) ask(ctx context.Context) view {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	status, err := p.daemon.Status(ctx)
	if err != nil {
		return view{Version: api.Version, Problem: problem(err)}
	}
	topology, err := p.daemon.Topology(ctx)
	if api.IsCode(err, api.CodeNotFound) {
		return view{Version: api.Version, Problem: "it is of an older version that does not tell who links with whom: restart it with this one"}
	}
	if err != nil {
		return view{Version: api.Version, Problem: problem(err)}
	}
	names, err := p.daemon.Names(ctx)
	if err != nil {
		return view{Version: api.Version, Problem: problem(err)}
	}
	return newView(status, topology, names)
}

// problem says why the daemon did not answer.
func problem(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer within " + pollTimeout.String()
	}
	return strings.TrimPrefix(err.Error(), "api: ")
}
