package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// diagnosed is what `ripstop doctor --json` says, as far as scenarios look at it.
type diagnosed struct {
	Version  int `json:"version"`
	Failed   int `json:"failed"`
	Warnings int `json:"warnings"`
	Findings []struct {
		Check, Verdict, Found, Remedy string
	} `json:"findings"`
	code int
	text string
}

// doctor runs the command in a host.
func (s *story) doctor(host string, args ...string) (d diagnosed) {
	s.Helper()
	start := time.Now()
	r, err := s.Host(host).Ripstop(s.ctx, append([]string{"doctor", "--json"}, args...)...)
	if err != nil || r.Err != "" {
		s.Fatalf("doctor: %+v, %v", r, err)
	}
	if err := json.Unmarshal([]byte(r.Out), &d); err != nil || d.Version != 1 {
		s.Fatalf("doctor: %v: %s", err, r.Out)
	}
	if took := time.Since(start); took > 6*time.Second { // 5 s, on a busy machine
		s.Errorf("doctor took %v", took)
	}
	d.code, d.text = r.Code, r.Out
	return d
}

// finds returns an error unless a check found something of that verdict with those words.
func (d diagnosed) finds(check, verdict, found, remedy string) error {
	for _, f := range d.Findings {
		if f.Check == check && f.Verdict == verdict && strings.Contains(f.Found, found) && strings.Contains(f.Remedy, remedy) {
			return nil
		}
	}
	return fmt.Errorf("no %s of %s with %q and %q in:\n%s", verdict, check, found, remedy, d.text)
}

// traces are what a program may leave on a host: interfaces, addresses, routes, rules
// and the files of the state directory. Counts of packets are left out.
func (s *story) traces(host string) (text string) {
	s.Helper()
	for _, line := range [][]string{{"ip", "address"}, {"ip", "route", "show", "table", "all"}, {"nft", "--stateless", "list", "ruleset"}, {"ls", "-la", s.Host(host).State()}} {
		r, err := s.Host(host).Exec(s.ctx, line[0], line[1:]...)
		if err != nil || r.Code != 0 {
			s.Fatalf("%v: %+v, %v", line, r, err)
		}
		text += r.Out
	}
	return text
}

// TestDoctor: two hosts that are well, and then what may be the matter with them.
func TestDoctor(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a", "b"}, Links: []lab.LinkConfig{{Hosts: []string{"a", "b"}}}, Containers: 1})
	resolver := filepath.Join(s.Dir(), "resolv.conf") // of a host that has one; it is not asked
	secret := filepath.Join(s.Dir(), "secret")
	for path, text := range map[string]string{resolver: "nameserver 198.18.1.2\n", secret: s.token + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Before the first start.
	d := s.doctor("a", "--secret-file", secret, "--state", s.Host("a").State())
	if err := d.finds("daemon", "fail", "none answers", "ripstop up"); err != nil || d.code != 4 || d.Failed != 1 {
		t.Errorf("no daemon: code %d: %v", d.code, err)
	}

	s.up("a", lab.StartConfig{Args: []string{"--resolv-conf", resolver}})
	s.up("b", lab.StartConfig{Args: []string{"--resolv-conf", resolver, "--secret-file", secret}, Peers: []string{"a"}})
	s.reach("a", "b")
	s.attach("a1", "b1")
	s.known(2)
	for _, host := range []string{"a", "b"} {
		s.eventually(host+" is well", func() error {
			if d := s.doctor(host); d.code != 0 || d.Failed+d.Warnings > 0 {
				return fmt.Errorf("code %d:\n%s", d.code, d.text)
			}
			return nil
		})
	}
	before := s.traces("b")
	t.Logf("for people:\n%s", s.run("b", "doctor"))
	if after := s.traces("b"); before != after {
		t.Errorf("doctor changed something; before:\n%s\nafter:\n%s", before, after)
	}

	// A secret that everybody may read, and a target that answers nowhere.
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("b", "connect", "198.18.1.77")
	s.eventually("the faults are named", func() error {
		d := s.doctor("b")
		if d.code != 4 || d.Failed != 1 {
			return fmt.Errorf("code %d, %d failed", d.code, d.Failed)
		}
		if err := d.finds("secret", "fail", secret+" may be read by everybody", "chmod 600 "+secret); err != nil {
			return err
		}
		return d.finds("targets", "warn", "198.18.1.77", "ripstop forget 198.18.1.77")
	})
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}

	// UDP does not pass.
	s.nft("a", "table inet closed { chain in { type filter hook input priority 0; udp dport 6783 drop; }; }")
	s.eventually("that UDP does not pass is named", func() error {
		for _, host := range []string{"a", "b"} {
			d := s.doctor(host)
			other := map[string]string{"a": "b", "b": "a"}[host]
			if err := d.finds("udp", "warn", "with "+other+": over TCP", "port 6783"); err != nil || d.code != 0 {
				return fmt.Errorf("code %d: %v", d.code, err)
			}
		}
		return nil
	})
	t.Logf("for people:\n%s", s.run("b", "doctor"))
	s.nft("a", "delete table inet closed")
	s.run("b", "forget", "198.18.1.77")

	// An ordinary user, who may not open the socket.
	dir := filepath.Dir(program)
	if err := os.Chmod(dir, 0o755); err != nil { // for the other user to run it
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	host := s.Host("b")
	for _, path := range []string{s.Dir(), filepath.Dir(host.Socket())} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r, err := host.Exec(s.ctx, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "--socket", host.Socket(), "doctor", "--state", host.State())
	if err != nil || r.Code != 0 || r.Err != "" || !strings.Contains(r.Out, "skipped  daemon        this user may not open the socket") || !strings.Contains(r.Out, "skipped  secret ") {
		t.Errorf("an ordinary user: %+v, %v", r, err)
	}
}
