package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// patience is how long a scenario waits for what must come; what it took is
// printed. It is generous: the machine may be busy.
const patience = 30 * time.Second

// program is the path of the binary under test, built once by TestMain.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ripstop-program-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "ripstop")
	build := exec.Command("go", "build", "-o", program, "ripstop")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if raced() {
		build = exec.Command("go", "build", "-race", "-o", program, "ripstop")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// raced reports whether the program under test is built with the race detector, which
// needs a C compiler: a report in a daemon's log then fails the scenario.
func raced() bool { return os.Getenv("RIPSTOP_RACE") != "" }

// story is one scenario: a lab and what is told in it.
type story struct {
	*testing.T
	*lab.Lab
	ctx   context.Context
	token string
	macs  map[string][6]byte // of endpoints, by name
}

// tell lays out a lab for a scenario, and takes it away afterwards: whatever is
// left then fails the scenario.
func tell(t *testing.T, cfg lab.Config) *story {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("RIPSTOP_CI") != "" {
			t.Fatal("scenarios need root")
		}
		t.Skip("scenarios make network namespaces: run as root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	cfg.Binary = program
	before := count(t)
	l, err := lab.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &story{T: t, Lab: l, ctx: ctx}
	s.token = s.secret("auto")
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range l.Hosts() {
				if r, err := h.Ripstop(context.Background(), "status", "--json"); err == nil {
					t.Logf("status of %s: %s", h.Name(), r.Out)
				}
				if log, err := os.ReadFile(h.LogFile()); err == nil {
					t.Logf("log of %s:\n%s", h.Name(), log)
				}
			}
		}
		logs := make(map[string][]byte)
		err := l.StopAll()
		for _, h := range l.Hosts() {
			logs[h.Name()], _ = os.ReadFile(h.LogFile())
		}
		if err := errors.Join(err, l.Close()); err != nil {
			t.Errorf("left behind: %v", err)
		}
		for name, log := range logs {
			if _, report, found := strings.Cut(string(log), "WARNING: DATA RACE"); found {
				t.Errorf("a data race in %s:%s", name, report)
			}
		}
		s.eventually("descriptors and goroutines are back to the start", func() error {
			if after := count(t); after.descriptors > before.descriptors || after.goroutines > before.goroutines {
				return fmt.Errorf("before %+v, after %+v", before, after)
			}
			return nil
		})
	})
	return s
}

// secret makes a token.
func (s *story) secret(cipher string) string {
	s.Helper()
	out, err := exec.CommandContext(s.ctx, program, "secret", "new", "--cipher", cipher).Output()
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// up starts the daemon of a host, with the story's token unless cfg says otherwise.
func (s *story) up(host string, cfg lab.StartConfig) *lab.Daemon {
	s.Helper()
	if cfg.Secret == "" {
		cfg.Secret = s.token
	}
	d, err := s.Host(host).Start(cfg)
	if err != nil {
		s.Fatal(err)
	}
	return d
}

// upAll starts every host; each is told of the hosts it shares a link with and
// that were started before it.
func (s *story) upAll(args ...string) {
	s.Helper()
	var started []*lab.Host
	for _, h := range s.Hosts() {
		var peers []string
		for _, other := range started {
			if _, ok := h.Addr(other); ok {
				peers = append(peers, other.Name())
			}
		}
		s.up(h.Name(), lab.StartConfig{Peers: peers, Args: args})
		started = append(started, h)
	}
}

// run runs a command in a host and wants it to succeed; its output is returned.
func (s *story) run(host string, args ...string) string {
	s.Helper()
	r, err := s.Host(host).Ripstop(s.ctx, args...)
	if err != nil {
		s.Fatal(err)
	}
	if r.Code != 0 {
		s.Fatalf("%s: ripstop %s: exit code %d: %s", host, strings.Join(args, " "), r.Code, r.Err)
	}
	return r.Out
}

// status is what a host's daemon says of itself.
func (s *story) status(host string) api.Status {
	s.Helper()
	var status api.Status
	if err := json.Unmarshal([]byte(s.run(host, "status", "--json")), &status); err != nil {
		s.Fatalf("%s: status: %v", host, err)
	}
	return status
}

// eventually waits until check has no objection, and returns how long it took.
func (s *story) eventually(what string, check func() error) time.Duration {
	s.Helper()
	start := time.Now()
	for {
		err := check()
		took := time.Since(start)
		switch {
		case err == nil:
			s.Logf("%s after %v", what, took.Round(10*time.Millisecond))
			return took
		case took > patience:
			s.Fatalf("not within %v: %s: %v", patience, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// reach waits until every host has a way to every other.
func (s *story) reach(hosts ...string) time.Duration {
	s.Helper()
	return s.eventually(strings.Join(hosts, ", ")+" reach each other", func() error {
		for _, h := range hosts {
			reachable := make(map[string]bool)
			for _, p := range s.status(h).Peers {
				reachable[p.Nickname] = p.Reachable && p.Session != ""
			}
			for _, other := range hosts {
				if other != h && !reachable[other] {
					return fmt.Errorf("%s has no way to %s", h, other)
				}
			}
		}
		return nil
	})
}

// names are the names of all hosts.
func (s *story) names() []string {
	var all []string
	for _, h := range s.Hosts() {
		all = append(all, h.Name())
	}
	return all
}

// attach attaches the containers, container n at 10.32.0.n, and returns their addresses.
func (s *story) attach(containers ...string) []netip.Addr {
	s.Helper()
	var all []netip.Addr
	for i, c := range containers {
		a := netip.AddrFrom4([4]byte{10, 32, 0, byte(i + 1)})
		if err := s.Container(c).Attach(s.ctx, a.String()+"/24"); err != nil {
			s.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// known waits until every host knows of n endpoints.
func (s *story) known(n int) {
	s.Helper()
	s.eventually(fmt.Sprintf("every host knows of %d endpoints", n), func() error {
		for _, h := range s.names() {
			if got := len(s.status(h).Endpoints); got != n {
				return fmt.Errorf("%s knows %d", h, got)
			}
		}
		return nil
	})
}

// ping sends pings and wants every one answered; it returns them.
func (s *story) ping(from string, to netip.Addr, cfg lab.PingConfig) []lab.PingReply {
	s.Helper()
	replies, err := s.Container(from).Ping(s.ctx, to, cfg)
	if err != nil {
		s.Fatalf("%s pings %s: %v", from, to, err)
	}
	return replies
}

// short is a context for what must fail soon.
func (s *story) short() context.Context {
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	s.Cleanup(cancel)
	return ctx
}

// resources are what a scenario must give back.
type resources struct{ descriptors, goroutines int }

// count counts this process's descriptors and goroutines.
func count(t *testing.T) resources {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return resources{descriptors: len(fds), goroutines: runtime.NumGoroutine()}
}
