package page

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/api/apitest"
)

// told is a daemon that tells what it is told to.
type told struct {
	status   api.Status
	topology api.Topology
	names    api.Names
	slow     time.Duration // how long a status takes

	mu     sync.Mutex // guards errs
	errs   map[string]error
	polls  atomic.Int64
	beside atomic.Int64 // polls at once, now
	most   atomic.Int64 // and at most
}

func (d *told) fail(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs = map[string]error{what: err}
}

func (d *told) err(what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.errs[what]
}

func (d *told) Status(ctx context.Context) (api.Status, error) {
	d.polls.Add(1)
	d.most.Store(max(d.most.Load(), d.beside.Add(1)))
	defer d.beside.Add(-1)
	select {
	case <-time.After(d.slow):
	case <-ctx.Done():
		return api.Status{}, ctx.Err()
	}
	return d.status, d.err("status")
}
func (d *told) Topology(context.Context) (api.Topology, error) { return d.topology, d.err("topology") }
func (d *told) Names(context.Context) (api.Names, error)       { return d.names, d.err("names") }

// read is what the poller has for one who looks.
func read(t *testing.T, p *poller) (v view) {
	t.Helper()
	body, err := p.view(t.Context())
	if err != nil {
		t.Error(err)
	}
	if err := json.Unmarshal(body, &v); err != nil {
		t.Error(err)
	}
	return v
}

// TestOnePoll: however many look, the daemon is asked once in a second at most, by one of
// them, and not at all while nobody looks.
func TestOnePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &told{status: api.Status{Name: "x"}, slow: 300 * time.Millisecond}
		p := newPoller(d)
		polls := func(want int64, when string) {
			t.Helper()
			if n := d.polls.Load(); n != want {
				t.Errorf("%s: %d polls, want %d", when, n, want)
			}
		}
		time.Sleep(time.Hour)
		polls(0, "nobody looks")
		look := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if v := read(t, p); v.Problem != "" || len(v.Hosts) != 1 {
						t.Errorf("%+v", v)
					}
				})
			}
			wg.Wait()
		}
		look(50)
		polls(1, "50 look")
		time.Sleep(every - time.Millisecond)
		look(50)
		polls(1, "a moment before the second is over")
		time.Sleep(time.Millisecond)
		look(50)
		polls(2, "after it")
		time.Sleep(time.Hour)
		polls(2, "an hour after")
		if n := d.most.Load(); n != 1 {
			t.Errorf("%d polls at once", n)
		}

		// Who leaves while he waits for the daemon takes nobody's answer along.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.view(ctx); err == nil {
			t.Error("who left was answered")
		}
		look(2)
		polls(4, "one has left")
	})
}

// TestDaemonFails: why there is no answer is said, and what comes after it is new again.
func TestDaemonFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &told{status: api.Status{Name: "x"}}
		p := newPoller(d)
		for what, c := range map[string]struct {
			err  error
			want string
		}{
			"status":   {api.Errorf(api.CodeStopping, "the daemon is on its way down"), "the daemon is on its way down"},
			"topology": {api.Errorf(api.CodeNotFound, "GET /v1/topology is not part of it"), "older version"},
			"names":    {context.DeadlineExceeded, "no answer within 5s"},
		} {
			d.fail(what, c.err)
			if v := read(t, p); !strings.Contains(v.Problem, c.want) || v.Hosts != nil {
				t.Errorf("%s: %+v", what, v)
			}
			d.fail("", nil)
			time.Sleep(every)
			if v := read(t, p); v.Problem != "" || len(v.Hosts) != 1 {
				t.Errorf("after %s: %+v", what, v)
			}
			time.Sleep(every)
		}
		d.fail("topology", api.Errorf(api.CodeInternal, "no luck"))
		if v := read(t, p); v.Problem != "no luck" {
			t.Errorf("%+v", v)
		}
		time.Sleep(every)
		d.slow = time.Minute
		start := time.Now()
		if v := read(t, p); !strings.Contains(v.Problem, "no answer within 5s") || time.Since(start) != pollTimeout {
			t.Errorf("after %v: %+v", time.Since(start), v)
		}
	})
}

// TestSocketComesAndGoes: the page goes on when a daemon that was not there answers.
func TestSocketComesAndGoes(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	client := api.NewClient(socket)
	defer client.Close()
	p := newPoller(client)
	if v := read(t, p); !strings.Contains(v.Problem, socket) || !strings.Contains(v.Problem, "no daemon answers") || strings.HasPrefix(v.Problem, "api") {
		t.Errorf("without a daemon: %+v", v)
	}
	stop := apitest.ServeAt(t, socket, backend{})
	p.at = time.Time{}
	if v := read(t, p); v.Problem != "" || len(v.Hosts) != 1 || v.Hosts[0].Nickname != "a" {
		t.Errorf("with one: %+v", v)
	}
	stop()
}

// backend answers what a poll asks, and nothing else.
type backend struct{ api.Backend }

func (backend) Status(context.Context) (api.Status, error) { return api.Status{Nickname: "a"}, nil }
func (backend) Topology(context.Context) (api.Topology, error) {
	return api.Topology{}, nil
}
func (backend) Names(context.Context) (api.Names, error) { return api.Names{}, nil }
