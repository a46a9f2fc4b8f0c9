package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// shownNetwork is what the page's view says, as far as it is looked at here.
type shownNetwork struct {
	Problem string
	Hosts   []struct {
		Name, Nickname  string
		Self, Reachable bool
		Hops            int
	}
	Links []struct {
		From, To, State, Path string
		Own                   bool
		RTT                   int64 `json:"rtt_us"`
	}
	Endpoints []struct {
		Name string
		Host string `json:"host_nickname"`
	}
}

// links are the lines between hosts, by nickname, with their states.
func (v *shownNetwork) links() (all []string) {
	nick := make(map[string]string)
	for _, h := range v.Hosts {
		nick[h.Name] = h.Nickname
	}
	for _, l := range v.Links {
		ends := []string{nick[l.From], nick[l.To]}
		slices.Sort(ends)
		all = append(all, fmt.Sprintf("%s-%s %s", ends[0], ends[1], l.State))
	}
	slices.Sort(all)
	return all
}

// web runs `ripstop web` in a host until stop is called, which returns its result.
func (s *story) web(host string) (page *url.URL, stop func() lab.Result) {
	s.Helper()
	out := filepath.Join(s.T.TempDir(), "url")
	type end struct {
		lab.Result
		error
	}
	done := make(chan end, 1)
	go func() {
		// What Exec returns of standard output comes at the end only.
		r, err := s.Host(host).Exec(s.ctx, "sh", "-c", `echo $$ > "$2.pid"; exec "$0" --socket "$1" web --listen 127.0.0.1:0 > "$2"`, s.Binary(), s.Host(host).Socket(), out)
		done <- end{r, err}
	}()
	stop = func() lab.Result {
		s.Helper()
		var e end
		select {
		case e = <-done:
		default:
			text, err := os.ReadFile(out + ".pid")
			pid, bad := strconv.Atoi(strings.TrimSpace(string(text)))
			if err = errors.Join(err, bad); err == nil {
				err = syscall.Kill(pid, syscall.SIGTERM)
			}
			if err != nil {
				s.Fatal(err)
			}
			e = <-done
		}
		if e.error != nil {
			s.Error(e.error)
		}
		done <- e // for who calls it again
		return e.Result
	}
	s.Cleanup(func() { stop() })
	s.eventually("the URL is printed", func() error {
		line, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		text, whole := strings.CutSuffix(string(line), "\n")
		if !whole {
			return fmt.Errorf("%q", line)
		}
		page, err = url.Parse(text)
		return err
	})
	return page, stop
}

// fetch asks from inside a host.
func (s *story) fetch(host, url string) (status int, body string, err error) {
	s.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, at string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(at)
		if err != nil {
			return nil, err
		}
		return s.Host(host).DialTCP(ctx, to)
	}}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// view is what the page shows.
func (s *story) view(host string, page *url.URL) (v shownNetwork, err error) {
	s.Helper()
	status, body, err := s.fetch(host, page.String()+"view.json")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("HTTP status %d: %s", status, body)
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &v)
	}
	return v, err
}

// TestWeb: at one end of a row of hosts the page shows all links of the network, also one that
// is cut further away, and the daemon's end and return; from elsewhere nobody reads it.
func TestWeb(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.upAll()
	s.reach("a", "b", "c")
	s.joinWith("a1")
	s.joinWith("c1")
	s.known(2)
	page, stop := s.web("a")

	for path, want := range map[string]string{"": "<title>ripstop</title>", "page.js": "'use strict'", "page.css": "prefers-color-scheme"} {
		if status, body, err := s.fetch("a", page.String()+path); err != nil || status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%q: %d, %v: %s", path, status, err, body)
		}
	}
	shows := func(what string, links ...string) {
		t.Helper()
		s.eventually(what, func() error {
			v, err := s.view("a", page)
			if err == nil && (v.Problem != "" || !slices.Equal(v.links(), links)) {
				err = fmt.Errorf("%q: links %q, want %q", v.Problem, v.links(), links)
			}
			return err
		})
	}
	shows("all links are shown", "a-b up", "b-c up")
	v, err := s.view("a", page)
	if err != nil || len(v.Hosts) != 3 || len(v.Endpoints) != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	for _, h := range v.Hosts {
		if want := map[string]int{"a": 0, "b": 1, "c": 2}[h.Nickname]; h.Hops != want || h.Self != (want == 0) || !h.Reachable {
			t.Errorf("%+v", h)
		}
	}
	for _, l := range v.Links {
		if l.Path != "udp" || l.RTT <= 0 || l.Own != (l.From == v.self() || l.To == v.self()) {
			t.Errorf("%+v", l)
		}
	}

	keyless := *page
	for _, path := range []string{"/", "/view.json", "/" + strings.Repeat("0", 32) + "/view.json"} {
		keyless.Path = path
		if status, body, err := s.fetch("a", keyless.String()); err != nil || status != http.StatusNotFound {
			t.Errorf("without the key, %s: %d, %v: %s", path, status, err, body)
		}
	}
	underlay, _ := s.Host("a").Addr(s.Host("b"))
	away := *page
	away.Host = net.JoinHostPort(underlay.String(), page.Port())
	if status, _, err := s.fetch("b", away.String()); err == nil {
		t.Errorf("from b it is answered with %d", status)
	}

	if err := s.Link("b", "c").Cut(); err != nil {
		t.Fatal(err)
	}
	shows("the cut is shown", "a-b up", "b-c half")
	if err := s.Link("b", "c").Heal(); err != nil {
		t.Fatal(err)
	}
	shows("it is healed", "a-b up", "b-c up")

	if err := s.Host("a").Daemon().Stop(); err != nil {
		t.Fatal(err)
	}
	s.eventually("that no daemon answers is told", func() error {
		v, err := s.view("a", page)
		if err == nil && !strings.Contains(v.Problem, "no daemon answers") {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
	s.up("a", lab.StartConfig{Peers: []string{"b"}})
	shows("the page goes on", "a-b up", "b-c up")

	if r := stop(); r.Code != 0 || r.Err != "" {
		t.Errorf("at SIGTERM: exit code %d: %s", r.Code, r.Err)
	}
	if _, err := s.view("a", page); err == nil {
		t.Error("the port is still open")
	}
}

// self is the name of the host whose page it is.
func (v *shownNetwork) self() string {
	for _, h := range v.Hosts {
		if h.Self {
			return h.Name
		}
	}
	return ""
}
