package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// TestBadInput: whatever `ripstop up` is given that cannot be, it ends with a
// sentence that names cause and remedy, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 1})
	host := s.Host("a")
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(s.Dir(), name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	otherFormat := filepath.Join(s.Dir(), "otherstate")
	if err := os.Mkdir(otherFormat, 0o700); err != nil {
		t.Fatal(err)
	}
	file("otherstate/format", "ripstop state 99\n", 0o600)
	foreign := filepath.Join(s.Dir(), "foreignstate")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	file("foreignstate/precious", "somebody else's\n", 0o600)
	key := file("key.pem", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n", 0o600)
	short := file("short", "too short\n", 0o600)
	cut := file("cut", s.token[:len(s.token)-4]+"\n", 0o600)
	peers := file("peers", "good.example\nbad peer with spaces\n", 0o600)
	secret := file("secret", s.token+"\n", 0o600)
	must := func(args ...string) {
		if r, err := host.Exec(s.ctx, "ip", args...); err != nil || r.Code != 0 {
			t.Fatalf("ip %v: %+v, %v", args, r, err)
		}
	}
	must("link", "add", "wrongkind", "type", "veth", "peer", "name", "wrongpeer")
	must("link", "add", "isbridge", "type", "bridge")
	before, err := host.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		says   []string
		around []string // a program that runs ours
	}{
		{name: "bad peer", args: []string{"--secret-file", secret, "vm one"}, code: 2, says: []string{"vm one"}},
		{name: "bad port in a peer", args: []string{"--secret-file", secret, "vm1:70000"}, code: 2, says: []string{"70000"}},
		{name: "peers without a secret", args: []string{"vm1"}, code: 2, says: []string{"no secret: run `ripstop secret new` once and bring its output to every host"}},
		{name: "MTU too large", args: []string{"--mtu", "70000"}, code: 2, says: []string{"--mtu", "70000"}},
		{name: "MTU too small", args: []string{"--mtu", "67"}, code: 2, says: []string{"--mtu", "67"}},
		{name: "unknown mode", args: []string{"--mode", "turbo"}, code: 2, says: []string{"--mode", "routed"}},
		{name: "unknown flag", args: []string{"--frobnicate"}, code: 2, says: []string{"--frobnicate", "ripstop help up"}},
		{name: "missing secret file", args: []string{"--secret-file", "/nowhere/secret"}, code: 1, says: []string{"/nowhere/secret", "--secret-file"}},
		{name: "secret file is a directory", args: []string{"--secret-file", s.Dir()}, code: 1, says: []string{s.Dir(), "--secret-file"}},
		{name: "foreign secret file", args: []string{"--secret-file", key}, code: 1, says: []string{key, "ripstop secret new"}},
		{name: "short passphrase", args: []string{"--secret-file", short}, code: 1, says: []string{"12"}},
		{name: "token cut short", args: []string{"--secret-file", cut}, code: 1, says: []string{cut}},
		{name: "bad line in the peers file", args: []string{"--secret-file", secret, "--peers-file", peers}, code: 1, says: []string{peers, "line 2"}},
		{name: "state of another format", args: []string{"--state", otherFormat}, code: 1, says: []string{otherFormat, "99"}},
		{name: "state directory of somebody else", args: []string{"--state", foreign}, code: 1, says: []string{foreign}},
		{name: "bridge name of another kind", args: []string{"--bridge", "wrongkind"}, code: 1, says: []string{"wrongkind", "veth", "--bridge"}},
		{name: "device name of another kind", args: []string{"--device", "isbridge"}, code: 1, says: []string{"isbridge", "--device"}},
		{name: "address that is not ours", args: []string{"--bind", "203.0.113.77"}, code: 1, says: []string{"203.0.113.77"}},
		{name: "link-local address without an interface", args: []string{"--bind", "fe80::77"}, code: 1, says: []string{"fe80::77", "%eth0", "--bind"}},
		{name: "no such group", args: []string{"--socket-group", "nosuchgroup"}, code: 1, says: []string{"nosuchgroup"}},
		{name: "socket in a file's place", args: []string{"--socket", key}, code: 1, says: []string{key, "--socket"}},
		{
			name: "no /dev/net/tun", code: 1, says: []string{"/dev/net/tun"},
			around: []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /dev/net && exec "$0" "$@"`},
		},
		{
			name: "no CAP_NET_ADMIN", code: 1, says: []string{"CAP_NET_ADMIN"},
			around: []string{"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := filepath.Join(s.Dir(), "state-"+strings.ReplaceAll(strings.ReplaceAll(c.name, " ", "-"), "/", "-"))
			args := append(slices.Clone(c.around), program, "up")
			if !slices.Contains(c.args, "--state") {
				args = append(args, "--state", state)
			}
			if !slices.Contains(c.args, "--socket") {
				args = append(args, "--socket", filepath.Join(s.Dir(), "bad.sock"))
			}
			ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
			defer cancel()
			r, err := host.Exec(ctx, args[0], append(args[1:], c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Code != c.code {
				t.Errorf("exit code %d, want %d: %s", r.Code, c.code, r.Err)
			}
			for _, want := range c.says {
				if !strings.Contains(r.Err, want) {
					t.Errorf("it does not speak of %q: %s", want, r.Err)
				}
			}
			if strings.Contains(r.Err, "goroutine ") || strings.Contains(r.Err, "panic") {
				t.Errorf("it crashed: %s", r.Err)
			}
			if lines := strings.Count(strings.TrimSpace(r.Err), "\n"); c.code == 2 && lines > 1 {
				t.Errorf("%d lines for misuse: %s", lines+1, r.Err)
			}
			after, err := host.Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(before, after) {
				t.Errorf("interfaces before %v, after %v", before, after)
			}
			if _, err := os.Stat(filepath.Join(s.Dir(), "bad.sock")); err == nil {
				t.Error("the socket is left behind")
			}
			if left, err := os.ReadDir(state); err == nil {
				t.Errorf("the state directory is left behind, with %v", left)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(foreign, "precious")); err != nil || string(b) != "somebody else's\n" {
		t.Errorf("the foreign directory was touched: %q, %v", b, err)
	}
}

// TestFailedStartDecidesNothing: what a start that failed was told, and the network it
// would have made, is not there for the next one.
func TestFailedStartDecidesNothing(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	host := s.Host("a")
	powerless := func(args ...string) {
		t.Helper()
		args = append([]string{"--bounding-set=-net_admin", "--inh-caps=-net_admin", program, "up", "--state", host.State(), "--socket", host.Socket()}, args...)
		if r, err := host.Exec(s.ctx, "setpriv", args...); err != nil || r.Code != 1 || !strings.Contains(r.Err, "CAP_NET_ADMIN") {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if err := os.MkdirAll(host.State(), 0o700); err != nil { // as a service manager makes it
		t.Fatal(err)
	}
	powerless()
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	if r, err := host.Exec(ctx, program, "up", "--state", host.State(), "--socket", host.Socket(), "192.0.2.1"); err != nil || r.Code != 2 || !strings.Contains(r.Err, "no secret") {
		t.Errorf("peers without a secret after a failed start: %+v, %v", r, err)
	}
	secret := filepath.Join(s.Dir(), "secret")
	if err := os.WriteFile(secret, []byte(s.token), 0o600); err != nil {
		t.Fatal(err)
	}
	powerless("--secret-file", secret, "192.0.2.1")
	if _, err := host.Start(lab.StartConfig{}); err != nil {
		t.Fatal(err)
	}
	if st := s.status("a"); len(st.Targets) != 0 {
		t.Errorf("targets of a failed start: %+v", st.Targets)
	}
	if token := strings.TrimSpace(s.run("a", "secret", "show", "--state", host.State())); token == s.token {
		t.Error("the network of a failed start")
	}
}

// TestResetAsAnotherUser: reset names the remedy where it may not do its work.
func TestResetAsAnotherUser(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	host := s.Host("a")
	dir := filepath.Dir(program)
	if err := os.Chmod(dir, 0o755); err != nil { // for the other user to run it
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	r, err := host.Exec(s.ctx, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program,
		"--socket", filepath.Join(s.Dir(), "none", "sock"), "reset", "--yes", "--state", filepath.Join(s.Dir(), "state"))
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "run it as root") || strings.Count(r.Err, "\n") > 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestTakenPlaces: a port, a state directory and a bridge that another ripstop uses.
func TestTakenPlaces(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	d := s.up("a", lab.StartConfig{})
	host := s.Host("a")
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"state directory", []string{"--state", host.State()}, []string{fmt.Sprint(d.PID())}},
		{"port", nil, []string{"6783", "--port"}},
		{"device", []string{"--port", "6784"}, []string{"ripstop0", "--device"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"up", "--socket", filepath.Join(s.Dir(), "second.sock")}
			if !slices.Contains(c.args, "--state") {
				args = append(args, "--state", filepath.Join(s.Dir(), "second"))
			}
			ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
			defer cancel()
			r, err := host.Exec(ctx, program, append(args, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Code != 1 {
				t.Errorf("exit code %d: %s", r.Code, r.Err)
			}
			for _, want := range c.says {
				if !strings.Contains(r.Err, want) {
					t.Errorf("it does not speak of %q: %s", want, r.Err)
				}
			}
		})
	}
	if st := s.status("a"); st.PID != d.PID() {
		t.Error("the first daemon suffered")
	}
}

// TestStopIsQuick: SIGTERM and `ripstop stop` end a daemon within two seconds, and
// a bridge with nothing attached goes with it.
func TestStopIsQuick(t *testing.T) {
	s := tell(t, line("a", "b"))
	s.upAll()
	s.reach("a", "b")
	for _, how := range []string{"SIGTERM", "ripstop stop"} {
		d := s.Host("a").Daemon()
		start := time.Now()
		if how == "SIGTERM" {
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
		} else {
			s.run("a", "stop")
			<-d.Done()
		}
		took := time.Since(start)
		t.Logf("%s took %v", how, took.Round(time.Millisecond))
		if took > 2*time.Second || d.Code() != 0 {
			t.Errorf("%s: %v, exit code %d", how, took, d.Code())
		}
		left, err := s.Host("a").Interfaces()
		if err != nil || slices.Contains(left, "ripstop") || slices.Contains(left, "ripstop0") {
			t.Errorf("%s: interfaces left: %v, %v", how, left, err)
		}
		if _, err := s.Host("a").Start(lab.StartConfig{}); err != nil {
			t.Fatal(err)
		}
		s.reach("a", "b")
	}
}

// TestReset removes everything of ripstop's, whether the daemon runs or not.
func TestReset(t *testing.T) {
	s := tell(t, line("a", "b"))
	for _, running := range []bool{true, false} {
		s.up("a", lab.StartConfig{})
		s.attach("a1")
		if !running {
			if err := s.Host("a").Daemon().Stop(); err != nil {
				t.Fatal(err)
			}
		}
		s.run("a", "reset", "--yes", "--state", s.Host("a").State())
		if d := s.Host("a").Daemon(); d != nil {
			<-d.Done()
		}
		left, err := s.Host("a").Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range left {
			if strings.HasPrefix(name, "rip") {
				t.Errorf("running %v: interface %s is left", running, name)
			}
		}
		if entries, err := os.ReadDir(s.Host("a").State()); err == nil && len(entries) > 0 {
			t.Errorf("running %v: the state directory holds %v", running, entries)
		}
	}
	// What it cannot tell to be its own it leaves, and says so.
	s.up("a", lab.StartConfig{})
	s.run("a", "expose", "--address", "10.32.0.7/12")
	if err := s.Host("a").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.Host("a").State()); err != nil {
		t.Fatal(err)
	}
	r, err := s.Host("a").Ripstop(s.ctx, "reset", "--yes", "--state", s.Host("a").State())
	if err != nil || r.Code != 0 || !strings.Contains(r.Err, "ip link delete ripstop") {
		t.Errorf("a bridge that stays: %+v, %v", r, err)
	}
}
