package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// recorder is a Backend that remembers what it was asked and answers what it is told.
type recorder struct {
	asked []any
	err   error
	block chan struct{} // Status waits for it, when it is not nil
}

func (r *recorder) note(q any) error { r.asked = append(r.asked, q); return r.err }

func (r *recorder) Status(ctx context.Context) (Status, error) {
	if r.block != nil {
		select {
		case <-r.block:
		case <-ctx.Done():
		}
	}
	return Status{Nickname: "a", Counters: map[string]uint64{"frames_in": 7}, Targets: []Target{{Target: "vm1", State: TargetSelf}}}, r.note("status")
}
func (r *recorder) Names(context.Context) (Names, error)              { return Names{Domain: "d"}, r.note("names") }
func (r *recorder) AddName(_ context.Context, q NameRequest) error    { return r.note(q) }
func (r *recorder) RemoveName(_ context.Context, q NameRequest) error { return r.note(q) }
func (r *recorder) Lookup(_ context.Context, q LookupRequest) (LookupAnswer, error) {
	return LookupAnswer{Name: q.Name}, r.note(q)
}
func (r *recorder) Topology(context.Context) (Topology, error) {
	return Topology{Hosts: []TopologyHost{{Name: "x"}}, Links: make([]TopologyLink, MaxTopologyLinks+2)}, r.note("topology")
}
func (r *recorder) Explain(_ context.Context, q ExplainRequest) (Explanation, error) {
	return Explanation{From: q.From, To: q.To, Arrives: true}, r.note(q)
}
func (r *recorder) Ping(_ context.Context, q PingRequest) (Pong, error) {
	return Pong{Nickname: q.Host, Answered: true, Back: &PingWay{Path: "udp"}}, r.note(q)
}
func (r *recorder) Internals(_ context.Context, q InternalsRequest) (Internals, error) {
	return Internals{LogLost: 3}, r.note(q)
}
func (r *recorder) Connect(_ context.Context, q ConnectRequest) error { return r.note(q) }
func (r *recorder) Forget(_ context.Context, q ForgetRequest) error   { return r.note(q) }
func (r *recorder) Reserve(_ context.Context, q AttachRequest) (AttachPlan, error) {
	return AttachPlan{ID: "1", Interface: q.Interface, Addresses: q.Addresses}, r.note(q)
}
func (r *recorder) Commit(_ context.Context, q CommitRequest) (Endpoint, error) {
	return Endpoint{Name: "commit " + q.ID}, r.note(q)
}
func (r *recorder) Cancel(_ context.Context, q CommitRequest) error { return r.note(q) }
func (r *recorder) Detach(_ context.Context, q DetachRequest) (AttachPlan, error) {
	return AttachPlan{Netns: q.Netns}, r.note(q)
}
func (r *recorder) Expose(_ context.Context, q ExposeRequest) (Endpoint, error) {
	return Endpoint{Addresses: q.Addresses}, r.note(q)
}
func (r *recorder) Hide(context.Context) error  { return r.note("hide") }
func (r *recorder) Stop(context.Context) error  { return r.note("stop") }
func (r *recorder) Reset(context.Context) error { return r.note("reset") }

func (r *recorder) IPAM(context.Context) (IPAM, error) { return IPAM{Used: 3}, r.note("ipam") }
func (r *recorder) Allocate(_ context.Context, q AllocateRequest) (Address, error) {
	return Address{For: q.For, Addresses: []netip.Prefix{netip.PrefixFrom(q.Address, 12)}}, r.note(q)
}
func (r *recorder) Release(_ context.Context, q ReleaseRequest) (Moved, error) {
	return Moved{Done: true, Count: 2}, r.note(q)
}
func (r *recorder) Start(context.Context) error { return r.note("start") }
func (r *recorder) Adopt(context.Context) error { return r.note("adopt") }
func (r *recorder) Leave(_ context.Context, q LeaveRequest) (Moved, error) {
	return Moved{Left: 5}, r.note(q)
}
func (r *recorder) Remove(_ context.Context, q RemoveRequest) (Moved, error) {
	return Moved{Host: q.Host}, r.note(q)
}

// serve runs a server over b and returns its socket.
func serve(t *testing.T, b Backend) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "run", "s")
	s, err := Listen(ServerConfig{Socket: socket, Backend: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Error("the socket is still there")
		}
	})
	return socket
}

