package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ripstop/integration/lab"
)

// scrape asks for the metrics over a connection that dial opens.
func (s *story) scrape(dial func(context.Context) (net.Conn, error)) string {
	s.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.Fatalf("metrics: %s %v\n%s", resp.Status, err, text)
	}
	return string(text)
}

// bySocket and byTCP are the two ways to a host's metrics.
func (s *story) bySocket(host string) string {
	s.Helper()
	return s.scrape(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Host(host).Socket())
	})
}

func (s *story) byTCP(host string, at netip.AddrPort) string {
	s.Helper()
	return s.scrape(func(ctx context.Context) (net.Conn, error) { return s.Host(host).DialTCP(ctx, at) })
}

// sample is the value of one series, labels and all.
func (s *story) sample(text, series string) float64 {
	s.Helper()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.Fatal(err)
			}
			return v
		}
	}
	s.Fatalf("there is no %s in\n%s", series, text)
	return 0
}

// TestMetrics: what a host counts is read by its socket, and over TCP from inside the
// host alone; the port is gone with the daemon.
func TestMetrics(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	d := s.up("a", lab.StartConfig{Args: []string{"--metrics", "127.0.0.1:0"}})
	s.up("b", lab.StartConfig{Peers: []string{"a"}})
	s.reach("a", "b")
	addrs := s.attach("a1", "b1")
	s.known(2)
	at, err := netip.ParseAddrPort(s.status("a").Metrics)
	if err != nil || at.Port() == 0 || !strings.Contains(d.Log(), "address="+at.String()) {
		t.Fatalf("the port is %v, %v; the log:\n%s", at, err, d.Log())
	}
	if other := s.status("b").Metrics; other != "" {
		t.Errorf("b was not asked to, and has a port at %s", other)
	}

	const pings = 20
	before := s.byTCP("a", at)
	s.answered("a1", addrs[1], s.ping("a1", addrs[1], lab.PingConfig{Count: pings}))
	toB := fmt.Sprintf("{peer=%q,nickname=\"b\"}", s.status("b").Name)
	for way, after := range map[string]string{"TCP": s.byTCP("a", at), "the socket": s.bySocket("a")} {
		for _, series := range []string{"ripstop_sent_frames_total", "ripstop_received_frames_total", "ripstop_sent_datagrams_total",
			"ripstop_peer_sent_frames_total" + toB, "ripstop_peer_received_frames_total" + toB} {
			if rise := s.sample(after, series) - s.sample(before, series); rise < pings {
				t.Errorf("by %s, %s rose by %v in %d pings", way, series, rise, pings)
			}
		}
		for series, want := range map[string]float64{
			"ripstop_peers{state=\"direct\"}": 1, "ripstop_peer_reachable" + toB: 1, "ripstop_link_up" + toB: 1,
			"ripstop_links{state=\"up\",path=\"udp\"}": 1, "ripstop_endpoints{state=\"here\"}": 1, "ripstop_endpoints{state=\"remote\"}": 1,
			"ripstop_ipam_used_addresses": 1,
		} {
			if got := s.sample(after, series); got != want {
				t.Errorf("by %s, %s is %v, want %v", way, series, got, want)
			}
		}
		if rtt := s.sample(after, "ripstop_link_rtt_seconds"+toB); rtt <= 0 || rtt > 10 {
			t.Errorf("by %s, the round trip takes %v s", way, rtt)
		}
		if s.sample(after, "process_resident_memory_bytes") < 1<<20 || s.sample(after, "process_cpu_seconds_total") <= 0 {
			t.Errorf("by %s, the process takes nothing", way)
		}
		if strings.Contains(after, "ripstop_other_total") {
			t.Errorf("by %s, a counter of every day has no metric of its own:\n%s", way, after)
		}
	}
	if s.sample(s.bySocket("b"), "ripstop_received_frames_total") < pings {
		t.Error("b does not tell what it received")
	}

	underlay, _ := s.Host("b").Addr(s.Host("a"))
	refused := func(from string, to netip.AddrPort) {
		t.Helper()
		conn, err := s.Host(from).DialTCP(s.ctx, to)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("from %s to %v: %v", from, to, err)
		}
		if err == nil {
			conn.Close()
		}
	}
	refused("b", netip.AddrPortFrom(underlay, at.Port()))
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	refused("a", at)

	taken, err := s.Host("a").ListenTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Host("a").Ripstop(s.ctx, "up", "--state", s.Host("a").State(), "--metrics", at.String())
	taken.Close()
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "choose another one by --metrics") {
		t.Errorf("a port that is taken: %+v, %v", r, err)
	}
	s.up("a", lab.StartConfig{Args: []string{"--metrics", at.String()}})
	if s.sample(s.byTCP("a", at), "ripstop_endpoints{state=\"here\"}") != 1 {
		t.Error("the endpoint was not taken over")
	}
}
