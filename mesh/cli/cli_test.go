package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/mesh/api/apitest"
)

// daemon is a Backend that remembers what it was asked.
type daemon struct {
	mu       sync.Mutex // guards asked: a report asks for several things at once
	asked    []any
	refusal  error
	status   func() api.Status
	names    api.Names
	found    api.LookupAnswer
	way      api.Explanation
	topology api.Topology
	inside   api.Internals
	pong     func(api.PingRequest) api.Pong
	stop     context.CancelFunc
}

func (d *daemon) note(q any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, q)
	return d.refusal
}

func (d *daemon) Status(context.Context) (api.Status, error)            { return d.status(), nil }
func (d *daemon) Names(context.Context) (api.Names, error)              { return d.names, d.note("names") }
func (d *daemon) AddName(_ context.Context, q api.NameRequest) error    { return d.note(q) }
func (d *daemon) RemoveName(_ context.Context, q api.NameRequest) error { return d.note(q) }
func (d *daemon) Lookup(_ context.Context, q api.LookupRequest) (api.LookupAnswer, error) {
	return d.found, d.note(q)
}
func (d *daemon) Topology(context.Context) (api.Topology, error) {
	return d.topology, d.note("topology")
}
func (d *daemon) Explain(_ context.Context, q api.ExplainRequest) (api.Explanation, error) {
	return d.way, d.note(q)
}
func (d *daemon) Ping(_ context.Context, q api.PingRequest) (api.Pong, error) {
	return d.pong(q), d.note(q)
}
func (d *daemon) Internals(_ context.Context, q api.InternalsRequest) (api.Internals, error) {
	return d.inside, d.refusal
}
func (d *daemon) Connect(_ context.Context, q api.ConnectRequest) error { return d.note(q) }
func (d *daemon) Forget(_ context.Context, q api.ForgetRequest) error   { return d.note(q) }
func (d *daemon) Cancel(_ context.Context, q api.CommitRequest) error   { return d.note(q) }
func (d *daemon) Hide(context.Context) error                            { return d.note("hide") }
func (d *daemon) Stop(context.Context) error                            { d.stop(); return d.note("stop") }
func (d *daemon) Reset(context.Context) error                           { d.stop(); return d.note("reset") }
func (d *daemon) Reserve(_ context.Context, q api.AttachRequest) (api.AttachPlan, error) {
	return api.AttachPlan{}, d.note(q)
}
func (d *daemon) Commit(_ context.Context, q api.CommitRequest) (api.Endpoint, error) {
	return api.Endpoint{}, d.note(q)
}
func (d *daemon) Detach(_ context.Context, q api.DetachRequest) (api.AttachPlan, error) {
	return api.AttachPlan{}, d.note(q)
}
func (d *daemon) Expose(_ context.Context, q api.ExposeRequest) (api.Endpoint, error) {
	return api.Endpoint{Interface: "ripstop", MAC: "02:00:00:00:00:01", Addresses: q.Addresses}, d.note(q)
}

func (d *daemon) IPAM(context.Context) (api.IPAM, error) { return sampleIPAM(), d.refusal }
func (d *daemon) Allocate(_ context.Context, q api.AllocateRequest) (api.Address, error) {
	return api.Address{For: q.For, Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.9/12"), netip.MustParsePrefix("fd00::9/64")}}, d.note(q)
}
func (d *daemon) Release(_ context.Context, q api.ReleaseRequest) (api.Moved, error) {
	return api.Moved{Done: true, Count: 1}, d.note(q)
}
func (d *daemon) Start(context.Context) error { return d.note("start") }
func (d *daemon) Adopt(context.Context) error { return d.note("adopt") }
func (d *daemon) Leave(_ context.Context, q api.LeaveRequest) (api.Moved, error) {
	if len(d.asked) == 0 {
		return api.Moved{Count: 10, Left: 20}, d.note(q)
	}
	return api.Moved{Done: true, Count: 30}, d.note(q)
}
func (d *daemon) Remove(_ context.Context, q api.RemoveRequest) (api.Moved, error) {
	return api.Moved{Done: true, Count: 4, Host: "02:00:00:00:00:0e"}, d.note(q)
}

// serve runs d behind a socket and returns a function that runs the command line
// against it.
func serve(t *testing.T, d *daemon) func(args ...string) (code int, out, errOut string) {
	t.Helper()
	if d.status == nil {
		d.status = sample
	}
	socket := filepath.Join(t.TempDir(), "s")
	serveAt(t, socket, d)
	return func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), append([]string{"ripstop", "--socket", socket}, args...), Stdio{
			In: strings.NewReader("no\n"), Out: &out, Err: &errOut,
			LookupEnv: func(string) (string, bool) { return "", false },
		})
		return code, out.String(), errOut.String()
	}
}