func TestEveryCallReachesTheBackend(t *testing.T) {
	b := new(recorder)
	c := NewClient(serve(t, b))
	defer c.Close()
	ctx := t.Context()
	prefix := netip.MustParsePrefix("10.32.0.1/12")
	attach := AttachRequest{Netns: "pid:1", NetnsID: NetnsID{Dev: 1 << 60, Inode: 1<<64 - 1}, Interface: "rip0", Name: "web", Aliases: []string{"shop"}, Addresses: []netip.Prefix{prefix}, MTU: 1340, Move: true, AllowMAC: []string{"any"},
		Subnets: []netip.Prefix{prefix.Masked()}, AddressesFor: "vm", Sticky: true, NoIPv6: true, Deadline: Duration(1500 * time.Millisecond)}
	allocate := AllocateRequest{For: "vm", Address: prefix.Addr(), Deadline: Duration(time.Second)}

	status, err := c.Status(ctx)
	if err != nil || status.Version != Version || status.Nickname != "a" || status.Counters["frames_in"] != 7 || status.Targets[0].State != TargetSelf {
		t.Errorf("status %+v, %v", status, err)
	}
	plan, err := c.Reserve(ctx, attach)
	if err != nil || plan.Version != Version || plan.ID != "1" || plan.Addresses[0] != prefix {
		t.Errorf("plan %+v, %v", plan, err)
	}
	endpoint, err := c.Commit(ctx, CommitRequest{ID: "1"})
	if err != nil || endpoint.Version != Version || endpoint.Name != "commit 1" {
		t.Errorf("endpoint %+v, %v", endpoint, err)
	}
	plan, err = c.Detach(ctx, DetachRequest{Netns: "web", Name: "web"})
	if err != nil || plan.Netns != "web" {
		t.Errorf("plan %+v, %v", plan, err)
	}
	endpoint, err = c.Expose(ctx, ExposeRequest{Addresses: []netip.Prefix{prefix}})
	if err != nil || endpoint.Addresses[0] != prefix {
		t.Errorf("endpoint %+v, %v", endpoint, err)
	}
	all, err := c.IPAM(ctx)
	if err != nil || all.Version != Version || all.Used != 3 || all.Hosts == nil {
		t.Errorf("ipam %+v, %v", all, err)
	}
	address, err := c.Allocate(ctx, allocate)
	if err != nil || address.Version != Version || address.Addresses[0] != prefix {
		t.Errorf("address %+v, %v", address, err)
	}
	topology, err := c.Topology(ctx)
	if err != nil || topology.Version != Version || len(topology.Hosts) != 1 || len(topology.Links) != MaxTopologyLinks || topology.LeftOut != 2 {
		t.Errorf("topology of %d hosts, %d links, %d left out, %v", len(topology.Hosts), len(topology.Links), topology.LeftOut, err)
	}
	way, err := c.Explain(ctx, ExplainRequest{From: "db", To: "web"})
	if err != nil || way.Version != Version || !way.Arrives || way.To != "web" || way.Steps == nil || way.Way == nil {
		t.Errorf("explanation %+v, %v", way, err)
	}
	ping := PingRequest{Host: "b", Path: "tcp", Timeout: Duration(time.Second)}
	pong, err := c.Ping(ctx, ping)
	if err != nil || pong.Version != Version || !pong.Answered || pong.Nickname != "b" || pong.Back == nil || pong.Back.Path != "udp" {
		t.Errorf("pong %+v, %v", pong, err)
	}
	inside, err := c.Internals(ctx, InternalsRequest{Stacks: true})
	if err != nil || inside.Version != Version || inside.LogLost != 3 || inside.Log == nil || inside.Sizes == nil || inside.Settings == nil {
		t.Errorf("internals %+v, %v", inside, err)
	}
	for _, call := range []func() (Moved, error){
		func() (Moved, error) { return c.Release(ctx, ReleaseRequest{For: "vm"}) },
		func() (Moved, error) { return c.Leave(ctx, LeaveRequest{Deadline: Duration(time.Minute)}) },
		func() (Moved, error) { return c.Remove(ctx, RemoveRequest{Host: "vm3", Force: true}) },
	} {
		if moved, err := call(); err != nil || moved.Version != Version || moved == (Moved{Version: Version}) {
			t.Errorf("moved %+v, %v", moved, err)
		}
	}
	for _, err := range []error{
		c.Start(ctx), c.Adopt(ctx),
		c.Connect(ctx, ConnectRequest{Peers: []string{"vm1"}, Replace: true}),
		c.Forget(ctx, ForgetRequest{Peers: []string{"vm2"}}),
		c.Cancel(ctx, CommitRequest{ID: "2"}),
		c.Hide(ctx), c.Stop(ctx), c.Reset(ctx),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []any{
		"status", attach, CommitRequest{ID: "1"}, DetachRequest{Netns: "web", Name: "web"},
		ExposeRequest{Addresses: []netip.Prefix{prefix}},
		"ipam", allocate, "topology", ExplainRequest{From: "db", To: "web"}, ping, InternalsRequest{Stacks: true}, ReleaseRequest{For: "vm"}, LeaveRequest{Deadline: Duration(time.Minute)}, RemoveRequest{Host: "vm3", Force: true}, "start", "adopt",
		ConnectRequest{Peers: []string{"vm1"}, Replace: true}, ForgetRequest{Peers: []string{"vm2"}},
		CommitRequest{ID: "2"}, "hide", "stop", "reset",
	}
	if !reflect.DeepEqual(b.asked, want) {
		t.Errorf("asked %+v\nwant  %+v", b.asked, want)
	}
}

func TestRefusalsKeepTheirCodeAndSentence(t *testing.T) {
	for _, c := range []struct {
		err  error
		code Code
		text string
	}{
		{Errorf(CodeConflict, "%s is in use on host b", "10.32.0.1"), CodeConflict, "10.32.0.1 is in use on host b"},
		{fmt.Errorf("attach: %w", Errorf(CodeNotFound, "no such thing")), CodeNotFound, "attach: no such thing"},
		{Errorf(CodeUnsupported, "not in routed mode"), CodeUnsupported, "not in routed mode"},
		{Errorf(CodeStopping, "on its way down"), CodeStopping, "on its way down"},
		{Errorf(CodeUnavailable, "no address is free"), CodeUnavailable, "no address is free"},
		{errors.New("disk full"), CodeInternal, "disk full"},
	} {
		client := NewClient(serve(t, &recorder{err: c.err}))
		_, err := client.Reserve(t.Context(), AttachRequest{})
		if !IsCode(err, c.code) || err.Error() != c.text {
			t.Errorf("%v: got %v", c.err, err)
		}
		if err := client.Hide(t.Context()); !IsCode(err, c.code) {
			t.Errorf("%v: got %v", c.err, err)
		}
		client.Close()
	}
}

// raw sends a request by hand and returns status and body.
func raw(t *testing.T, socket, method, path string, body io.Reader) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestBadRequestsAreRefusedAndNotPassedOn(t *testing.T) {
	b := new(recorder)
	socket := serve(t, b)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", pathConnect, `{"peers":["a"],"colour":"red"}`, 400},
		{"POST", pathConnect, `{"peers":"a"}`, 400},
		{"POST", pathConnect, `{"peers":["a"]} {}`, 400},
		{"POST", pathConnect, `{"peers":["a"`, 400},
		{"POST", pathConnect, `[]`, 400},
		{"POST", pathReserve, `{"addresses":["10.0.0.1"]}`, 400},
		{"POST", pathForget, `{"peers":["` + strings.Repeat("a", MaxBody) + `"]}`, 400},
		{"POST", pathReserve, `{"subnets":["10.0.0.1"]}`, 400},
		{"POST", pathAllocate, `{"for":"a","deadline":"soon"}`, 400},
		{"POST", pathAllocate, `{"for":"a","deadline":5}`, 400},
		{"POST", pathAllocate, `{"for":"a","address":"10.0.0.1/8"}`, 400},
		{"GET", pathConnect, ``, 404},
		{"DELETE", pathStatus, ``, 404},
		{"GET", "/", ``, 404},
		{"GET", "/v2/status", ``, 404},
	} {
		status, body := raw(t, socket, c.method, c.path, strings.NewReader(c.body))
		var f failure
		err := json.Unmarshal([]byte(body), &f)
		if status != c.status || err != nil || f.Version != Version || f.Error == nil || f.Error.Message == "" {
			t.Errorf("%s %s %.40q: %d %s", c.method, c.path, c.body, status, body)
		}
	}
	if len(b.asked) != 0 {
		t.Errorf("the backend was asked %+v", b.asked)
	}
	if status, body := raw(t, socket, "POST", pathStop, nil); status != 200 || body != "{\"version\":1}\n" {
		t.Errorf("an empty body: %d %s", status, body)
	}
}

