package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

// serveMetrics runs a MetricsServer over b on a free port, and has it closed at the end.
func serveMetrics(t *testing.T, b Backend) netip.AddrPort {
	t.Helper()
	s, err := ListenMetrics(MetricsConfig{Address: netip.MustParseAddrPort("127.0.0.1:0"), Backend: b, Log: slog.New(slog.DiscardHandler)})
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
		if conn, err := net.Dial("tcp", s.Addr().String()); err == nil {
			conn.Close()
			t.Error("the port is still open")
		}
		s.Close()
	})
	return s.Addr()
}

// get asks over a connection of its own; host is what the request says it is for.
func get(t *testing.T, at netip.AddrPort, method, path, host string) (*http.Response, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+at.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestMetricsOverTCP(t *testing.T) {
	b := new(recorder)
	at := serveMetrics(t, b)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200},
		{"POST", "/metrics", 405}, {"PUT", "/metrics", 405}, {"DELETE", "/metrics", 405}, {"OPTIONS", "/metrics", 405},
		{"GET", "/", 404}, {"GET", "/metrics/", 404}, {"GET", "/v1/status", 404}, {"POST", "/v1/stop", 404},
	} {
		resp, body := get(t, at, c.method, c.path, "")
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
		if c.status == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s allows %q", c.method, c.path, resp.Header.Get("Allow"))
		}
		if c.status != 200 {
			continue
		}
		if got := resp.Header.Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" || resp.ContentLength < 1000 {
			t.Errorf("%s %s: %s, %d bytes", c.method, c.path, got, resp.ContentLength)
		}
		if c.method == "HEAD" && body != "" {
			t.Errorf("HEAD is answered with %q", body)
		}
		if samples, err := parseExposition([]byte(body)); c.method == "GET" && (err != nil || len(samples) == 0) {
			t.Errorf("%d samples, %v", len(samples), err)
		}
	}
	if _, body := get(t, at, "GET", "/metrics", ""); !strings.Contains(body, "\nripstop_received_frames_total 7\n") || !strings.Contains(body, "\ngo_goroutines ") {
		t.Errorf("%s", body)
	}
	if len(b.asked) != 3 {
		t.Errorf("the backend was asked %v", b.asked)
	}
}

// TestMetricsHost: a page of the web whose name leads to the loopback reads nothing.
func TestMetricsHost(t *testing.T) {
	b := new(recorder)
	at := serveMetrics(t, b)
	for _, host := range []string{"evil.example", "evil.example:6782", "127.0.0.1.evil.example", "localhost.evil.example:80", "192.0.2.1", "[2001:db8::1]:6782", "0.0.0.0", "[::]", "169.254.83.53"} {
		if resp, body := get(t, at, "GET", "/metrics", host); resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "127.0.0.1") || strings.Contains(body, "evil") {
			t.Errorf("%s: %d %s", host, resp.StatusCode, body)
		}
	}
	for request, want := range map[string]string{
		"GET /metrics HTTP/1.0\r\n\r\n":                                            " 403 ", // nothing said
		"GET http://evil.example/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":      " 403 ",
		"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n":                         " 403 ",
		"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n":    " 200 ",
		"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n": " 400 ",
	} {
		conn, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, request)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("%q: %q %v, want %s", request, line, err, want)
		}
		conn.Close()
	}
	if len(b.asked) != 1 {
		t.Errorf("the backend was asked %d times", len(b.asked))
	}
	for _, host := range []string{"localhost", "LocalHost:6782", "127.0.0.1", "127.0.0.1:80", "127.1.2.3", "[::1]", "[::1]:6782"} {
		if resp, body := get(t, at, "GET", "/metrics", host); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", host, resp.StatusCode, body)
		}
	}
}

