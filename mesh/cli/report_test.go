package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ripstop/mesh/api"
)

// reported runs `report` against d, on a host that is well, and returns the report.
func reported(t *testing.T, d *daemon, json bool, p reportPlan) string {
	t.Helper()
	if d.status == nil {
		d.status = sample
	}
	socket := filepath.Join(t.TempDir(), "s")
	serveAt(t, socket, d)
	return reportOf(t, socket, json, p)
}

func reportOf(t *testing.T, socket string, json bool, p reportPlan) string {
	t.Helper()
	var out, errOut bytes.Buffer
	in := &invocation{Stdio: Stdio{Out: &out, Err: &errOut}, socket: socket, json: json}
	if err := runReport(t.Context(), in, wellHost(wellFiles()), p); err != nil || errOut.String() != "" {
		t.Fatalf("%v, stderr %q", err, errOut.String())
	}
	return out.String()
}

// inside are internals with something of each kind.
func inside() api.Internals {
	return api.Internals{
		Sizes: map[string]int{"peers": 3, "records_links": 4}, Settings: map[string]string{"mode": "bridge", "bind": "198.18.1.2"},
		Log:    []string{`level=INFO msg=connected address=198.18.1.1:50000`, `level=WARN msg="dial vm9.example.com: no such host" token=rs1-aaaabbbbccccdddd` + "\x1b[2J"},
		Stacks: "goroutine profile: total 1\n1 @ 0x1\n#\t0x1\tmain.main+0x1\tmain.go:1\n", LogLost: 7,
	}
}

