package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ripstop/mesh/api"
)

// pingedHost is what `ripstop ping --json` says.
type pingedHost struct {
	Version, Sent, Answered int
	Nickname                string
	Loss                    float64
	Min                     int64 `json:"min_us"`
	Median                  int64 `json:"median_us"`
	Max                     int64 `json:"max_us"`
	Pings                   []struct {
		Answered  bool
		RTT       int64 `json:"rtt_us"`
		Way, Back *api.PingWay
		Error     string
	}
}

// pingHost has a host ping another, which it exits with the code of.
func (s *story) pingHost(from string, args ...string) (p pingedHost) {
	s.Helper()
	r, err := s.Host(from).Ripstop(s.ctx, append([]string{"ping", "--json", "--interval", "20ms"}, args...)...)
	if err != nil {
		s.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Out), &p); err != nil {
		s.Fatalf("%s: ping %v: exit code %d: %v: %s%s", from, args, r.Code, err, r.Out, r.Err)
	}
	if p.Version != api.Version || len(p.Pings) != p.Sent || (p.Answered > 0) != (r.Code == 0) || (r.Code == 0) != (r.Err == "") {
		s.Fatalf("%s: ping %v: exit code %d: %s%s", from, args, r.Code, r.Out, r.Err)
	}
	return p
}

// went wants n pings to have been answered, there and back by the same way.
func (p pingedHost) went(n int, to string, way api.PingWay) error {
	if p.Answered != n || p.Nickname != to || p.Min <= 0 || p.Min > p.Median || p.Median > p.Max {
		return fmt.Errorf("%+v", p)
	}
	for _, one := range p.Pings {
		back := way
		back.Via = ""
		if one.Answered && (*one.Way != way || *one.Back != back) {
			return fmt.Errorf("there by %+v, back by %+v, want %+v", *one.Way, *one.Back, way)
		}
	}
	return nil
}

// refusesPing wants a ping to end with that text, and nothing on stdout.
func (s *story) refusesPing(from, text string, args ...string) {
	s.Helper()
	r, err := s.Host(from).Ripstop(s.ctx, append([]string{"ping"}, args...)...)
	if err != nil || r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, text) {
		s.Errorf("%s: ping %v: exit code %d, %v: %q %q, want %q", from, args, r.Code, err, r.Out, r.Err, text)
	}
}

// TestPing: a host in a row is asked directly, on each of its paths, and one behind it over
// a relay; when UDP does not pass, and when nothing does, is told; pings are bounded.
func TestPing(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.upAll()
	s.reach("a", "b", "c")
	b := s.Link("a", "b").End("b")
	udp4 := api.PingWay{Path: "udp", Remote: netip.AddrPortFrom(b.IPv4(), 6783).String()}
	udp6 := api.PingWay{Path: "udp", Remote: netip.AddrPortFrom(b.IPv6(), 6783).String()}
	// A path is found in a moment; which of two alike is in use is chance.
	s.eventually("b answers directly", func() error {
		p := s.pingHost("a", "b", "-c", "5")
		return anyOf(p.went(5, "b", udp4), p.went(5, "b", udp6))
	})
	s.eventually("c answers over b", func() error {
		return s.pingHost("a", "c", "-c", "5").went(5, "c", api.PingWay{Path: "relay", Via: "b"})
	})
	for path, way := range map[string]api.PingWay{udp4.Remote: udp4, udp6.Remote: udp6, "tcp": {Path: "tcp"}} {
		if err := s.pingHost("a", s.status("b").Name, "-c", "2", "--path", path).went(2, "b", way); err != nil {
			t.Errorf("by %s: %v", path, err)
		}
	}
	for _, host := range []string{"b", "c"} {
		t.Logf("for people:\n%s", s.run("a", "ping", host, "-c", "3", "--interval", "50ms"))
	}

	s.refusesPing("a", "no host nobody: `ripstop status peers` lists them", "nobody")
	s.refusesPing("a", "a is this host", "a")
	s.refusesPing("a", "a path is udp, tcp, or an underlay address with its port", "b", "--path", "relay")
	s.refusesPing("a", "198.18.1.77:6783 is no path between this host and b; there is ", "b", "--path", "198.18.1.77:6783")
	s.refusesPing("a", "tcp is no path between this host and c; there is ", "c", "--path", "tcp")

	// However many ask, the host sends one every 10 ms.
	start := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if r, err := s.Host("a").Ripstop(s.ctx, "ping", "b", "-c", "50", "--interval", "10ms"); err != nil || r.Code != 0 {
				t.Errorf("many at once: %+v, %v", r, err)
			}
		})
	}
	if wg.Wait(); time.Since(start) < 1990*time.Millisecond {
		t.Errorf("200 pings left within %v", time.Since(start))
	}

	s.nft("a", "table inet closed { chain in { type filter hook input priority 0; udp dport 6783 drop; }; }")
	s.eventually("b answers over TCP", func() error { return s.pingHost("a", "b", "-c", "2").went(2, "b", api.PingWay{Path: "tcp"}) })
	p := s.pingHost("a", "b", "-c", "2", "--path", udp4.Remote, "--timeout", "100ms")
	if p.Answered != 0 || p.Loss != 1 || *p.Pings[0].Way != udp4 || p.Pings[0].Back != nil {
		t.Errorf("UDP does not pass: %+v", p)
	}
	if busy := s.crowd(20, udp4.Remote); busy != 4 {
		t.Errorf("of 20 pings at once %d were refused, want 4", busy)
	}
	s.nft("a", "delete table inet closed")

	if err := s.Link("b", "c").Cut(); err != nil {
		t.Fatal(err)
	}
	s.eventually("there is no way to c", func() error {
		r, err := s.Host("a").Ripstop(s.ctx, "ping", "c", "-c", "1", "--timeout", "100ms")
		if err != nil || r.Code != 1 || r.Err != "ripstop: there is no way to c now: `ripstop explain c` says where it ends\n" {
			return fmt.Errorf("%+v, %v", r, err)
		}
		return nil
	})
}

// anyOf is nil if one of the errors is.
func anyOf(errs ...error) error {
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

// crowd has a ask b for so many pings at once, on a path that does not pass, and returns
// how many were refused.
func (s *story) crowd(n int, path string) (refused int) {
	s.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			client := api.NewClient(s.Host("a").Socket())
			defer client.Close()
			pong, err := client.Ping(s.ctx, api.PingRequest{Host: "b", Path: path, Timeout: api.Duration(3 * time.Second)})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case api.IsCode(err, api.CodeConflict) && strings.Contains(err.Error(), "16 pings wait"):
				refused++
			case err != nil || pong.Answered:
				s.Errorf("%+v, %v", pong, err)
			}
		})
	}
	wg.Wait()
	return refused
}