func TestMetricsOverTheSocket(t *testing.T) {
	socket := serve(t, new(recorder))
	if status, body := raw(t, socket, "GET", "/metrics", nil); status != 200 || !strings.Contains(body, "\nripstop_received_frames_total 7\n") {
		t.Errorf("%d %s", status, body)
	}
	if status, body := raw(t, socket, "POST", "/metrics", nil); status != 404 {
		t.Errorf("POST: %d %s", status, body)
	}
	for err, want := range map[error]int{Errorf(CodeStopping, "on its way down"): 503, errors.New("no memory"): 500} {
		if status, body := raw(t, serve(t, &recorder{err: err}), "GET", "/metrics", nil); status != want || body != err.Error()+"\n" {
			t.Errorf("%v: %d %s", err, status, body)
		}
	}
}

// TestScrapesAreBounded: what comes while as many are made as may be is refused at once,
// and has its turn later.
func TestScrapesAreBounded(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := &scraper{slots: make(chan struct{}, maxScrapes), status: func(context.Context) (Status, error) {
		entered <- struct{}{}
		<-leave
		return Status{}, nil
	}}
	ended := make(chan error)
	for range maxScrapes {
		go func() {
			_, err := s.scrape(t.Context())
			ended <- err
		}()
		<-entered
	}
	if _, err := s.scrape(t.Context()); !IsCode(err, CodeUnavailable) {
		t.Errorf("one more: %v", err)
	}
	close(leave)
	for range maxScrapes {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	go func() { <-entered }()
	if _, err := s.scrape(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestIdleConnectionsDoNotKeepThePort: who is connected and says nothing is left at the
// end, and takes no more of the server than its share.
func TestIdleConnectionsDoNotKeepThePort(t *testing.T) {
	s, err := ListenMetrics(MetricsConfig{Address: netip.MustParseAddrPort("127.0.0.1:0"), Backend: new(recorder), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	before := readUsage().open
	var idle []net.Conn
	for range 3 * maxConnections {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	accepted := func() int { return readUsage().open - before - len(idle) }
	for deadline := time.Now().Add(5 * time.Second); accepted() < maxConnections && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if n := accepted(); n != maxConnections {
		t.Errorf("%d connections were accepted, %d are the most", n, maxConnections)
	}
	start := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 10*closeTimeout {
		t.Errorf("the end took %v", took)
	}
	for _, conn := range idle {
		conn.Close()
	}
	if conn, err := net.Dial("tcp", s.Addr().String()); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

func TestMetricsAddress(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:6782": "127.0.0.1:6782", "127.9.9.9:0": "127.9.9.9:0", "[::1]:6782": "[::1]:6782", "[::ffff:127.0.0.1]:1": "127.0.0.1:1",
		"": "", "6782": "", ":6782": "", "localhost:6782": "", "127.0.0.1": "", "127.0.0.1:65536": "", "[::1%lo]:6782": "", "::1:6782": "", "127.0.0.1:http": "",
		"0.0.0.0:6782": "", "[::]:6782": "", "192.0.2.1:6782": "", "[fe80::1]:6782": "", "169.254.83.53:6782": "", "[::ffff:192.0.2.1]:6782": "",
	} {
		a, err := ParseMetricsAddress(in)
		if (err != nil) != (want == "") || err == nil && a.String() != want {
			t.Errorf("%q: %v, %v", in, a, err)
		}
	}
	if _, err := ParseMetricsAddress("0.0.0.0:6782"); err == nil || !strings.Contains(err.Error(), "give 127.0.0.1:6782 and put a reverse proxy") {
		t.Errorf("a wildcard address: %v", err)
	}
	log, b := slog.New(slog.DiscardHandler), new(recorder)
	if _, err := ListenMetrics(MetricsConfig{Address: netip.MustParseAddrPort("0.0.0.0:0"), Backend: b, Log: log}); err == nil || !strings.Contains(err.Error(), "--metrics") {
		t.Errorf("a wildcard address: %v", err)
	}
	at := serveMetrics(t, b)
	if _, err := ListenMetrics(MetricsConfig{Address: at, Backend: b, Log: log}); err == nil || !strings.Contains(err.Error(), "--metrics, or port 0") {
		t.Errorf("a port in use: %v", err)
	}
}
