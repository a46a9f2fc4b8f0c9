package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"ripstop/integration/lab"
)

// world is what stands behind a host: it has no route to the overlay's range.
type world struct {
	*story
	server *lab.Container
	addr   netip.Addr // the server's
	host   netip.Addr // the host's, which the world is to see
}

const worldPort = 8080

// world makes one behind a host, with a server that tells who asks.
func (s *story) world(host string) *world {
	s.Helper()
	h := s.Host(host)
	server, err := h.AddContainer("world")
	if err != nil {
		s.Fatal(err)
	}
	w := &world{s, server, netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.1")}
	s.ip(h.Place, "link", "add", "w0", "type", "veth", "peer", "name", "w1")
	s.ip(h.Place, "link", "set", "w1", "netns", server.Netns())
	s.ip(h.Place, "addr", "add", w.host.String()+"/24", "dev", "w0")
	s.ip(h.Place, "link", "set", "w0", "up")
	s.ip(server.Place, "addr", "add", w.addr.String()+"/24", "dev", "w1")
	s.ip(server.Place, "link", "set", "w1", "up")
	w.serve(server, netip.AddrPortFrom(w.addr, worldPort))
	return w
}

// serve has a container tell everybody who connects with it from where.
func (s *story) serve(c *lab.Container, at netip.AddrPort) {
	s.Helper()
	var l net.Listener
	err := c.Do(func() (err error) {
		l, err = net.Listen("tcp4", at.String())
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprint(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
	s.Cleanup(func() {
		l.Close()
		<-done
	})
}

// seen connects with a server and returns as whom it sees the container.
func (s *story) seen(c *lab.Container, server netip.AddrPort) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	conn, err := c.DialTCP(ctx, server)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(time.Second))
	text, err := io.ReadAll(conn)
	if err != nil {
		return netip.Addr{}, err
	}
	p, err := netip.ParseAddrPort(string(text))
	return p.Addr(), err
}

// open wants a container to reach the world, which sees the host.
func (w *world) open(container string) {
	w.Helper()
	w.eventually(container+" reaches the world", func() error {
		from, err := w.seen(w.Container(container), netip.AddrPortFrom(w.addr, worldPort))
		if err == nil && from != w.host {
			err = fmt.Errorf("it is seen as %v, want %v", from, w.host)
		}
		return err
	})
	w.answered(container, w.addr, w.ping(container, w.addr, lab.PingConfig{Count: 2}))
}

// shut wants a container not to reach it.
func (w *world) shut(container string) {
	w.Helper()
	if from, err := w.seen(w.Container(container), netip.AddrPortFrom(w.addr, worldPort)); err == nil {
		w.Errorf("%s reaches the world, seen as %v", container, from)
	}
	if w.pings(container, w.addr) {
		w.Errorf("the world answers %s", container)
	}
}

// refusedWith runs a command that has to fail, with a text.
func (s *story) refusedWith(host, says string, args ...string) {
	s.Helper()
	r, err := s.Host(host).Ripstop(s.ctx, args...)
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, says) {
		s.Errorf("%s: %v: exit code %d, %q, %v; want it to speak of %q", host, args, r.Code, r.Err, err, says)
	}
}

// forwarding is net.ipv4.ip_forward of a host.
func (s *story) forwarding(host string) string {
	s.Helper()
	var b []byte
	err := s.Host(host).Do(func() (err error) {
		b, err = os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// TestGateway: a container attached with --gateway reaches the world behind its host,
// which sees the host; one without does not, nor does the world reach it. Containers of
// two hosts go on seeing each other's own addresses.
//
//	a1 ─ a ─┬─ world          b ─ b1
//	a2 ─┘   └────── overlay ──┘
func TestGateway(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 2})
	if err := s.Host("a").Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) }); err != nil {
		t.Fatal(err)
	}
	w := s.world("a")
	s.upAll()
	s.reach("a", "b")
	a1, a2, b1 := s.Container("a1"), s.Container("a2"), s.Container("b1")
	attach := func(c *lab.Container, address string, flags ...string) {
		t.Helper()
		if err := c.Attach(s.ctx, address, flags...); err != nil {
			t.Fatal(err)
		}
	}
	s.refusedWith("a", "ripstop expose --masquerade", "attach", a1.Netns(), "--address", "10.32.0.1/24", "--gateway")
	s.run("a", "expose", "--address", "10.32.0.100/24")
	s.refusedWith("a", "ripstop expose --masquerade", "attach", a1.Netns(), "--address", "10.32.0.1/24", "--gateway")
	if got := s.forwarding("a"); got != "0" {
		t.Errorf("expose alone turned forwarding to %s", got)
	}
	s.run("a", "expose", "--masquerade")
	if got := s.forwarding("a"); got != "1" {
		t.Errorf("ip_forward is %s", got)
	}
	s.refusedWith("a", "--subnet 10.32.9.0/24", "attach", a1.Netns(), "--address", "10.32.9.1/24", "--gateway")
	if left := s.interfaces("a1"); len(left) != 0 {
		t.Errorf("a refusal left %v", left)
	}

	attach(a1, "10.32.0.1/24", "--gateway")
	attach(a1, "10.32.0.1/24", "--gateway") // changes nothing
	attach(a2, "10.32.0.2/24")
	attach(b1, "10.32.0.3/24")
	w.open("a1")
	w.shut("a2")
	gateways := func(when string) {
		t.Helper()
		s.known(4)
		var with, without int
		for _, e := range s.status("a").Endpoints {
			switch {
			case slices.Contains(e.Addresses, netip.MustParsePrefix("10.32.0.1/24")) && e.Gateway.String() == "10.32.0.100":
				with++
			case !e.Gateway.IsValid():
				without++
			}
		}
		if with != 1 || without != 3 {
			t.Errorf("%s: %d endpoints with the gateway and %d without: %+v", when, with, without, s.status("a").Endpoints)
		}
	}
	gateways("attached")
	if own := s.status("a"); !own.Masquerade || own.Endpoints[0].Name == "" || !strings.Contains(s.run("a", "status"), "masquerades") || !strings.Contains(s.run("a", "status", "endpoints"), "10.32.0.100") {
		t.Errorf("status does not tell:\n%s\n%s", s.run("a", "status"), s.run("a", "status", "endpoints"))
	}

	// Another default route is left alone.
	s.refusedWith("a", "default route already, by 10.32.0.100 through rip0", "attach", a1.Netns(), "--interface", "rip1", "--address", "10.32.0.9/24", "--gateway")

	// On the overlay everybody keeps the own address, both ways.
	b1Addr, a1Addr := netip.MustParseAddr("10.32.0.3"), netip.MustParseAddr("10.32.0.1")
	s.serve(b1, netip.AddrPortFrom(b1Addr, worldPort))
	s.serve(a1, netip.AddrPortFrom(a1Addr, worldPort))
	for _, c := range []struct {
		from     *lab.Container
		to, want netip.Addr
	}{{a1, b1Addr, a1Addr}, {b1, a1Addr, b1Addr}} {
		if from, err := s.seen(c.from, netip.AddrPortFrom(c.to, worldPort)); err != nil || from != c.want {
			t.Errorf("%v sees %v, want %v: %v", c.to, from, c.want, err)
		}
	}

	// The world gets in only where a rule of the host publishes something. It may know the way.
	s.ip(w.server.Place, "route", "add", "10.32.0.0/12", "via", w.host.String())
	if _, err := s.seen(w.server, netip.AddrPortFrom(a1Addr, worldPort)); err == nil {
		t.Error("the world reaches a container that it was not let to")
	}
	if s.pings("world", a1Addr) {
		t.Error("a container answers the world")
	}
	s.nft("a", fmt.Sprintf(`table ip published { chain in { type nat hook prerouting priority -100; ip daddr %s tcp dport 80 dnat to %s:%d; }; }`, w.host, a1Addr, worldPort))
	if from, err := s.seen(w.server, netip.AddrPortFrom(w.host, 80)); err != nil || from != w.addr {
		t.Errorf("a published port: seen as %v, %v", from, err)
	}
	s.nft("a", "delete table ip published")
	s.ip(w.server.Place, "route", "del", "10.32.0.0/12")

	// What somebody flushes comes back, and so does what a killed daemon had.
	s.nft("a", "flush ruleset")
	w.open("a1")
	s.nft("a", "delete table ip ripstop-ripstop")
	w.open("a1")
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	w.open("a1") // needs no daemon
	s.nft("a", "flush ruleset")
	s.up("a", lab.StartConfig{})
	w.open("a1")
	w.shut("a2")
	gateways("after a restart")

	// As after the host started anew: no rules, no address, no forwarding.
	if err := s.Host("a").Daemon().Kill(); err != nil {
		t.Fatal(err)
	}
	s.nft("a", "flush ruleset")
	s.ip(s.Host("a").Place, "addr", "del", "10.32.0.100/24", "dev", "ripstop")
	if err := s.Host("a").Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) }); err != nil {
		t.Fatal(err)
	}
	w.shut("a1")
	s.up("a", lab.StartConfig{})
	w.open("a1")
	gateways("after another")

	// doctor says what else is in the way.
	doctor := func(says string) {
		t.Helper()
		if r, err := s.Host("a").Ripstop(s.ctx, "doctor"); err != nil || !strings.Contains(r.Out, says) {
			t.Errorf("doctor: want %q: %v\n%s", says, err, r.Out)
		}
	}
	doctor("masquerades: 1 container")
	s.nft("a", "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }")
	w.shut("a1")
	doctor("iptables -I FORWARD -o ripstop -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	s.nft("a", "insert rule ip filter FORWARD iifname ripstop accept")
	s.nft("a", "insert rule ip filter FORWARD oifname ripstop ct state related,established accept")
	w.open("a1")
	doctor("masquerades: 1 container")
	if err := s.Host("a").Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) }); err != nil {
		t.Fatal(err)
	}
	doctor("sysctl -w net.ipv4.ip_forward=1")
	s.run("a", "expose", "--masquerade")
	w.open("a1")

	s.refusedWith("a", "gateway of a1: run `ripstop detach`", "hide")
	w.open("a1")
	s.run("a", "detach", a1.Netns())
	s.run("a", "hide")
	w.shut("a1")
	if got := s.forwarding("a"); got != "1" {
		t.Errorf("hide turned forwarding to %s", got)
	}
	if r, err := s.Host("a").Exec(s.ctx, "nft", "list", "tables"); err != nil || strings.Contains(r.Out, "table ip ripstop") {
		t.Errorf("hide left rules: %s, %v", r.Out, err)
	}
	s.run("a", "expose", "--masquerade", "--address", "10.32.0.100/24")
	attach(a1, "10.32.0.1/24", "--gateway")
	w.open("a1")
	daemon := s.Host("a").Daemon()
	s.run("a", "reset", "--yes")
	<-daemon.Done()
	if r, err := s.Host("a").Exec(s.ctx, "nft", "list", "tables"); err != nil || strings.Contains(r.Out, "ripstop") {
		t.Errorf("reset left rules: %s, %v", r.Out, err)
	}
}