// serveAt runs d behind the socket at that path.
func serveAt(t *testing.T, socket string, d *daemon) {
	t.Helper()
	d.stop = apitest.ServeAt(t, socket, d)
}

// sample is a host b between a and c, with some of everything.
func sample() api.Status {
	return api.Status{
		Version: 1, Software: "v1.0.0", Name: "02:00:00:00:00:0b", Nickname: "b", Network: "00112233445566778899aabbccddeeff",
		Cipher: "auto", Mode: "bridge", Bridge: "ripstop", Device: "ripstop0", MTU: 1500, Port: 6783, PID: 0, UptimeSec: 3725, Metrics: "127.0.0.1:6782",
		Offloads: []api.Offload{{Name: "checksum", Used: true}, {Name: "tso", Used: true}, {Name: "tunnel", Why: "this kernel has none"}, {Name: "gso", Why: "switched off"}},
		Warnings: []string{"iptables drops what the bridge carries"},
		Peers: []api.Peer{
			{Name: "02:00:00:00:00:0d", Nickname: "d", Alive: true, Reachable: true, Hops: 2, Via: "c", Session: "aes-256-gcm", Path: "relay"},
			{Name: "02:00:00:00:00:0a", Nickname: "a", Alive: true, Reachable: true, Hops: 1, Session: "aes-256-gcm", Path: "udp", Software: "v1.0.0"},
			{Name: "02:00:00:00:00:0c", Nickname: "c\x1b[2J", Alive: true, Reachable: true, Hops: 1, Path: "tcp"},
			{Name: "02:00:00:00:00:0e", Nickname: "e"},
		},
		Links: []api.Link{
			{Peer: "02:00:00:00:00:0c", Nickname: "c", State: api.LinkUp, Path: "tcp", Remote: "198.18.2.2:6783", RTTMicro: 12345},
			{Peer: "02:00:00:00:00:0a", Nickname: "a", State: api.LinkUp, Path: "udp", Remote: "198.18.1.1:6783", RTTMicro: 431, Loss: 0.25, MTU: 1472, Train: 64, Dialled: true},
		},
		Targets: []api.Target{
			{Target: "vm1", State: api.TargetUp, Peer: "02:00:00:00:00:0a"},
			{Target: "vm2", State: api.TargetSelf},
		},
		Routes: []api.Route{
			{Peer: "02:00:00:00:00:0d", Nickname: "d", Next: "02:00:00:00:00:0c", Alternate: "02:00:00:00:00:0a", Hops: 2, CostMicro: 25000},
			{Peer: "02:00:00:00:00:0a", Nickname: "a", Next: "02:00:00:00:00:0a", Hops: 1, CostMicro: 431},
		},
		Endpoints: []api.Endpoint{
			{Name: "web", MAC: "02:00:5e:00:53:01", Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")}, Host: "02:00:00:00:00:0b", HostNickname: "b", State: api.EndpointHere, Interface: "rip0", Netns: "pid:1", AllowMAC: []string{"any"}},
			{Name: "db", MAC: "02:00:5e:00:53:02", Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.2/32")}, Host: "02:00:00:00:00:0a", HostNickname: "a", State: api.EndpointRemote},
		},
		Counters: map[string]uint64{"frames_in": 10, "drop_no_route": 3, "port_rule_mac": 9, "drop_send_error": 0},
	}
}

// sampleIPAM is an address map of three hosts of which one is gone.
func sampleIPAM() api.IPAM {
	a, b, c := "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
	addr := netip.MustParseAddr
	return api.IPAM{
		Version: 1, Range: netip.MustParsePrefix("10.32.0.0/24"), Range6: netip.MustParsePrefix("fd12:3456:789a:bcde::/64"), Subnet: netip.MustParsePrefix("10.32.0.0/25"),
		Reserved: []netip.Prefix{netip.MustParsePrefix("10.32.0.8/29")},
		Map:      "1a2b3c4d", Founders: []string{b, a},
		Hosts: []api.IPAMHost{
			{Host: b, Nickname: "vm2", Blocks: 128, Addresses: 128, Free: 120, Reachable: true},
			{Host: a, Nickname: "vm1", Blocks: 64, Addresses: 64, Free: 60, Reachable: true},
			{Host: c, Blocks: 64, Addresses: 64},
		},
		Used: 3, Held: 1, Fenced: 1,
		Events: []api.IPAMEvent{{Time: time.Now().Add(-5 * time.Minute), Kind: "joined", Text: "the address map of 2 founders holds"}},
		Ranges: []api.IPAMRange{{First: addr("10.32.0.0"), Last: addr("10.32.0.127"), Host: b}, {First: addr("10.32.0.128"), Last: addr("10.32.0.191"), Host: a}, {First: addr("10.32.0.192"), Last: addr("10.32.0.255"), Host: c}},
		Uses: []api.IPAMUse{
			{Address: netip.MustParsePrefix("10.32.0.1/24"), For: "web1@ripv0011223344", State: "used", Owner: b},
			{Address: netip.MustParsePrefix("10.32.0.2/32"), State: "held", Holder: a, Owner: b},
			{Address: netip.MustParsePrefix("10.32.0.200/24"), For: "vm7", State: "fenced", Owner: c},
		},
	}
}

func TestStatusForPeople(t *testing.T) {
	run := serve(t, new(daemon))
	for _, c := range []struct{ part, want string }{
		{"", `
      host  b  02:00:00:00:00:0b
   network  00112233445566778899aabbccddeeff, encrypted
    device  bridge ripstop, device ripstop0, MTU 1500, port 6783
  offloads  checksum, tso, no tunnel (this kernel has none), no gso (switched off)
   running  v1.0.0, for 1h2m5s, process 0
   metrics  http://127.0.0.1:6782/metrics
     peers  4, 3 reachable, 1 of them through others
     links  2, 2 up, 1 of them over TCP, for UDP does not pass; 2 to dial: 1 self, 1 up
 endpoints  2, 1 here
   dropped  12: 9 port rule mac, 3 no route
   WARNING  iptables drops what the bridge carries
`},
		{"peers", `
PEER    NAME               STATE      HOPS  VIA  PATH   CIPHER       SOFTWARE
a       02:00:00:00:00:0a  reachable  1     -    udp    aes-256-gcm  v1.0.0
c?[2J   02:00:00:00:00:0c  reachable  1     -    tcp    -            -
d       02:00:00:00:00:0d  reachable  2     c    relay  aes-256-gcm  -
e       02:00:00:00:00:0e  gone       -     -    -      -            -
`},
		{"links", `
LINK WITH  STATE  PATH  REMOTE           RTT      LOSS  MTU   TRAIN  OPENED BY
a          up     udp   198.18.1.1:6783  0.43 ms  25 %  1472  64     us
c          up     tcp   198.18.2.2:6783  12 ms    0 %   -     -      them

TO DIAL  STATE  IS
vm1      up     a
vm2      self   -
`},
		{"routes", `
TO  FIRST   ELSE  HOPS  COST
a   a       -     1     0.43 ms
d   c?[2J   a     2     25 ms
`},
		{"endpoints", `
ENDPOINT  ADDRESSES     MAC                HOST  STATE   INTERFACE  NAMESPACE  ALLOWED TOO
web       10.32.0.1/12  02:00:5e:00:53:01  b     here    rip0       pid:1      any
db        10.32.0.2     02:00:5e:00:53:02  a     remote  -          -          -
`},
		{"ipam", `
     range  10.32.0.0/24, and beside it fd12:3456:789a:bcde::/64
   default  10.32.0.0/25
  reserved  10.32.0.8/29
       map  1a2b3c4d, begun by vm1 and vm2
      here  3 in use, 1 of them FENCED: another host has them, 1 held by other hosts

KEY  HOST               BLOCKS  ADDRESSES  SHARE   FREE  STATE
a    02:00:00:00:00:0c  64      64         25.0 %  0     UNREACHABLE
b    vm1                64      64         25.0 %  60    reachable
c    vm2                128     128        50.0 %  120   reachable

10.32.0.0 [ccccccccccccccccccccccccccccccccbbbbbbbbbbbbbbbbaaaaaaaaaaaaaaaa] 10.32.0.255

ADDRESS        STATE   FOR   HELD BY  BLOCK OF
10.32.0.1/24   used    web1  -        vm2
10.32.0.2      held    -     vm1      vm2
10.32.0.200/24 fenced  vm7   -        02:00:00:00:00:0c

AGO   EVENT   WHAT
5m0s  joined  the address map of 2 founders holds
`},
	} {
		args := []string{"status"}
		if c.part != "" {
			args = append(args, c.part)
		}
		code, out, errOut := run(args...)
		want := strings.ReplaceAll(strings.TrimPrefix(c.want, "\n"), "c?[2J ", "c?[2J")
		if code != ExitOK || errOut != "" || tidy(out) != tidy(want) {
			t.Errorf("%v: code %d, stderr %q\ngot:\n%s\nwant:\n%s", args, code, errOut, out, want)
		}
	}
}

// tidy makes the number of spaces between columns count for nothing.
func tidy(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	return strings.Join(lines, "\n")
}

func TestStatusForPrograms(t *testing.T) {
	run := serve(t, new(daemon))
	for part, fields := range map[string][]string{
		"peers":     {"version", "peers"},
		"links":     {"version", "links", "targets"},
		"routes":    {"version", "routes"},
		"endpoints": {"version", "endpoints"},
	} {
		code, out, _ := run("status", part, "--json")
		var v map[string]any
		if err := json.Unmarshal([]byte(out), &v); err != nil || code != ExitOK || len(v) != len(fields) {
			t.Errorf("%s: code %d, %v: %s", part, code, err, out)
		}
		for _, f := range fields {
			if v[f] == nil || v["version"] != 1.0 {
				t.Errorf("%s: no %s in %s", part, f, out)
			}
		}
	}
	code, out, _ := run("--json", "status")
	var s api.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != ExitOK || !reflect.DeepEqual(s, sample()) {
		t.Errorf("code %d, %v: %+v", code, err, s)
	}
}

// TestStatusSaysWhyNoAddressIsGiven: also the summary, which is read first.
func TestStatusSaysWhyNoAddressIsGiven(t *testing.T) {
	all := api.IPAM{Waiting: "vm\x1b1 numbers another range", SaveError: "no space left"}
	run := serve(t, &daemon{status: func() api.Status { return api.Status{Nickname: "x", IPAM: &all} }})
	code, out, _ := run("status")
	if code != ExitOK || !strings.Contains(out, "   WAITING  vm?1 numbers another range\n   WARNING  nothing is given out: no space left\n") {
		t.Errorf("code %d:\n%s", code, out)
	}
}

func TestNoneOfAnything(t *testing.T) {
	run := serve(t, &daemon{status: func() api.Status { return api.Status{Nickname: "x"} }})
	for part, want := range map[string]string{"peers": "no peers\n", "links": "no links\n\nno peers to dial\n", "routes": "no routes\n", "endpoints": "no endpoints\n"} {
		if code, out, _ := run("status", part); code != ExitOK || out != want {
			t.Errorf("%s: code %d, %q", part, code, out)
		}
		if _, out, _ := run("status", part, "--json"); strings.Contains(out, "null") {
			t.Errorf("%s: %s", part, out)
		}
	}
}

func TestStatusWait(t *testing.T) {
	asked := 0
	d := &daemon{status: func() api.Status {
		s := sample()
		if asked++; asked < 3 {
			s.Targets[0].State, s.Targets[0].Error = api.TargetWaiting, "connection refused"
		}
		return s
	}}
	run := serve(t, d)
	if code, _, errOut := run("status", "--wait", "10s"); code != ExitOK || asked != 3 || errOut != "" {
		t.Errorf("code %d after %d questions: %s", code, asked, errOut)
	}
	asked = -1 << 30
	code, out, errOut := run("status", "links", "--wait", "150ms")
	if code != ExitFailed || !strings.Contains(errOut, "not settled after 150ms: peer vm1: connection refused") || !strings.Contains(out, "vm1") {
		t.Errorf("code %d: %s%s", code, out, errOut)
	}
	if code, _, errOut := run("status"); code != ExitOK || errOut != "" {
		t.Errorf("without --wait: code %d: %s", code, errOut)
	}
}

func TestUnsettled(t *testing.T) {
	for _, c := range []struct {
		change func(*api.Status)
		want   string
	}{
		{func(*api.Status) {}, ""},
		{func(s *api.Status) { s.Targets[0].State = api.TargetConnecting }, "peer vm1 is connecting"},
		{func(s *api.Status) { s.Targets[0].State, s.Targets[0].Error = api.TargetRefused, "other network" }, "peer vm1: other network"},
		{func(s *api.Status) { s.Links[1].State = api.LinkConnecting }, "peer vm1 is connected, but the link with it is connecting"},
		{func(s *api.Status) { s.Links[0].State = api.LinkDown }, "the link with c is down"},
		{func(s *api.Status) { s.Peers[0].Reachable = false }, "there is no way to d yet"},
		{func(s *api.Status) { s.Peers[3].Reachable = false }, ""}, // gone
	} {
		s := sample()
		c.change(&s)
		if got := unsettled(s); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestCommandsAskTheDaemon(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12"), netip.MustParsePrefix("fd00::1/64")}
	for _, c := range []struct {
		args  []string
		asked any
		out   string
	}{
		{[]string{"connect", "vm1", "vm2:7000"}, api.ConnectRequest{Peers: []string{"vm1", "vm2:7000"}}, ""},
		{[]string{"connect", "--replace"}, api.ConnectRequest{Peers: []string{}, Replace: true}, ""},
		{[]string{"connect", "vm1", "--replace", "--json"}, api.ConnectRequest{Peers: []string{"vm1"}, Replace: true}, "{\n  \"version\": 1\n}\n"},
		{[]string{"forget", "vm1"}, api.ForgetRequest{Peers: []string{"vm1"}}, ""},
		{[]string{"hide"}, "hide", ""},
		{[]string{"expose", "--address", "10.32.0.1/12", "--address", "fd00::1/64"}, api.ExposeRequest{Addresses: prefixes}, "ripstop  02:00:00:00:00:01  10.32.0.1/12 fd00::1/64\n"},
		{[]string{"expose", "--address", "10.32.0.1/12,fd00::1/64"}, api.ExposeRequest{Addresses: prefixes}, "ripstop  02:00:00:00:00:01  10.32.0.1/12 fd00::1/64\n"},
		{[]string{"expose"}, api.ExposeRequest{}, "ripstop  02:00:00:00:00:01  \n"},
		{[]string{"expose", "--masquerade"}, api.ExposeRequest{Masquerade: true}, "ripstop  02:00:00:00:00:01  \n"},
		{[]string{"expose", "--subnet", "net:10.32.2.0/24", "--address", "ip:10.32.0.1/12", "--deadline", "2s"},
			api.ExposeRequest{Addresses: prefixes[:1], Subnets: []netip.Prefix{netip.MustParsePrefix("10.32.2.0/24")}, Deadline: api.Duration(2 * time.Second)}, "ripstop  02:00:00:00:00:01  10.32.0.1/12\n"},
		{[]string{"ipam", "allocate", "vm7", "--subnet", "net:10.32.7.0/24", "--sticky"}, api.AllocateRequest{For: "vm7", Subnet: netip.MustParsePrefix("10.32.7.0/24"), Sticky: true}, "10.32.0.9/12 fd00::9/64\n"},
		{[]string{"ipam", "claim", "gw", "10.32.0.1/12"}, api.AllocateRequest{For: "gw", Address: netip.MustParseAddr("10.32.0.1"), Subnet: netip.MustParsePrefix("10.32.0.0/12")}, "10.32.0.9/12 fd00::9/64\n"},
		{[]string{"ipam", "claim", "gw", "ip:10.32.0.1"}, api.AllocateRequest{For: "gw", Address: netip.MustParseAddr("10.32.0.1")}, "10.32.0.9/12 fd00::9/64\n"},
		{[]string{"ipam", "release", "vm7"}, api.ReleaseRequest{For: "vm7"}, ""},
		{[]string{"ipam", "release", "vm7", "10.32.0.9"}, api.ReleaseRequest{For: "vm7", Address: netip.MustParseAddr("10.32.0.9")}, ""},
		{[]string{"ipam", "start"}, "start", ""},
		{[]string{"ipam", "adopt"}, "adopt", ""},
		{[]string{"rmpeer", "vm3", "--yes", "--force"}, api.RemoveRequest{Host: "vm3", Force: true}, "4 blocks of vm3 taken over\n"},
		{[]string{"stop"}, "stop", ""},
		{[]string{"reset", "--yes"}, "reset", ""},
	} {
		d := new(daemon)
		code, out, errOut := serve(t, d)(c.args...)
		if code != ExitOK || errOut != "" || out != c.out || len(d.asked) != 1 || !reflect.DeepEqual(d.asked[0], c.asked) {
			t.Errorf("%v: code %d, out %q, err %q, asked %+v", c.args, code, out, errOut, d.asked)
		}
	}
	d := &daemon{refusal: api.Errorf(api.CodeConflict, "10.32.0.1 is in use on host a")}
	code, out, errOut := serve(t, d)("expose", "--address", "10.32.0.1/12")
	if code != ExitFailed || out != "" || errOut != "ripstop: 10.32.0.1 is in use on host a\n" {
		t.Errorf("a refusal: code %d, out %q, err %q", code, out, errOut)
	}
	d = &daemon{refusal: api.Errorf(api.CodeNotFound, "not attached")}
	if code, _, _ := serve(t, d)("detach", "no-such-name"); code != ExitFailed || !reflect.DeepEqual(d.asked, []any{api.DetachRequest{Netns: "no-such-name", Name: "no-such-name"}}) {
		t.Errorf("detach of what is gone: code %d, asked %+v", code, d.asked)
	}
	d = new(daemon)
	if code, _, errOut := serve(t, d)("reset"); code != ExitFailed || len(d.asked) != 0 || !strings.Contains(errOut, "nothing was removed") {
		t.Errorf("reset answered with no: code %d, asked %+v, err %q", code, d.asked, errOut)
	}
	d = new(daemon)
	if code, _, errOut := serve(t, d)("rmpeer", "vm3"); code != ExitFailed || !reflect.DeepEqual(d.asked, []any{api.RemoveRequest{Host: "vm3", Check: true}}) || !strings.Contains(errOut, "nothing was changed") {
		t.Errorf("rmpeer answered with no: code %d, asked %+v, err %q", code, d.asked, errOut)
	}
	d = &daemon{refusal: api.Errorf(api.CodeNotFound, "no host vm9 is known")}
	if code, _, errOut := serve(t, d)("rmpeer", "vm9"); code != ExitFailed || len(d.asked) != 1 || errOut != "ripstop: no host vm9 is known\n" {
		t.Errorf("rmpeer of nobody asks for the name: code %d, asked %+v, err %q", code, d.asked, errOut)
	}
	d = new(daemon)
	if code, out, _ := serve(t, d)("rmpeer", "no"); code != ExitOK || !reflect.DeepEqual(d.asked, []any{api.RemoveRequest{Host: "no", Check: true}, api.RemoveRequest{Host: "no"}}) || !strings.Contains(out, "4 blocks") {
		t.Errorf("rmpeer answered with the name: code %d, asked %+v, out %q", code, d.asked, out)
	}
	d = new(daemon)
	want := api.LeaveRequest{Deadline: api.Duration(time.Minute)}
	if code, out, errOut := serve(t, d)("leave", "--deadline", "1m"); code != ExitOK || !reflect.DeepEqual(d.asked, []any{want, want}) ||
		!strings.HasPrefix(out, "30 blocks handed over") || errOut != "10 blocks handed over, 20 to go\n" {
		t.Errorf("leave: code %d, asked %+v, out %q, err %q", code, d.asked, out, errOut)
	}
}

// TestStopTrustsTheKernel: the number that the daemon gives for its process is for
// people; in another PID namespace an innocent process has it.
func TestStopTrustsTheKernel(t *testing.T) {
	innocent := exec.Command("sleep", "60")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{status: func() api.Status {
		s := sample()
		s.PID = innocent.Process.Pid
		return s
	}}
	code, _, errOut := serve(t, d)("stop")
	if code != ExitOK || errOut != "" {
		t.Errorf("code %d, err %q", code, errOut)
	}
	if err := errors.Join(innocent.Process.Signal(syscall.Signal(0)), innocent.Process.Kill()); err != nil {
		t.Errorf("the innocent process: %v", err)
	}
	innocent.Wait()
}

func TestAttachRefusesTheHostItself(t *testing.T) {
	d := new(daemon)
	code, _, errOut := serve(t, d)("attach", "/proc/self/ns/net", "--address", "10.32.0.1/12")
	if code != ExitFailed || len(d.asked) != 0 || !strings.Contains(errOut, "ripstop expose") {
		t.Errorf("code %d, asked %+v, err %q", code, d.asked, errOut)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), ExitFailed},
		{&mesh.ExitError{Code: 6, Err: errors.New("clone")}, ExitClone},
		{&mesh.ExitError{Code: 2, Err: errors.New("no secret")}, ExitMisuse},
		{api.ErrUnreachable, ExitUnreachable},
		{misuse("x"), ExitMisuse},
	} {
		err := advise(command{name: "up"}, new(invocation), c.err)
		var e *exitError
		if !errors.As(err, &e) || e.code != c.want || (e.code == ExitMisuse || e.code == ExitUnreachable) == (e.hint == "") {
			t.Errorf("%v: %+v", c.err, e)
		}
	}
}

// TestEveryFlagHasAVariable sets every flag of every command by its variable alone.
func TestEveryFlagHasAVariable(t *testing.T) {
	value := map[string]string{"bool": "true", "int": "1400", "uint16": "7000", "duration": "3s", "string": "x", "ADDR": "192.0.2.1", "ADDR[:PORT]": "192.0.2.1:7", "ADDR:PORT": "127.0.0.1:7",
		"CIDR": "10.32.0.1/12", "SUBNET": "10.32.0.0/16", "MAC|any": "any", "CIDR|any": "any", "NAME|all": "tso", "NAME:PORT/PROTOCOL": "http:80/tcp"}
	for _, c := range commands() {
		flags, _ := c.flags(new(invocation))
		count := 0
		err := fromEnvironment(flags, func(name string) (string, bool) {
			v := ""
			flags.VisitAll(func(f *pflag.Flag) {
				if Variable(f.Name) == name {
					v = value[f.Value.Type()]
				}
			})
			count++
			return v, v != ""
		})
		if err != nil || count == 0 {
			t.Errorf("%s: %d variables, %v", c.name, count, err)
		}
		flags.VisitAll(func(f *pflag.Flag) {
			if !f.Changed {
				t.Errorf("%s --%s (%s) was not set by %s", c.name, f.Name, f.Value.Type(), Variable(f.Name))
			}
		})
		// What was given on the command line stays.
		flags, _ = c.flags(new(invocation))
		if f := flags.Lookup("socket"); f != nil {
			flags.Set("socket", "given")
			fromEnvironment(flags, func(string) (string, bool) { return "variable", true })
			if f.Value.String() != "given" {
				t.Errorf("%s: the variable beats the flag", c.name)
			}
		}
	}
	if Variable("log-level") != "RIPSTOP_LOG_LEVEL" {
		t.Error(Variable("log-level"))
	}
}

func TestAdvertised(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "192.0.2.1:7": "192.0.2.1:7", "2001:db8::1": "2001:db8::1", "[2001:db8::1]": "2001:db8::1",
		"[2001:db8::1]:7": "[2001:db8::1]:7", "::ffff:192.0.2.1": "192.0.2.1",
		"": "", "vm1": "", "192.0.2.1:": "", "192.0.2.1:0": "", "192.0.2.1:65536": "", "[192.0.2.1": "", "2001:db8::1]": "",
		"0.0.0.0": "", "[::]:7": "", "224.0.0.1": "", "fe80::1%eth0": "", // whoever is told could not dial them
	} {
		a, err := parseAdvertised(in)
		if (err != nil) != (want == "") || err == nil && a.String() != want {
			t.Errorf("%q: %v %v", in, a, err)
		}
	}
}

func TestReadyLine(t *testing.T) {
	for in, want := range map[string]string{"vm1": "vm1", "my host": `"my host"`, "": `""`, `a"b`: `"a\"b"`, "a=b": `"a=b"`, "a\nb": `"a\nb"`, "größe": "größe"} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"stop", "stop", 0}, {"stop", "stpo", 2}, {"attach", "atach", 1}, {"up", "hide", 4}, {"", "abc", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestMicros(t *testing.T) {
	for in, want := range map[int64]string{0: "", 1: "0.00 ms", 431: "0.43 ms", 9999: "10.00 ms", 12345: "12 ms", int64(time.Second / time.Microsecond): "1000 ms"} {
		if got := micros(in); got != want {
			t.Errorf("%d: %q, want %q", in, got, want)
		}
	}
}
