package mesh

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"ripstop/mesh/api"
	"ripstop/mesh/ipam"
	"ripstop/mesh/store"
)

// TestNumbering: what a start says beats what is stored, that beats the default, and
// subnets go with the range that they are of.
func TestNumbering(t *testing.T) {
	p := netip.MustParsePrefix
	stored := numbering{Range: p("10.40.0.0/16"), Subnet: p("10.40.1.0/24"), Reserved: []netip.Prefix{p("10.40.1.0/28")}, NoIPv6: true}
	for _, c := range []struct {
		stored numbering
		cfg    Config
		want   numbering
		known  bool
	}{
		{numbering{}, Config{}, numbering{Range: ipam.DefaultRange, Subnet: ipam.DefaultRange}, false},
		{stored, Config{}, stored, true},
		{stored, Config{Range: stored.Range, IPv6: "on"}, numbering{Range: stored.Range, Subnet: stored.Subnet, Reserved: stored.Reserved}, true},
		{stored, Config{Range: p("10.41.0.0/16")}, numbering{Range: p("10.41.0.0/16"), Subnet: p("10.41.0.0/16"), NoIPv6: true}, false},
		{stored, Config{Subnet: p("10.40.2.0/24"), Reserved: []netip.Prefix{p("10.40.2.0/28")}}, numbering{Range: stored.Range, Subnet: p("10.40.2.0/24"), Reserved: []netip.Prefix{p("10.40.2.0/28")}, NoIPv6: true}, true},
		{numbering{}, Config{IPv6: "off"}, numbering{Range: ipam.DefaultRange, Subnet: ipam.DefaultRange, NoIPv6: true}, false},
	} {
		got, known := numberingFor(c.stored, &c.cfg)
		if !reflect.DeepEqual(got, c.want) || known != c.known {
			t.Errorf("%+v of %+v: %+v, %v", c.cfg, c.stored, got, known)
		}
	}
}

// TestWants: what an attachment asks of the table, and under which names.
func TestWants(t *testing.T) {
	n, _ := host(t)
	p := netip.MustParsePrefix
	n.numbering = numbering{Range: p("10.32.0.0/12"), Subnet: p("10.32.0.0/16")}
	twin := ipam.Twin(n.network.ID(), netip.MustParseAddr("10.32.0.9"))
	wrong := netip.PrefixFrom(ipam.ULA(n.network.ID()).Addr().Next(), 64)
	for _, c := range []struct {
		given []netip.Prefix
		wish  wish
		want  []string // name, address or subnet
		says  string
	}{
		{nil, wish{}, []string{"web@ripv1 10.32.0.0/16"}, ""},
		{[]netip.Prefix{p("192.0.2.1/24"), p("fd00::1/64")}, wish{}, nil, ""},
		{[]netip.Prefix{p("10.32.0.9/12"), twin}, wish{}, []string{"web@ripv1 10.32.0.9"}, ""},
		{[]netip.Prefix{twin}, wish{}, []string{"web@ripv1 10.32.0.9"}, ""},
		{[]netip.Prefix{p("10.32.0.9/12"), p("10.32.0.10/12")}, wish{subnets: []netip.Prefix{p("10.33.0.0/24"), p("10.34.0.0/24")}, sticky: true},
			[]string{"web@ripv1 10.32.0.9", "web@ripv1 10.32.0.10", "web@+0 10.33.0.0/24", "web@+1 10.34.0.0/24"}, ""},
		{nil, wish{sticky: true}, []string{"web@ 10.32.0.0/16"}, ""},
		{[]netip.Prefix{wrong}, wish{}, nil, "only the twins"},
		{nil, wish{wait: longestWait + 1}, nil, "at most 25s"},
		{nil, wish{subnets: make([]netip.Prefix, maxAddresses)}, nil, "too many"},
	} {
		a := attachment{Name: "web", Plan: api.AttachPlan{HostInterface: "ripv1", Addresses: c.given, MTU: 1340}}
		n.numbering.NoIPv6 = false
		wanted, err := n.wants(&a, c.wish)
		n.numbering.NoIPv6 = true // other hosts give out twins all the same
		if same, err2 := n.wants(&a, c.wish); !reflect.DeepEqual(same, wanted) || (err == nil) != (err2 == nil) {
			t.Errorf("%v %+v: without IPv6 %v, %v; with it %v, %v", c.given, c.wish, same, err2, wanted, err)
		}
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v %+v: %v", c.given, c.wish, err)
			}
			continue
		}
		var got []string
		for _, q := range wanted {
			what := q.Subnet.String()
			if q.Addr.IsValid() {
				what = q.Addr.String()
			}
			got = append(got, q.ID+" "+what)
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v %+v: %q, %v", c.given, c.wish, got, err)
		}
	}
}

// TestStoredRange: with a state directory, also one that a daemon has open, and without.
func TestStoredRange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if r, known, err := StoredRange(dir); r != ipam.DefaultRange || known || err != nil {
		t.Errorf("no directory: %v, %v, %v", r, known, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory was made")
	}
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r, known, err := StoredRange(dir); r != ipam.DefaultRange || known || err != nil {
		t.Errorf("nothing stored: %v, %v, %v", r, known, err)
	}
	want := netip.MustParsePrefix("172.20.0.0/16")
	if err := store.Save(s, store.Numbering, numbering{Range: want}); err != nil {
		t.Fatal(err)
	}
	if r, known, err := StoredRange(dir); r != want || !known || err != nil {
		t.Errorf("stored: %v, %v, %v", r, known, err)
	}
	if err := s.WriteFile(store.Numbering, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, known, err := StoredRange(dir); known || err == nil {
		t.Errorf("damaged: %v, %v", known, err)
	}
}
