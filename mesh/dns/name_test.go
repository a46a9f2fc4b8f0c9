package dns

import (
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	label := strings.Repeat("a", 60) + "."
	for _, c := range []struct{ in, want string }{
		{"web", "web"},
		{"WEB.Vm1", "web.vm1"},
		{"web.x.internal", "web"},
		{"Web.X.Internal.", "web"},
		{"0-9", "0-9"},
		{strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{"", ""}, {".", ""}, {"a..b", ""}, {".a", ""}, {"a.", ""}, {"-a", ""}, {"a-", ""},
		{"a b", ""}, {"a_b", ""}, {"ä", ""}, {"a\x00", ""}, {"*", ""}, {"a/b", ""},
		{strings.Repeat("a", 64), ""},
		{"a.b.c.d.e.f.g.h", "a.b.c.d.e.f.g.h"},
		{"a.b.c.d.e.f.g.h.i", ""},
		{label + label + label + label[:59], label + label + label + label[:59]}, // 242 and 11 of the domain
		{label + label + label + label[:60], ""},
		{"x.internal", "x.internal"}, // a name that only looks like the domain
	} {
		got, err := Canonical(c.in, "x.internal")
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v; not %q", c.in, got, err, c.want)
		}
	}
}

func TestCanonicalDomain(t *testing.T) {
	for in, want := range map[string]string{
		"Ripstop.Internal.": "ripstop.internal", "lab": "lab", "": "", ".": "", "a..b": "", "in-addr.arpa": "", "arpa": "",
		strings.Repeat("a.", 60): "",
	} {
		if got, err := CanonicalDomain(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; not %q", in, got, err, want)
		}
	}
}

func TestHostLabel(t *testing.T) {
	for in, want := range map[string]string{
		"vm1": "vm1", "VM1.example.com": "vm1", "my host": "my-host", "--": "", "": "", "ä1": "1", strings.Repeat("x", 70): strings.Repeat("x", 63),
	} {
		got := HostLabel(in)
		if got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
		if got != "" && checkLabels(got) != nil {
			t.Errorf("%q: %q is no label", in, got)
		}
	}
}

func TestParseService(t *testing.T) {
	for in, want := range map[string]string{
		"http:80/tcp": "http:80/tcp", "DNS:53/UDP": "dns:53/udp", "x:65535": "x:65535/tcp",
		"": "", "http": "", "http:": "", "http:0": "", "http:65536": "", "http:-1": "", "http:99999999999999999999": "", "http:80/icmp": "",
		"80:80": "", "a.b:80": "", "a_b:80": "", strings.Repeat("a", 16) + ":1": "", ":80": "",
	} {
		s, err := ParseService(in)
		if (err == nil) != (want != "") || err == nil && s.String() != want {
			t.Errorf("%q: %v, %v; not %q", in, s, err, want)
		}
	}
	s, _ := ParseService("http:80")
	if got := s.Of("web"); got != "_http._tcp.web" {
		t.Error(got)
	}
	if again, of, err := SplitService(s.Of("web.vm1"), 80); again != s || of != "web.vm1" || err != nil {
		t.Errorf("%v of %q, %v", again, of, err)
	}
	for _, text := range []string{"", ".", "_http", "_http._tcp", "_http._tcp.", "http.tcp.web", "_http.tcp.web", "http._tcp.web", "_http._icmp.web", "_._tcp.web", "_._.", "_80._tcp.web"} {
		if s, of, err := SplitService(text, 80); err == nil {
			t.Errorf("%q: %v of %q", text, s, of)
		}
	}
	if s, of, err := SplitService("_http._tcp.web", 0); err == nil {
		t.Errorf("port 0: %v of %q", s, of)
	}
}

func FuzzNames(f *testing.F) {
	f.Add("web.ripstop.internal.")
	f.Add("http:80/tcp")
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := Canonical(s, DefaultDomain); err == nil {
			if again, err := Canonical(name+"."+DefaultDomain, DefaultDomain); err != nil || again != name {
				t.Errorf("%q: %q, then %q, %v", s, name, again, err)
			}
		}
		if service, err := ParseService(s); err == nil {
			if again, err := ParseService(service.String()); err != nil || again != service {
				t.Errorf("%q: %v, then %v, %v", s, service, again, err)
			}
		}
		if label := HostLabel(s); label != "" && checkLabels(label) != nil {
			t.Errorf("%q: %q is no label", s, label)
		}
	})
}
