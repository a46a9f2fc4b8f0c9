package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/tun/tuntest"
)

// TestMain lets the test binary play the program that the lab runs.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "up":
			standIn(os.Args[2:])
		case "wait": // an innocent process, until it is killed
			select {}
		case "echo":
			fmt.Println(strings.Join(os.Args[2:], " "))
			fmt.Fprintln(os.Stderr, "secret="+os.Getenv("RIPSTOP_SECRET"))
			os.Exit(7)
		}
		if i := slices.Index(os.Args, "status"); i >= 0 {
			fmt.Println(strings.Join(os.Args[1:], " "))
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// standIn is a daemon as the lab sees it: a ready line, and an end at SIGTERM.
func standIn(args []string) {
	if slices.Contains(args, "fail") {
		fmt.Fprintln(os.Stderr, "no secret")
		os.Exit(2)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	fmt.Fprintln(os.Stderr, "starting", strings.Join(args, " "), "secret", os.Getenv("RIPSTOP_SECRET"))
	fmt.Fprint(os.Stderr, "rea")
	fmt.Fprintln(os.Stderr, "dy name=02:00:00:00:00:01 nickname=x socket=y")
	<-signals
	if slices.Contains(args, "deaf") {
		select {}
	}
	os.Exit(0)
}

func newLab(t *testing.T, cfg Config) *Lab {
	t.Helper()
	tuntest.NeedRoot(t)
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(l.Dir()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", l.Dir())
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil || bytes.Contains(mounts, []byte(l.Dir())) {
			t.Errorf("mounts are left (%v)", err)
		}
	})
	return l
}

func line(t *testing.T) *Lab {
	return newLab(t, Config{
		Hosts: []string{"a", "b", "c"},
		Links: []LinkConfig{{Hosts: []string{"a", "b"}}, {Hosts: []string{"b", "c"}, MTU: 1400, Single: true}},
	})
}

// answered counts the answers to n pings.
func answered(t *testing.T, from *Place, to netip.Addr, cfg PingConfig) (n int) {
	t.Helper()
	replies, err := from.Ping(context.Background(), to, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range replies {
		if r.Answered {
			n++
		}
	}
	return n
}

// patient is how to ask where answers are expected, however busy the machine is; quick is
// how where none are.
var (
	patient = PingConfig{Count: 3, Interval: time.Millisecond, Timeout: 5 * time.Second}
	quick   = PingConfig{Count: 3, Interval: time.Millisecond, Timeout: 100 * time.Millisecond}
)

func TestLinksJoinNeighboursOnly(t *testing.T) {
	l := line(t)
	a, b, c := l.Host("a"), l.Host("b"), l.Host("c")
	ab, bc := l.Link("a", "b"), l.Link("c", "b")
	for _, to := range []netip.Addr{ab.End("b").IPv4(), ab.End("b").IPv6()} {
		if n := answered(t, a.Place, to, patient); n != 3 {
			t.Errorf("a→b %s: %d of 3 answered", to, n)
		}
	}
	if n := answered(t, a.Place, linkLocal(t, b.Place, "l1").WithZone("l1"), patient); n != 3 {
		t.Errorf("a→b link-local: %d of 3 answered", n)
	}
	if n := answered(t, a.Place, bc.End("c").IPv4(), quick); n != 0 {
		t.Errorf("a reaches c without a common link")
	}
	if _, ok := a.Addr(c); ok {
		t.Error("a has an address for c")
	}
	if addr, ok := c.Addr(b); !ok || addr != bc.End("b").IPv4() || addr != netip.MustParseAddr("198.18.2.1") {
		t.Errorf("c's address for b: %v %v", addr, ok)
	}
	replies, err := b.Ping(context.Background(), bc.End("c").IPv4(), PingConfig{Size: 1372})
	if err != nil || !replies[0].Answered || replies[0].TTL != 64 || replies[0].RTT <= 0 {
		t.Errorf("a full datagram over b–c: %+v %v", replies, err)
	}
	if got := mtu(t, c.Place, bc.End("c").Device()); got != 1400 {
		t.Errorf("MTU %d, want 1400", got)
	}
	if err := bc.SetMTU(1280); err != nil {
		t.Fatal(err)
	}
	if got := mtu(t, b.Place, bc.End("b").Device()); got != 1280 {
		t.Errorf("MTU %d, want 1280", got)
	}
}

// linkLocal is a device's link-local address.
func linkLocal(t *testing.T, p *Place, device string) (found netip.Addr) {
	t.Helper()
	err := p.Do(func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		addrs, err := i.Addrs()
		for _, a := range addrs {
			if prefix, parseErr := netip.ParsePrefix(a.String()); parseErr == nil && prefix.Addr().IsLinkLocalUnicast() {
				found = prefix.Addr()
			}
		}
		return err
	})
	if err != nil || !found.IsValid() {
		t.Fatalf("no link-local address on %s: %v", device, err)
	}
	return found
}

func mtu(t *testing.T, p *Place, device string) (n int) {
	t.Helper()
	err := p.Do(func() error {
		i, err := net.InterfaceByName(device)
		if err == nil {
			n = i.MTU
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCutAndHeal(t *testing.T) {
	l := line(t)
	a, ab := l.Host("a"), l.Link("a", "b")
	b4, b6 := ab.End("b").IPv4(), ab.End("b").IPv6()
	if n := answered(t, a.Place, b4, patient); n != 3 {
		t.Fatalf("before: %d of 3", n)
	}
	for _, c := range []struct {
		name string
		in   func() error
	}{
		{"cut", ab.Cut},
		{"one way", func() error { return ab.End("b").Impair(Rule{All: true}, Rule{}) }},
		{"the other way, at the sender", func() error { return ab.End("b").Impair(Rule{}, Rule{All: true}) }},
		{"carrier", func() error { return ab.End("b").SetCarrier(false) }},
	} {
		if err := c.in(); err != nil {
			t.Fatal(err)
		}
		if n := answered(t, a.Place, b4, quick); n != 0 {
			t.Errorf("%s: %d of 3 answered", c.name, n)
		}
		if err := errors.Join(ab.Heal(), ab.End("b").SetCarrier(true)); err != nil {
			t.Fatal(err)
		}
		if n := answered(t, a.Place, b4, PingConfig{Count: 3, Timeout: 2 * time.Second}); n != 3 {
			t.Errorf("after %s: %d of 3 answered over IPv4", c.name, n)
		}
		if n := answered(t, a.Place, b6, PingConfig{Count: 3, Timeout: 2 * time.Second}); n != 3 {
			t.Errorf("after %s: %d of 3 answered over IPv6", c.name, n)
		}
	}
}

func TestRulesDropWhatTheyName(t *testing.T) {
	l := line(t)
	a, b, ab := l.Host("a"), l.Host("b"), l.Link("a", "b")
	try := func(addr netip.Addr) (udp, tcp bool) {
		flow, err := StartFlow(FlowConfig{From: a.Place, To: b.Place, Addr: addr, Interval: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		udp = flow.Stop(300*time.Millisecond).Received > 0
		listener, err := b.ListenTCP(netip.AddrPortFrom(addr, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		conn, err := a.DialTCP(ctx, listener.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort())
		if err == nil {
			conn.Close()
		}
		return udp, err == nil
	}
	for _, c := range []struct {
		rule     Rule
		udp, tcp bool
	}{
		{Rule{}, true, true},
		{Rule{UDP: true}, false, true},
		{Rule{TCP: true}, true, false},
		{Rule{UDP: true, TCP: true}, false, false},
		{Rule{Loss: 1}, false, false},
		{Rule{}, true, true},
	} {
		if err := ab.Impair(c.rule); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []netip.Addr{ab.End("b").IPv4(), ab.End("b").IPv6()} {
			if udp, tcp := try(addr); udp != c.udp || tcp != c.tcp {
				t.Errorf("%+v, %s: UDP passes %v, TCP %v", c.rule, addr, udp, tcp)
			}
		}
	}
}

func TestLossIsAShare(t *testing.T) {
	l := line(t)
	if err := l.Link("b", "c").Impair(Rule{Loss: 0.25}); err != nil {
		t.Fatal(err)
	}
	flow, err := StartFlow(FlowConfig{From: l.Host("b").Place, To: l.Host("c").Place, Addr: l.Link("b", "c").End("c").IPv4(), Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for flow.Report().Sent < 2000 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	r := flow.Stop(time.Second) // for so long a busy machine may leave them in its queues
	// 2000 trials of 1/4: seven standard deviations are 7 %.
	if share := float64(r.Lost()) / float64(r.Sent); share < 0.18 || share > 0.32 || r.Duplicates != 0 {
		t.Errorf("%v", r)
	}
}

func TestSegmentOfThree(t *testing.T) {
	l := newLab(t, Config{Hosts: []string{"a", "b", "c"}, Links: []LinkConfig{{Hosts: []string{"a", "b", "c"}, NoIPv6: true}}})
	link := l.Link("a", "b", "c")
	for _, from := range l.Hosts() {
		for _, to := range l.Hosts() {
			if from != to && answered(t, from.Place, link.End(to.Name()).Addr(), patient) != 3 {
				t.Errorf("%s does not reach %s", from.Name(), to.Name())
			}
		}
	}
	// c alone cut off; a and b go on.
	if err := link.End("c").Impair(Rule{All: true}, Rule{All: true}); err != nil {
		t.Fatal(err)
	}
	if answered(t, l.Host("a").Place, link.End("c").Addr(), quick) != 0 || answered(t, l.Host("a").Place, link.End("b").Addr(), patient) != 3 {
		t.Error("cutting c off did not do that alone")
	}
	if link.End("a").IPv6().IsValid() {
		t.Error("an IPv6 address")
	}
}

func TestCaptureSeesAndInjects(t *testing.T) {
	l := line(t)
	a, ab := l.Host("a"), l.Link("a", "b")
	at, err := ab.End("b").Capture()
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Link("b", "c").End("c").Capture()
	if err != nil {
		t.Fatal(err)
	}
	marker := []byte("a marker of thirty-two bytes, 32")
	if n := answered(t, a.Place, ab.End("b").IPv4(), PingConfig{Count: 2, Payload: marker, Size: 64}); n != 2 {
		t.Fatalf("%d of 2 answered", n)
	}
	from, err := ab.End("a").Capture()
	if err != nil {
		t.Fatal(err)
	}
	tagged := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x81, 0x00, 0x00, 0x2a, 0x88, 0xb5}, bytes.Repeat([]byte{0x77}, 60))
	if err := from.Inject(tagged); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); at.Contains(tagged) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := at.Contains(tagged); n != 1 {
		t.Errorf("the tagged frame was seen %d times", n)
	}
	if n := at.Contains(marker); n != 4 {
		t.Errorf("the marker was seen in %d frames, want 4: 2 requests, 2 answers", n)
	}
	if n := other.Contains(marker); n != 0 {
		t.Errorf("the marker was seen on another link")
	}
	out := 0
	for _, f := range at.Frames() {
		if f.Out && bytes.Contains(f.Data, marker) {
			out++
		}
	}
	if out != 2 {
		t.Errorf("%d frames of the host itself, want 2", out)
	}
	var file bytes.Buffer
	if err := at.WritePCAP(&file); err != nil || !bytes.Contains(file.Bytes(), tagged) {
		t.Errorf("pcap: %v", err)
	}
	for _, c := range []*Capture{at, other, from} {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestThroughput(t *testing.T) {
	l := line(t)
	n, took, err := Throughput(t.Context(), l.Host("a").Place, l.Host("b").Place, l.Link("a", "b").End("b").IPv4(), 200*time.Millisecond)
	if err != nil || n < 1<<20 || took < 150*time.Millisecond {
		t.Errorf("%d bytes in %v: %v", n, took, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Throughput(ctx, l.Host("a").Place, l.Host("b").Place, l.Link("a", "b").End("b").IPv4(), time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFlowCountsWhatHappens(t *testing.T) {
	f := &Flow{seen: make(map[uint64]bool)}
	start := time.Now()
	for i, n := range []uint64{1, 2, 2, 4, 3, 9} {
		f.arrived(start.Add(time.Duration(i)*time.Second+time.Duration(n)), n)
	}
	f.sent.Store(10)
	want := FlowReport{Sent: 10, Received: 5, Duplicates: 1, Reordered: 1, Gap: 2*time.Second + 2, GapLost: 1}
	if got := f.Report(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestFlowStopsWithAnEmptySocket: what had arrived when the receiver got no CPU before
// its deadline is counted all the same.
func TestFlowStopsWithAnEmptySocket(t *testing.T) {
	listen, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	send, err := net.Dial("udp", listen.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	f := &Flow{send: send, listen: listen, stop: make(chan struct{}), seen: make(map[uint64]bool)}
	if err := f.makeRoom(); err != nil {
		t.Fatal(err)
	}
	const sent = 100
	for n := uint64(1); n <= sent; n++ {
		if _, err := send.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	f.sent.Store(sent)
	listen.SetReadDeadline(time.Now())
	f.wg.Go(f.receiver)
	if r := f.Stop(10 * time.Millisecond); r.Received != sent {
		t.Errorf("%v", r)
	}
}

func TestDaemonAndCommands(t *testing.T) {
	l := newLab(t, Config{Hosts: []string{"a", "b", "far"}, Links: []LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 2})
	a := l.Host("a")
	d, err := a.Start(StartConfig{Secret: "s3cret", Peers: []string{"a", "b", "192.0.2.7"}, Args: []string{"--mtu", "1340"}})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("starting --state %s --socket %s --nickname a --mtu 1340 198.18.1.1 198.18.1.2 192.0.2.7 secret s3cret", a.State(), a.Socket())
	if !strings.HasPrefix(d.Log(), want+"\n") {
		t.Errorf("log %q\nwant %q", d.Log(), want)
	}
	if d.Ready() != "ready name=02:00:00:00:00:01 nickname=x socket=y" {
		t.Errorf("ready line %q", d.Ready())
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", d.PID()))
	if err != nil || ns != a.ns.String() {
		t.Errorf("the daemon runs in %s, want %s (%v)", ns, a.ns, err)
	}
	if a.Daemon() != d || l.Host("b").Daemon() != nil {
		t.Error("Daemon")
	}
	if err := d.Stop(); err != nil || d.Code() != 0 || a.Daemon() != nil {
		t.Errorf("stop: %v, code %d", err, d.Code())
	}
	if _, err := a.Start(StartConfig{Args: []string{"fail"}}); err == nil || !strings.Contains(err.Error(), "no secret") {
		t.Errorf("a daemon that fails: %v", err)
	}
	if _, err := a.Start(StartConfig{Peers: []string{"far"}}); err == nil {
		t.Error("a peer without a link was taken")
	}
	d, err = a.Start(StartConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(); err != nil || d.Code() != -1 {
		t.Errorf("kill: %v, code %d", err, d.Code())
	}
	log, err := os.ReadFile(a.LogFile())
	if err != nil || bytes.Count(log, []byte("ready name")) != 2 {
		t.Errorf("log file: %v\n%s", err, log)
	}
	r, err := a.Ripstop(t.Context(), "status", "--json")
	if err != nil || r.Out != "--socket "+a.Socket()+" status --json\n" {
		t.Errorf("%+v %v", r, err)
	}
	t.Setenv("RIPSTOP_SECRET", "mine")
	c := l.Container("a2")
	if c.Host() != a || l.Container("b1").Host() != l.Host("b") || c.Netns() != filepath.Join(l.Dir(), "netns", "a2") {
		t.Error("containers")
	}
	r, err = c.Exec(t.Context(), l.Binary(), "echo", "x", "y")
	if err != nil || r != (Result{Out: "x y\n", Err: "secret=\n", Code: 7}) {
		t.Errorf("%+v %v", r, err)
	}
	names, err := a.Interfaces()
	if err != nil || !slices.Equal(names, []string{"l1"}) {
		t.Errorf("interfaces %v %v", names, err)
	}
}

func TestCloseReportsWhatItHadToEnd(t *testing.T) {
	tuntest.NeedRoot(t)
	l, err := New(Config{Hosts: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	stray := l.Host("a").command(context.Background(), l.Binary(), "wait")
	if err := l.Host("a").start(stray); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host("b").Start(StartConfig{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stray.Wait() }()
	err = l.Close()
	<-ended
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("a: process %d", stray.Process.Pid)) || strings.Contains(err.Error(), " b: ") {
		t.Errorf("Close: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if _, err := l.AddHost("c"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestNewLeavesNothingAfterAnError(t *testing.T) {
	tuntest.NeedRoot(t)
	for _, cfg := range []Config{
		{Hosts: []string{"a", "a"}},
		{Hosts: []string{"Not a name"}},
		{Hosts: []string{"a"}, Links: []LinkConfig{{Hosts: []string{"a"}}}},
		{Hosts: []string{"a", "b"}, Links: []LinkConfig{{Hosts: []string{"a", "x"}}}},
		{Hosts: []string{"a", "b"}, Links: []LinkConfig{{Hosts: []string{"a", "b"}, MTU: 1 << 30}}},
	} {
		cfg.Dir = filepath.Join(t.TempDir(), "lab")
		if l, err := New(cfg); err == nil {
			t.Errorf("%+v was made", cfg)
			l.Close()
		}
		if _, err := os.Lstat(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: something is left", cfg)
		}
	}
}

// TestAsOrdinaryUser runs the other tests again inside a user namespace.
func TestAsOrdinaryUser(t *testing.T) {
	if InIsolation() {
		t.Skip("inside already")
	}
	tuntest.NeedRoot(t)
	cmd := exec.Command(os.Args[0], "-test.run=^(TestLinks|TestCut|TestRules|TestCapture|TestDaemon|TestCloseReports)", "-test.v")
	cmd.Env = append(os.Environ(), IsolatedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWUSER,
		Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings:  []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings:  []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS")) != 6 {
		t.Errorf("%v\n%s", err, out)
	}
}