func TestReportForPeople(t *testing.T) {
	out := reported(t, &daemon{inside: inside()}, false, reportPlan{})
	for _, want := range []string{
		"ripstop report of 20", "Underlay addresses are: --redact hides them.\n", "\n== program and host\nripstop  ", "\nkernel                    6.18.2-1-amd64 ",
		"\n== doctor\nhost\n  ok       kernel  ", "\n== status\n      host  b  02:00:00:00:00:0b\n", "\n== status: peers\nPEER  ", "\n== status: links\nLINK WITH  ", "198.18.2.2:6783",
		"\n== status: paths\nno paths\n", "\n== status: counters\nCOUNTER", "port_rule_mac", "\n== status ipam\n     range  10.32.0.0/24", "\n== status dns\ndomain ",
		"\n== table sizes\npeers                     3\nrecords_links             4\n", "\n== settings\nbind                      198.18.1.2\nmode                      bridge\n",
		"\n== metrics\nripstop_build_info", "\n== status: underlay addresses\nHOST", "\nripstop_peers{state=\"direct\"} 2\n", "\n== log, the last 2 lines; 7 before them are not kept\nlevel=INFO msg=connected address=198.18.1.1:50000\n",
		"vm9.example.com: no such host\" token=(a secret?)?[2J\n", "\n== stacks\ngoroutine profile: total 1\n", "#  0x1  main.main",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(out, "== missing") || strings.Contains(out, "rs1-") || strings.Contains(out, "\x1b") {
		t.Error("something is missing, or is in it that should not")
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestReportIsRedacted: no underlay address is left in either form, the overlay's stay, and
// equal ones stay equal.
func TestReportIsRedacted(t *testing.T) {
	d := &daemon{inside: inside(), names: wellNames()}
	d.status = func() api.Status {
		s := sample()
		s.Targets = append(s.Targets, api.Target{Target: "vm9.example.com:7", State: api.TargetWaiting, Error: "lookup vm9.example.com on 192.0.2.53:53: no such host"})
		s.Advertise = []string{"198.18.1.2:6783", "[2001:db8::2]:6783"}
		s.Links[0].Paths = []api.Path{{Path: "udp", Remote: "[2001:db8::2]:6783"}}
		return s
	}
	for _, asJSON := range []bool{false, true} {
		out := reported(t, d, asJSON, reportPlan{redact: true})
		for _, gone := range []string{"198.18.", "2001:db8", "192.0.2.53", "example.com"} {
			if strings.Contains(out, gone) {
				t.Errorf("JSON %v: %s is there", asJSON, gone)
			}
		}
		for _, stays := range []string{"10.32.0.1", "169.254.83.53", "127.0.0.1:6782", "02:00:5e:00:53:01", "host-3:7", "lookup host-3 on underlay-", "1 are hidden by --redact"} {
			if !strings.Contains(out, stays) {
				t.Errorf("JSON %v: no %s", asJSON, stays)
			}
		}
		if !asJSON {
			continue
		}
		var r report
		if err := json.Unmarshal([]byte(out), &r); err != nil || !r.Redacted || r.Version != api.Version {
			t.Fatalf("%v: %s", err, out)
		}
		if bind := r.Internals.Settings["bind"]; r.Status.Advertise[0] != bind+":6783" || r.Status.Advertise[1] != r.Status.Links[0].Paths[0].Remote || !strings.HasPrefix(r.Status.Advertise[1], "[underlay-") {
			t.Errorf("equal addresses are shown as %v, %s, %+v", r.Status.Advertise, bind, r.Status.Links[0].Paths)
		}
	}
}

func TestHide(t *testing.T) {
	h := &hider{overlay: []netip.Prefix{netip.MustParsePrefix("10.32.0.0/12")}, numbers: make(map[netip.Addr]int), hosts: map[string]string{"up": "host-1", "vm9.example.com": "host-2"}}
	for _, c := range []struct{ in, want string }{
		{"198.18.1.1", "underlay-1"}, {"dial tcp 198.18.1.1:6783: i/o timeout", "dial tcp underlay-1:6783: i/o timeout"}, {"[::ffff:198.18.1.1]:7,198.18.1.2.", "[underlay-1]:7,underlay-2."},
		{"a=[2001:db8::1]:6783 b=2001:db8::1: no", "a=[underlay-3]:6783 b=underlay-3: no"}, {"fe80::1%eth0", "underlay-4%eth0"}, {"2001:db8::", "underlay-5"}, {"2001:db8::/32", "underlay-5/32"},
		{"node198.18.1.1", "nodeunderlay-1"}, {"udp4 0.0.0.0:1->198.18.1.2:2", "udp4 0.0.0.0:1->underlay-2:2"}, {"peer:2001:db8::1", "peer:underlay-3"},
		{"10.32.0.7/12 127.0.0.1 ::1 ff02::1 224.0.0.251 255.255.255.255", "10.32.0.7/12 127.0.0.1 ::1 ff02::1 224.0.0.251 255.255.255.255"},
		{"02:00:5e:00:53:01 2026-11-27T15:46:26.123Z 6.18.2-1 v1.2.3 main.go:12 0:1", "02:00:5e:00:53:01 2026-11-27T15:46:26.123Z 6.18.2-1 v1.2.3 main.go:12 0:1"},
		{"lookup VM9.example.com.: no", "lookup host-2.: no"}, {"xvm9.example.com is vm9.example.comx", "xvm9.example.com is vm9.example.comx"}, {"", ""},
	} {
		if got := h.hide(c.in); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

// TestReportHasOwners: what a runtime knows a container by is no secret, shortened as people
// know it.
func TestReportHasOwners(t *testing.T) {
	d := &daemon{inside: inside()}
	d.status = func() api.Status {
		s := sample()
		s.Endpoints[0].Owner = "docker:" + strings.Repeat("0123456789abcdef", 4) + "/" + strings.Repeat("fedcba9876543210", 4)
		s.Endpoints[0].Name = strings.Repeat("0123456789abcdef", 4)
		return s
	}
	out := reported(t, d, true, reportPlan{})
	if !strings.Contains(out, `"owner": "docker:0123456789ab/fedcba987654"`) || !strings.Contains(out, `"name": "(a secret?)"`) {
		t.Error(out)
	}
}

// TestReportHidesWhatItCutsOff: a dialled name is hidden in a log line, although the list it
// stands in is too long to be shown whole.
func TestReportHidesWhatItCutsOff(t *testing.T) {
	d := &daemon{inside: inside()}
	d.status = func() api.Status {
		s := sample()
		for i := range maxReportList {
			s.Targets = append(s.Targets, api.Target{Target: fmt.Sprintf("vm%d.example.org:7", i)})
		}
		s.Targets = append(s.Targets, api.Target{Target: "vm9.example.com:7"})
		return s
	}
	if out := reported(t, d, true, reportPlan{redact: true}); strings.Contains(out, "example.com") {
		t.Error(out)
	}
}

// TestReportWithoutADaemon: the host is told of all the same.
func TestReportWithoutADaemon(t *testing.T) {
	out := reportOf(t, "/nowhere", true, reportPlan{redact: true})
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Missing) != 1 || r.Missing[0].What != "status, ipam, dns, internals, metrics" || !strings.Contains(r.Missing[0].Why, "no daemon answers") || r.Status != nil || r.Doctor.Failed != 1 || r.Host.Kernel != "6.18.2-1-amd64" {
		t.Errorf("%s", out)
	}
	if !strings.Contains(out, "10.32.0.0/12") {
		t.Error("the overlay's range is hidden")
	}
	// Some answers are missing: an older daemon.
	out = reported(t, &daemon{refusal: api.Errorf(api.CodeNotFound, "POST /v1/internals is not part of version 1")}, false, reportPlan{})
	if !strings.Contains(out, "\n== missing\nipam, dns, internals      the daemon's version does not know this question\n") || !strings.Contains(out, "== status: peers") || !strings.Contains(out, "== metrics") {
		t.Errorf("%s", out)
	}
}

// TestReportIsBounded: what grows with the network is cut, and that is said.
func TestReportIsBounded(t *testing.T) {
	d := &daemon{inside: inside()}
	d.inside.Stacks = strings.Repeat("a stack\n", maxReportText)
	d.status = func() api.Status {
		s := sample()
		for i := range 20_000 {
			s.Peers = append(s.Peers, api.Peer{Name: fmt.Sprint("p", i), Nickname: strings.Repeat("n", 60)})
			s.Endpoints = append(s.Endpoints, api.Endpoint{Name: fmt.Sprint("e", i)})
		}
		return s
	}
	for _, asJSON := range []bool{false, true} {
		out := reported(t, d, asJSON, reportPlan{})
		if len(out) > 4<<20 {
			t.Errorf("%d bytes", len(out))
		}
		for _, said := range []string{"status peers", "19004 of 20004 are left out", "status endpoints", "19002 of 20002 are left out", "bytes are left out"} {
			if !strings.Contains(out, said) {
				t.Errorf("JSON %v: no %q", asJSON, said)
			}
		}
	}
}

func TestReportToAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report")
	run := serve(t, &daemon{inside: inside()})
	if code, out, errOut := run("report", "-o", path); code != ExitOK || out != "" || errOut != "" {
		t.Fatalf("code %d, %q %q", code, out, errOut)
	}
	text, err := os.ReadFile(path)
	info, _ := os.Stat(path)
	if err != nil || !strings.HasPrefix(string(text), "ripstop report of ") || info.Mode() != 0o600 {
		t.Errorf("%v, mode %v: %s", err, info.Mode(), text)
	}
	if code, _, errOut := run("report", "-o", path); code != ExitFailed || !strings.Contains(errOut, path+" is there already: remove it, or choose another file by --output") {
		t.Errorf("code %d: %s", code, errOut)
	}
	if again, _ := os.ReadFile(path); !bytes.Equal(again, text) {
		t.Error("the old report was written over")
	}
}
