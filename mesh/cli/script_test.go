package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
	"ripstop/mesh/runtimes/netavark"
	"ripstop/tun/tuntest"
)

func TestMain(m *testing.M) {
	program := func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(Main(ctx, os.Args, Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv}))
	}
	if netavark.Called(os.Args[0]) { // which testscript makes a bare name
		program()
	}
	testscript.Main(m, map[string]func(){"ripstop": program})
}

// TestScripts runs the command line as a person does; testdata/script holds what is
// typed and what has to come of it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitCode,
			"misuse":   isMisuse,
			"twolines": func(ts *testscript.TestScript, _ bool, _ []string) { twoLines(ts) },
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[0]))
				ts.Check(err)
				if got := info.Mode().String(); got != args[1] {
					ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
				}
			},
		},
	})
}

// exitCode runs a command that has to end with that code.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		m := regexp.MustCompile(`exit status (\d+)`).FindStringSubmatch(err.Error())
		if m == nil {
			ts.Fatalf("%v: %v", args, err)
		}
		got, _ = strconv.Atoi(m[1])
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d\n%s", args[1:], got, want, ts.ReadFile("stderr"))
	}
}

// isMisuse runs a command that has to be refused as misuse with a text that matches.
func isMisuse(ts *testscript.TestScript, _ bool, args []string) {
	exitCode(ts, false, append([]string{"2"}, args[1:]...))
	twoLines(ts)
	if text := ts.ReadFile("stderr"); !regexp.MustCompile(args[0]).MatchString(text) {
		ts.Fatalf("%v: stderr is\n%swant a match of %s", args[1:], text, args[0])
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("%v: stdout is\n%s", args[1:], out)
	}
}

func twoLines(ts *testscript.TestScript) {
	text := ts.ReadFile("stderr")
	if strings.Count(text, "\n") != 2 || !strings.HasPrefix(text, "ripstop: ") {
		ts.Fatalf("stderr is not two lines that begin with the program's name:\n%s", text)
	}
}

// TestDemoTellsTheTruth runs the demo and checks three of its facts against what its
// daemons say while it is kept up.
func TestDemoTellsTheTruth(t *testing.T) {
	tuntest.NeedRoot(t)
	cmd := exec.CommandContext(t.Context(), "ripstop", "demo", "--keep", "--json")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var out bytes.Buffer
	cmd.Stdout = &out
	narration, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	dir := ""
	lines := bufio.NewScanner(narration)
	for dir == "" && lines.Scan() {
		told.WriteString(lines.Text() + "\n")
		if m := regexp.MustCompile(`--socket (\S+)/a/sock status$`).FindStringSubmatch(lines.Text()); m != nil {
			dir = m[1]
		}
	}
	if dir == "" {
		cmd.Wait()
		t.Fatalf("the demo ended early:\n%s", told.String())
	}
	way, names := walk(t, dir, "a", "d"), endpointNames(t, dir, "d")
	cmd.Process.Signal(syscall.SIGTERM)
	for lines.Scan() {
		told.WriteString(lines.Text() + "\n")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, told.String())
	}
	var facts demoFacts
	if err := json.Unmarshal(out.Bytes(), &facts); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !slices.Equal(facts.Cut.WayAfter, way) || strings.Contains(strings.Join(way, "–"), facts.Cut.Link) {
		t.Errorf("it says the way without %s is %v, the hosts say %v", facts.Cut.Link, facts.Cut.WayAfter, way)
	}
	if link := facts.Cut.Link; link != "b–c" && link != "b–e" {
		t.Errorf("it cut the link %s", link)
	}
	if !slices.Equal(facts.Containers, names) {
		t.Errorf("it says the containers are %v, host d says %v", facts.Containers, names)
	}
	if facts.Version != api.Version || facts.Ping.TTL != 64 || facts.Sealed.Frames == 0 || facts.Sealed.InClear != 0 || facts.BitsPerSecond < 1e6 || facts.Cut.Duplicates != 0 {
		t.Errorf("facts %+v", facts)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left", dir)
	}
}