func TestSocket(t *testing.T) {
	log, b := slog.New(slog.DiscardHandler), new(recorder)
	socket := serve(t, new(recorder))
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(ServerConfig{Socket: socket, Backend: b, Log: log}); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a socket in use: %v", err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ServerConfig{Socket: file, Backend: b, Log: log}); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("a file that is no socket: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "theirs" {
		t.Error("the file was touched")
	}
	if _, err := Listen(ServerConfig{Socket: filepath.Join(dir, strings.Repeat("x", 120)), Backend: b, Log: log}); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a long path: %v", err)
	}
	if _, err := Listen(ServerConfig{Socket: filepath.Join(dir, "s"), Group: "no such group", Backend: b, Log: log}); err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("an unknown group: %v", err)
	}
	// A socket whose daemon died is taken over.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "stale"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	s, err := Listen(ServerConfig{Socket: filepath.Join(dir, "stale"), Group: fmt.Sprint(os.Getgid()), Backend: b, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "stale")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Close left the socket")
	}
}

func TestNoDaemonIsToldApart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none")
	c := NewClient(socket)
	_, err := c.Status(t.Context())
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), socket) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// answer listens on a socket and gives one HTTP answer with that body to everybody.
func answer(t *testing.T, body string) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
			conn.Close()
		}
	}()
	return socket
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"version":2,"nickname":"a"}`, "version 2"},
		{`{"nickname":"a"}`, "version 0"},
		{`hello`, "no JSON object"},
		{``, "no JSON object"},
		{`{"version":1,"nickname":7}`, "answer"},
		{`{"version":1,"error":{"code":"conflict","message":"taken"}}`, "taken"},
	} {
		_, err := NewClient(answer(t, c.body)).Status(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.body, err)
		}
	}
	status, err := NewClient(answer(t, `{"version":1,"nickname":"a","later":true}`)).Status(t.Context())
	if err != nil || status.Nickname != "a" {
		t.Errorf("a field that came later: %+v %v", status, err)
	}
}

func TestARunningRequestEndsWithTheServer(t *testing.T) {
	b := &recorder{block: make(chan struct{})}
	socket := filepath.Join(t.TempDir(), "s")
	s, err := Listen(ServerConfig{Socket: socket, Backend: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	asked := make(chan error, 1)
	go func() {
		_, err := NewClient(socket).Status(context.Background())
		asked <- err
	}()
	for deadline := time.Now().Add(5 * time.Second); ; {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not answer")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-asked
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the socket is still there")
	}
}

// FuzzRequest feeds the request parser what it cannot expect.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"netns":"pid:1","netns_id":{"dev":1,"inode":2},"addresses":["10.32.0.1/12"]}`))
	f.Add([]byte(`{"addresses":["fd00::1/64"],"allow_mac":["any"],"mtu":-1}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q AttachRequest
		if decode(bytes.NewReader(b), &q) != nil {
			return
		}
		again, err := json.Marshal(q)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var r AttachRequest
		if err := decode(bytes.NewReader(again), &r); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
	})
}

// TestStatusFieldNames holds the names that scripts use.
func TestStatusFieldNames(t *testing.T) {
	full := Status{Version: Version, Links: []Link{{}}, Peers: []Peer{{}}, Targets: []Target{{}}, Routes: []Route{{}}, Endpoints: []Endpoint{{}}}
	full.noNulls()
	b, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"software":"","name":"","id":"","nickname":"","uid":"","network":"","cipher":"","mode":"","device":"","mtu":0,"port":0,"offloads":[],"pid":0,` +
		`"started":"0001-01-01T00:00:00Z","uptime_seconds":0,"state_dir":"","warnings":[],` +
		`"peers":[{"name":"","id":"","nickname":"","uid":"","alive":false,"reachable":false,"hops":0,"frames_out":0,"bytes_out":0,"frames_in":0,"bytes_in":0}],` +
		`"links":[{"peer":"","nickname":"","state":"","rtt_us":0,"loss":0,"dialled":false,"since":"0001-01-01T00:00:00Z"}],` +
		`"targets":[{"target":"","state":""}],` +
		`"routes":[{"peer":"","nickname":"","next":"","hops":0,"cost_us":0}],` +
		`"endpoints":[{"mac":"","addresses":[],"host":"","host_nickname":"","state":"","claim":0}],"counters":{}}`
	if got := string(bytes.TrimSpace(b)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var empty Status
	empty.noNulls()
	if b, err = json.Marshal(empty); err != nil || bytes.Contains(b, []byte("null")) {
		t.Errorf("%s %v", b, err)
	}
}

// TestExplanationFieldNames holds the names that scripts use.
func TestExplanationFieldNames(t *testing.T) {
	e := Explanation{Steps: []Step{{What: StepWay, State: StepOK}}}
	e.settle()
	b, err := json.Marshal(e)
	want := `{"version":1,"from":"","to":"","steps":[{"what":"way","state":"ok","text":""}],"way":[],"arrives":false,"verdict":""}`
	if err != nil || string(b) != want {
		t.Errorf("%v\ngot  %s\nwant %s", err, b, want)
	}
}
