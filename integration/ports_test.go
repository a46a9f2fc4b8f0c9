package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// ip runs the ip program in a place, and wants it to succeed.
func (s *story) ip(p *lab.Place, args ...string) {
	s.Helper()
	if r, err := p.Exec(s.ctx, "ip", args...); err != nil || r.Code != 0 {
		s.Fatalf("%s: ip %v: %+v, %v", p.Name(), args, r, err)
	}
}

// plugByHand puts a namespace on a host's bridge as somebody does who does not know
// of ripstop: a VM's tap, a NIC.
func (s *story) plugByHand(host, container, address string) {
	s.Helper()
	h, c := s.Host(host), s.Container(container)
	s.ip(h.Place, "link", "add", "hand0", "type", "veth", "peer", "name", "hand1")
	s.ip(h.Place, "link", "set", "hand0", "master", "ripstop", "up")
	s.ip(h.Place, "link", "set", "hand1", "netns", c.Netns())
	s.ip(c.Place, "link", "set", "hand1", "up")
	s.ip(c.Place, "addr", "add", address, "dev", "hand1")
}

// pings reports whether one ping is answered.
func (s *story) pings(from string, to netip.Addr) bool {
	r, err := s.Container(from).Ping(s.ctx, to, lab.PingConfig{Timeout: 300 * time.Millisecond})
	return err == nil && r[0].Answered
}

// TestUnmanagedPort: what is put on the bridge by hand takes part, learned like on
// any switch; with --strict-ports it does not.
func TestUnmanagedPort(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict %v", strict), func(t *testing.T) {
			s := tell(t, line("a", "b"))
			var args []string
			if strict {
				args = []string{"--strict-ports"}
			}
			s.upAll(args...)
			s.reach("a", "b")
			s.plugByHand("a", "a1", "10.32.0.50/24")
			if err := s.Container("b1").Attach(s.ctx, "10.32.0.2/24"); err != nil {
				t.Fatal(err)
			}
			s.known(1)
			if strict {
				time.Sleep(3 * time.Second) // the port is noticed within two
				for range 5 {
					if s.pings("b1", netip.MustParseAddr("10.32.0.50")) || s.pings("a1", netip.MustParseAddr("10.32.0.2")) {
						t.Fatal("a port that nobody attached takes part")
					}
				}
				return
			}
			s.eventually("the port by hand answers", func() error {
				if !s.pings("b1", netip.MustParseAddr("10.32.0.50")) || !s.pings("a1", netip.MustParseAddr("10.32.0.2")) {
					return fmt.Errorf("no answer")
				}
				return nil
			})
		})
	}
}

// TestNamespaceEnds: an endpoint whose container is gone is withdrawn everywhere.
func TestNamespaceEnds(t *testing.T) {
	s := tell(t, line("a", "b"))
	s.upAll()
	s.reach("a", "b")
	s.attach("a1", "b1")
	s.known(2)
	s.ip(s.Container("a1").Place, "link", "delete", "rip0")
	s.known(1)
	if err := s.Container("a1").Attach(s.ctx, "10.32.0.1/24"); err != nil {
		t.Fatalf("attaching again: %v", err)
	}
	s.known(2)
}

// TestPortTakenOffAndRulesFlushed: what somebody else's program does to bridge and
// rules is set right again.
func TestPortTakenOffAndRulesFlushed(t *testing.T) {
	s := tell(t, line("a", "b"))
	s.upAll()
	s.reach("a", "b")
	addrs := s.attach("a1", "b1")
	s.known(2)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 2}))
	for _, e := range s.status("a").Endpoints {
		if e.Name == "a1" {
			s.ip(s.Host("a").Place, "link", "set", e.HostPort, "nomaster")
		}
	}
	s.ip(s.Host("b").Place, "link", "set", "ripstop0", "nomaster")
	s.eventually("a1 reaches b1 again", func() error {
		if !s.pings("a1", addrs[1]) {
			return fmt.Errorf("no answer")
		}
		return nil
	})
	if r, err := s.Host("a").Exec(s.ctx, "nft", "flush", "ruleset"); err != nil || r.Code != 0 {
		t.Fatalf("nft: %+v, %v", r, err)
	}
	s.eventually("the port rules are back", func() error {
		r, err := s.Host("a").Exec(context.Background(), "nft", "list", "tables")
		if err != nil || r.Code != 0 {
			return fmt.Errorf("%+v, %v", r, err)
		}
		for _, table := range []string{"bridge", "inet"} { // rules of the ports, and the underlay guard
			if !strings.Contains(r.Out, "table "+table+" ripstop-ripstop") {
				return fmt.Errorf("there are only %q", r.Out)
			}
		}
		return nil
	})
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: 2}))
}

// TestAttachTwice: attaching again what stands changes nothing, otherwise it says how.
func TestAttachTwice(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}, Containers: 1})
	s.upAll()
	s.attach("a1")
	before := s.status("a").Endpoints
	s.attach("a1")
	if after := s.status("a").Endpoints; len(after) != 1 || after[0].MAC != before[0].MAC || after[0].Claim != before[0].Claim {
		t.Errorf("before %+v, after %+v", before, after)
	}
	netns := s.Container("a1").Netns()
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"attach", netns, "--address", "10.32.0.9/24"}, "--interface"},
		{[]string{"attach", netns}, "otherwise"},
		{[]string{"attach", netns, "--interface", "rip1", "--address", "10.32.0.1/24"}, "in use"},
		{[]string{"attach", netns, "--interface", "rip1", "--address", "10.32.0.0/24"}, "--address"},
		{[]string{"attach", netns, "--interface", "rip1", "--address", "10.32.0.9/24", "--mac", "ff:ff:ff:ff:ff:ff"}, "--mac"},
		{[]string{"attach", "/proc/self/ns/net", "--address", "10.32.0.9/24"}, "own"},
		{[]string{"attach", "nosuchnamespace", "--address", "10.32.0.9/24"}, "nosuchnamespace"},
		{[]string{"detach", "nosuchnamespace"}, "nosuchnamespace"},
	} {
		r, err := s.Host("a").Ripstop(s.ctx, c.args...)
		if err != nil || r.Code == 0 || !strings.Contains(r.Err, c.says) {
			t.Errorf("%v: exit code %d, %q, %v; want it to speak of %q", c.args[:min(len(c.args), 5)], r.Code, r.Err, err, c.says)
		}
	}
	if err := s.Container("a1").Detach(s.ctx); err != nil {
		t.Fatal(err)
	}
	left, err := s.Container("a1").Interfaces()
	if err != nil || len(left) != 0 {
		t.Errorf("left in the container: %v, %v", left, err)
	}
	s.known(0)
}