// ask asks the daemon of one of the demo's hosts.
func ask(t *testing.T, dir, host string) api.Status {
	t.Helper()
	client := api.NewClient(filepath.Join(dir, host, "sock"))
	defer client.Close()
	s, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// walk follows next hops by name, asking each host on the way.
func walk(t *testing.T, dir, from, to string) []string {
	t.Helper()
	way, at := []string{from}, from
	for range 8 {
		s := ask(t, dir, at)
		next := ""
		for _, r := range s.Routes {
			for _, p := range s.Peers {
				if p.Nickname == to && r.Peer == p.Name {
					next = r.Next
				}
			}
		}
		for _, p := range s.Peers {
			if p.Name == next {
				at = p.Nickname
			}
		}
		if way = append(way, at); at == to {
			break
		}
	}
	return way
}

func endpointNames(t *testing.T, dir, host string) (names []string) {
	t.Helper()
	for _, e := range ask(t, dir, host).Endpoints {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// TestAttachAndResetOnOneHost runs the commands against a real daemon, and reset
// against what a killed one left.
func TestAttachAndResetOnOneHost(t *testing.T) {
	tuntest.NeedRoot(t)
	binary, err := exec.LookPath("ripstop")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(lab.Config{Binary: binary, Hosts: []string{"a"}, Containers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	a, one := l.Host("a"), l.Container("a1")
	d, err := a.Start(lab.StartConfig{})
	if err != nil {
		t.Fatal(err)
	}
	run := func(code int, want string, args ...string) {
		t.Helper()
		r, err := a.Ripstop(t.Context(), args...)
		if err != nil || r.Code != code || !regexp.MustCompile(want).MatchString(r.Out+r.Err) {
			t.Fatalf("%v: code %d, want %d; %v\n%s%swant a match of %s", args, r.Code, code, err, r.Out, r.Err, want)
		}
	}
	interfaces := func(p *lab.Place) []string {
		t.Helper()
		names, err := p.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	first := []string{"attach", one.Netns(), "--address", "10.32.0.1/12", "--name", "one", "--json"}
	run(0, `"name": "one"`, first...)
	run(0, `"name": "one"`, first...) // once more changes nothing
	run(1, `--interface`, "attach", one.Netns(), "--address", "10.32.0.2/12")
	run(1, `in use on this host`, "attach", l.Container("a2").Netns(), "--address", "10.32.0.1/12")
	run(0, `^lan0 `, "attach", l.Container("a2").Netns(), "--address", "10.32.0.2/12", "--interface", "lan0")
	if got := interfaces(one.Place); !slices.Equal(got, []string{"rip0"}) {
		t.Errorf("interfaces in a1: %v", got)
	}
	run(0, `^ripstop `, "expose", "--address", "10.32.0.3/12")
	run(0, `(?s)one .*10\.32\.0\.2`, "status", "endpoints")
	run(0, ``, "detach", l.Container("a2").Netns())
	run(1, `ripstop: `, "detach", l.Container("a2").Netns())
	if got := interfaces(l.Container("a2").Place); len(got) != 0 {
		t.Errorf("interfaces in a2: %v", got)
	}
	run(0, `^rs1-`, "secret", "show", "--state", a.State())

	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	run(0, ``, "reset", "--yes", "--state", a.State())
	if got := slices.Concat(interfaces(a.Place), interfaces(one.Place)); len(got) != 0 {
		t.Errorf("left after reset without a daemon: %v", got)
	}
	if _, err := os.Lstat(a.State()); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the state is left after reset without a daemon")
	}
	if _, err := os.Lstat(a.Socket()); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the socket is left after reset without a daemon")
	}

	if d, err = a.Start(lab.StartConfig{}); err != nil {
		t.Fatal(err)
	}
	run(0, `"name": "one"`, first...)
	run(1, `process \d+`, "up", "--state", a.State(), "--socket", a.Socket()+"2")
	run(1, `daemon runs on it`, "reset", "--yes", "--state", a.State(), "--socket", a.Socket()+"2")
	run(0, ``, "reset", "--yes")
	if got := slices.Concat(interfaces(a.Place), interfaces(one.Place)); len(got) != 0 {
		t.Errorf("left after reset: %v", got)
	}
	// Its process has ended; that the lab has heard so takes a moment.
	select {
	case <-d.Done():
		if d.Code() != 0 {
			t.Errorf("the daemon ended with code %d", d.Code())
		}
	case <-time.After(5 * time.Second):
		t.Error("the daemon still runs after reset")
	}
	run(3, `ripstop up`, "stop")
}