// TestGatewayOfOthers: a container of another host, whose route somebody made by hand,
// may use a gateway too.
func TestGatewayOfOthers(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	w := s.world("a")
	s.upAll()
	s.reach("a", "b")
	s.run("a", "expose", "--masquerade", "--address", "10.32.0.100/24")
	addrs := s.attach("a1", "b1")
	s.known(3)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 2}))
	w.shut("b1")
	s.ip(s.Container("b1").Place, "route", "add", "default", "via", "10.32.0.100")
	w.open("b1")
}

// TestCNIGateway: a network with isDefaultGateway makes the host a gateway, and its
// containers reach the world; CHECK sees what is missing.
func TestCNIGateway(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 3})
	w := s.world("a")
	s.upAll()
	runtime := s.orchestrator("a", "1.1.0")
	out := map[string]any{"isDefaultGateway": true, "ipMasq": true}
	checking := func(added []byte) map[string]any {
		return map[string]any{"isDefaultGateway": true, "ipMasq": true, "prevResult": json.RawMessage(added)}
	}
	a1, a2, a3 := s.Container("a1"), s.Container("a2"), s.Container("a3")

	// Two at once: both find the host exposed.
	var wg sync.WaitGroup
	added, errs := make([][]byte, 2), make([]error, 2)
	for i, c := range []*lab.Container{a1, a2} {
		wg.Go(func() { added[i], errs[i] = runtime.call("ADD", c.Name(), c.Netns(), out) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	runtime.must("ADD", "a3", a3.Netns(), nil)
	own := s.status("a")
	if !own.Masquerade || len(own.Addresses) == 0 {
		t.Fatalf("the host is no gateway: %v", own.Addresses)
	}
	gateway := own.Addresses[0].Addr()
	var result types100.Result
	if err := json.Unmarshal(added[0], &result); err != nil || result.IPs[0].Gateway.String() != gateway.String() || len(result.IPs[1].Gateway) != 0 {
		t.Errorf("%v: %s", err, added[0])
	}
	if last := result.Routes[len(result.Routes)-1]; last.Dst.String() != "0.0.0.0/0" || last.GW.String() != gateway.String() {
		t.Errorf("the last route is %v", last)
	}
	w.open("a1")
	w.open("a2")
	w.shut("a3")
	if again := runtime.must("ADD", "a1", a1.Netns(), out); !bytes.Equal(again, added[0]) {
		t.Errorf("ADD once more: %s", again)
	}
	runtime.must("CHECK", "a1", a1.Netns(), checking(added[0]))
	s.ip(a1.Place, "route", "del", "default")
	runtime.refused(100, "CHECK", "a1", a1.Netns(), checking(added[0]))
	s.refusedWith("a", "is the gateway of", "hide")
	runtime.must("CHECK", "a2", a2.Netns(), checking(added[1]))
	w.open("a2")

	// A container that has a default route by another plug-in keeps it.
	runtime.must("DEL", "a3", a3.Netns(), nil)
	s.ip(a3.Place, "route", "add", "default", "dev", "lo")
	runtime.refused(101, "ADD", "a3", a3.Netns(), out)
	runtime.refused(101, "ADD", "a3", a3.Netns(), map[string]any{"isDefaultGateway": true, "ipam": map[string]any{"subnet": "10.40.0.0/16"}})
	for _, id := range []string{"a1", "a2"} {
		runtime.must("DEL", id, s.Container(id).Netns(), out)
	}
}

// TestPodmanGateway: a network of Podman's with -o gateway=true does the same.
func TestPodmanGateway(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 2})
	w := s.world("a")
	s.upAll()
	subnet := map[string]any{"subnets": []map[string]any{{"subnet": "10.32.2.0/24"}}}
	out, in := s.podman("a", map[string]string{"gateway": "true"}, subnet), s.podman("a", nil, subnet)
	a1, a2 := s.Container("a1"), s.Container("a2")
	out.setup(a1.Netns(), out.container("a1", nil))
	in.setup(a2.Netns(), in.container("a2", nil))
	if own := s.status("a"); !own.Masquerade || len(own.Addresses) == 0 || own.Addresses[0].Masked().String() != "10.32.2.0/24" {
		t.Errorf("the host is no gateway in the subnet: %v", own.Addresses)
	}
	w.open("a1")
	w.shut("a2")
	if _, err := out.call(out.container("a1", nil), "teardown", a1.Netns()); err != nil {
		t.Error(err)
	}
	if left := s.interfaces("a1"); len(left) != 0 {
		t.Errorf("teardown left %v", left)
	}
}
