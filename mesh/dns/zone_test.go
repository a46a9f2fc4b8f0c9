package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(s ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range s {
		all = append(all, addr(a))
	}
	return all
}

// model is the zone made the slow way: everything anew from the sources.
type model map[string][]Record

// names says what there is of every name, empty ones on the way to others too.
func (m model) names() map[string][]string {
	all := make(map[string][]string)
	for _, records := range m {
		for _, r := range records {
			for rest, ok := r.Name, true; ok; _, rest, ok = cutLabel(rest) {
				if all[rest] == nil {
					all[rest] = []string{}
				}
			}
			for _, a := range r.Addresses {
				if !slices.Contains(all[r.Name], a.String()) {
					all[r.Name] = append(all[r.Name], a.String())
				}
			}
			if r.Port != 0 {
				all[r.Name] = append(all[r.Name], fmt.Sprint(r.Target, r.Port))
			}
		}
	}
	for _, list := range all {
		slices.Sort(list)
	}
	return all
}

func cutLabel(name string) (label, rest string, ok bool) {
	for i := range name {
		if name[i] == '.' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// held is the same of a zone.
func held(t *testing.T, z *Zone) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	count := 0
	if z.names.list == nil {
		return all
	}
	for _, m := range z.names.list {
		for name, e := range m {
			list := []string{}
			for a := e.v4; len(a) > 0; a = a[4:] {
				list = append(list, netip.AddrFrom4([4]byte(a)).String())
			}
			for a := e.v6; len(a) > 0; a = a[16:] {
				list = append(list, netip.AddrFrom16([16]byte(a)).String())
			}
			for _, r := range e.records {
				if r.Port != 0 {
					list = append(list, fmt.Sprint(r.Target, r.Port))
				}
			}
			slices.Sort(list)
			all[name] = list
			if len(e.records) > 0 {
				count++
			}
		}
	}
	if count != z.Len() {
		t.Fatalf("Len is %d, there are %d names", z.Len(), count)
	}
	return all
}

// TestZoneAgainstModel: whatever is set in whatever order, the zone is what the
// sources say, and zones taken before stay as they were.
func TestZoneAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"web", "db", "web.a", "web.b", "x.y.z", "y.z", "_h._tcp.web", "a"}
	z := NewZone("d")
	m := make(model)
	type moment struct {
		zone *Zone
		want map[string][]string
	}
	var moments []moment
	for round := range 400 {
		var changes []Change
		for range 1 + random.IntN(4) {
			source := fmt.Sprint("s", random.IntN(12))
			var records []Record
			for range random.IntN(4) {
				r := Record{Name: names[random.IntN(len(names))]}
				if random.IntN(4) == 0 {
					r.Port, r.Target = uint16(1+random.IntN(3)), "web"
				}
				for range random.IntN(3) {
					r.Reverse = random.IntN(2) == 0
					if random.IntN(3) == 0 {
						r.Addresses = append(r.Addresses, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(random.IntN(5))}))
					} else {
						r.Addresses = append(r.Addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(5))}))
					}
				}
				records = append(records, r)
			}
			changes = append(changes, Change{source, records})
			if m[source] = records; len(records) == 0 {
				delete(m, source)
			}
		}
		z = z.Set(changes...)
		want := m.names()
		if got := held(t, z); !reflect.DeepEqual(got, want) {
			t.Fatalf("round %d: %v, not %v", round, got, want)
		}
		if round%50 == 0 {
			moments = append(moments, moment{z, want})
		}
		for i := range 5 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			var pointers []string
			for _, records := range m {
				for _, r := range records {
					if r.Reverse && slices.Contains(r.Addresses, a) && !slices.Contains(pointers, r.Name) {
						pointers = append(pointers, r.Name)
					}
				}
			}
			slices.Sort(pointers)
			if got := z.Reverse(a); !slices.Equal(got, pointers) {
				t.Fatalf("round %d: %v points at %v, not %v", round, a, got, pointers)
			}
		}
	}
	for i, m := range moments {
		if got := held(t, m.zone); !reflect.DeepEqual(got, m.want) {
			t.Errorf("zone %d has changed since: %v, not %v", i, got, m.want)
		}
	}
	var gone []Change
	for source := range z.All() {
		gone = append(gone, Change{Source: source})
	}
	if z = z.Set(gone...); z.Len() != 0 || len(held(t, z)) != 0 {
		t.Errorf("left when all sources are gone: %v", held(t, z))
	}
}

func TestZoneSameIsNoChange(t *testing.T) {
	c := Change{"s", []Record{{Name: "web", Addresses: addrs("10.0.0.1"), Reverse: true}}}
	z := NewZone("d").Set(c)
	if again := z.Set(c, Change{Source: "nobody"}); again != z {
		t.Error("setting the same again made another zone")
	}
}

// many are n endpoints, each with a name of its own and the one by host: on 100 hosts.
func many(n int) []Change {
	changes := make([]Change, n)
	for i := range n {
		a := []netip.Addr{netip.AddrFrom4([4]byte{10, byte(32 + i>>16), byte(i >> 8), byte(i)})}
		name := fmt.Sprintf("name%d", i)
		changes[i] = Change{fmt.Sprintf("origin-%08d-%020d", i%100, i), []Record{
			{Name: name, Addresses: a, Reverse: true},
			{Name: fmt.Sprintf("%s.host%d", name, i%100), Addresses: a},
		}}
	}
	return changes
}

// benchNames is what the zone is measured with.
const benchNames = 200_000

// BenchmarkZoneBuild makes a zone of 200 000 names at once, and says what it holds in
// memory: 1.1 s and 86 MB, for 400 000 names with those by host.
func BenchmarkZoneBuild(b *testing.B) {
	changes := many(benchNames)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var z *Zone
	for b.Loop() {
		z = NewZone(DefaultDomain).Set(changes...)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(time.Millisecond), "ms/zone")
	runtime.KeepAlive(z)
}

// BenchmarkZoneChange takes one endpoint among 200 000 away and puts it back: 0.2 ms each.
func BenchmarkZoneChange(b *testing.B) {
	changes := many(benchNames)
	z := NewZone(DefaultDomain).Set(changes...)
	i := 0
	for b.Loop() {
		c := changes[i%benchNames]
		z = z.Set(Change{Source: c.Source})
		z = z.Set(c)
		i++
	}
}
