package transport

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		text string
		want Target
		form string // "" when it is the text
	}{
		{"vm1", Target{Host: "vm1"}, ""},
		{"VM1.Example.org", Target{Host: "vm1.example.org"}, "vm1.example.org"},
		{"vm1:6784", Target{Host: "vm1", Port: 6784}, ""},
		{"_ripstop.vm-1.", Target{Host: "_ripstop.vm-1."}, ""},
		{"1host", Target{Host: "1host"}, ""},
		{"192.0.2.1", Target{Addr: netip.MustParseAddr("192.0.2.1")}, ""},
		{"192.0.2.1:1", Target{Addr: netip.MustParseAddr("192.0.2.1"), Port: 1}, ""},
		{"2001:DB8::1", Target{Addr: netip.MustParseAddr("2001:db8::1")}, "2001:db8::1"},
		{"[2001:db8::1]", Target{Addr: netip.MustParseAddr("2001:db8::1")}, "2001:db8::1"},
		{"[2001:db8::1]:65535", Target{Addr: netip.MustParseAddr("2001:db8::1"), Port: 65535}, ""},
		{"[::ffff:192.0.2.1]:5", Target{Addr: netip.MustParseAddr("192.0.2.1"), Port: 5}, "192.0.2.1:5"},
		{"fe80::1%eth0", Target{Addr: netip.MustParseAddr("fe80::1%eth0")}, ""},
		{"[fe80::1%eth0]:5", Target{Addr: netip.MustParseAddr("fe80::1%eth0"), Port: 5}, ""},
		{strings.Repeat("a", 63) + ".b", Target{Host: strings.Repeat("a", 63) + ".b"}, ""},
	} {
		got, err := ParseTarget(c.text)
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v", c.text, got, err)
			continue
		}
		form := c.form
		if form == "" {
			form = c.text
		}
		if got.String() != form {
			t.Errorf("%q is written %q", c.text, got)
		}
	}
	for _, text := range []string{
		"", " ", "vm 1", "vm1:", ":6783", "vm1:0", "vm1:65536", "vm1:-1", "vm1:http", "a:b:c", "[::1", "::1]", "[vm1]:5", "[192.0.2.1]:5", "[192.0.2.1]",
		"1.2.3", "300.1.1.1", "1.2.3.4.5", "12", "-a", "a-", "a..b", ".", "a/b", "vm1\n", "vm1,vm2", "--peer", "ä", "http://vm1", "user@vm1",
		"0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "[::]:6783", "1.2.3.4:5:6", "fe80::1%", "fe80::1%a b", "fe80::1%eth0]:5", "fe80::1%interfacenamelong", "[[::1]]", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "b",
	} {
		if got, err := ParseTarget(text); err == nil {
			t.Errorf("%q: accepted as %+v", text, got)
		} else if !strings.HasPrefix(err.Error(), "transport: peer ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"vm1", "vm1:1", "192.0.2.1:5", "[2001:db8::1]:6783", "fe80::1%eth0", "[::ffff:1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			return
		}
		if again, err := ParseTarget(target.String()); err != nil || again != target {
			t.Fatalf("%q is %+v, written %q is %+v, %v", s, target, target, again, err)
		}
	})
}
