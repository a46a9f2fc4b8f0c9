package integration

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
	"ripstop/mesh/store"
)

// reportIn has a host write a report, and returns it.
func (s *story) reportIn(host string, args ...string) string {
	s.Helper()
	start := time.Now()
	out := s.run(host, append([]string{"report"}, args...)...)
	if took := time.Since(start); took > 12*time.Second { // 10 s, on a busy machine
		s.Errorf("report took %v", took)
	}
	return out
}

// secrets are what may stand in no report: what the state files of a host keep, and the
// token, in the forms in which bytes are written.
func (s *story) secrets(host string) (all []string) {
	s.Helper()
	all = append(all, s.token, strings.TrimPrefix(s.token, "rs1-"))
	key := regexp.MustCompile(`[0-9a-f]{64}`)
	for _, name := range []string{store.Seed, store.Network, store.Admin} {
		text, err := os.ReadFile(filepath.Join(s.Host(host).State(), name))
		if os.IsNotExist(err) && name == store.Admin {
			continue
		}
		keys := key.FindAllString(string(text), -1)
		if err != nil || len(keys) == 0 {
			s.Fatalf("%s of %s: %v: %d keys", name, host, err, len(keys))
		}
		for _, k := range keys {
			raw, _ := hex.DecodeString(k)
			all = append(all, k, strings.ToUpper(k), string(raw), base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw), strings.Trim(fmt.Sprint(raw), "[]"))
			for at := 0; at < len(k); at += 32 { // halves, in case one is cut
				all = append(all, k[at:at+32])
			}
		}
	}
	return all
}

// TestReport: a host's report has what its daemon knows, and no secret; underlay addresses
// are in it, and not where they are to be hidden; without a daemon the host is told of.
func TestReport(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	d := s.up("a", lab.StartConfig{Args: []string{"--log-level", "debug"}})
	s.up("b", lab.StartConfig{Peers: []string{"a"}, Args: []string{"--log-level", "debug"}})
	s.reach("a", "b")
	addrs := s.attach("a1", "b1")
	s.known(2)

	b := s.Link("a", "b").End("b")
	underlay := []string{b.IPv4().String(), b.IPv6().String()}
	for _, host := range []string{"a", "b"} {
		for _, args := range [][]string{{"--stacks"}, {"--stacks", "--json"}, {"--redact"}, {"--redact", "--json"}} {
			text := s.reportIn(host, args...)
			for i, secret := range s.secrets(host) {
				if strings.Contains(text, secret) {
					t.Errorf("%s, report %v: secret %d is in it", host, args, i)
				}
			}
			redacted := args[0] == "--redact"
			for _, address := range underlay {
				if strings.Contains(text, address) == redacted {
					t.Errorf("%s, report %v: underlay address %s is there: %v", host, args, address, !redacted)
				}
			}
			for _, want := range []string{addrs[0].String(), addrs[1].String(), "ripstop_peers{state=", "records_links", "b1", s.status("b").Name, "link up"} {
				if want == "ripstop_peers{state=" && args[len(args)-1] == "--json" {
					want = `ripstop_peers{state=\"direct\"} 1`
				}
				if !strings.Contains(text, want) {
					t.Errorf("%s, report %v has no %q:\n%s", host, args, want, text)
				}
			}
			if stacks := strings.Contains(text, "goroutine profile: total"); stacks != (args[0] == "--stacks") {
				t.Errorf("%s, report %v: stacks: %v", host, args, stacks)
			}
			if args[len(args)-1] == "--json" {
				var r struct {
					Version int
					Missing []any
				}
				if err := json.Unmarshal([]byte(text), &r); err != nil || r.Version != 1 || len(r.Missing) > 1 {
					t.Errorf("%s, report %v: %v: missing %v", host, args, err, r.Missing)
				}
			}
		}
	}
	t.Logf("for people:\n%s", s.reportIn("b", "--redact"))

	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir(), "report.txt")
	r, err := s.Host("a").Ripstop(s.ctx, "report", "-o", path, "--state", s.Host("a").State())
	if err != nil || r.Code != 0 || r.Out != "" || !strings.HasPrefix(r.Err, "missing: status, ipam, dns, internals, metrics: ") {
		t.Errorf("without a daemon: %+v, %v", r, err)
	}
	text, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || info.Mode() != 0o600 || !strings.Contains(string(text), "== doctor\n") {
		t.Errorf("%v %v: %s", err, statErr, text)
	}
	for i, secret := range s.secrets("a") {
		if strings.Contains(string(text), secret) {
			t.Errorf("without a daemon: secret %d is in it", i)
		}
	}
}
