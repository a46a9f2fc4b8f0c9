package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"ripstop/crypto"
)

// modelSettle is the rule read aloud: strongest first, each against all holders.
func modelSettle(endpoints []Endpoint) (holding, fenced []Endpoint) {
	sorted := slices.Clone(endpoints)
	slices.SortStableFunc(sorted, func(a, b Endpoint) int {
		switch {
		case a.Claim != b.Claim && a.Claim > b.Claim:
			return -1
		case a.Claim != b.Claim:
			return 1
		case a.Host != b.Host:
			return a.Host.Compare(b.Host)
		}
		return slices.Compare(fmt.Append(nil, a.VNI+10000, a.MAC, a.Addresses), fmt.Append(nil, b.VNI+10000, b.MAC, b.Addresses))
	})
	for _, e := range sorted {
		clash := false
		for _, h := range holding {
			shared := slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return slices.Contains(h.Addresses, a) })
			clash = clash || h.VNI == e.VNI && (h.MAC == e.MAC || shared)
		}
		if clash {
			fenced = append(fenced, e)
		} else {
			holding = append(holding, e)
		}
	}
	return holding, fenced
}

func keysOf(list []Endpoint) (keys []string) {
	for _, e := range list {
		keys = append(keys, fmt.Sprint(e.VNI, e.MAC, e.Addresses, e.Host, e.Claim))
	}
	slices.Sort(keys)
	return keys
}

func TestSettleLikeModel(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	lost := 0
	for round := range 400 {
		var list []Endpoint
		for n := range r.IntN(30) {
			e := endpoint(r.IntN(20), r.IntN(4))
			e.VNI, e.Claim = VNI(r.IntN(2)), uint64(r.IntN(3))
			e.Addresses = nil
			for range r.IntN(3) {
				e.Addresses = append(e.Addresses, addr4(r.IntN(40)))
			}
			slices.SortFunc(e.Addresses, netip.Addr.Compare)
			e.Addresses = slices.Compact(e.Addresses)
			e.Host[15] = byte(n) // no two records are the same
			list = append(list, e)
		}
		holding, fenced := Settle(slices.Clone(list))
		wantHolding, wantFenced := modelSettle(list)
		if got, want := keysOf(holding), keysOf(wantHolding); !slices.Equal(got, want) {
			t.Fatalf("round %d: holding\n%v, want\n%v", round, got, want)
		}
		if got, want := keysOf(fenced), keysOf(wantFenced); !slices.Equal(got, want) {
			t.Fatalf("round %d: fenced\n%v, want\n%v", round, got, want)
		}
		lost += len(fenced)
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		h2, f2 := Settle(list)
		if !reflect.DeepEqual(h2, holding) || !reflect.DeepEqual(f2, fenced) {
			t.Fatalf("round %d: the order of the records changes the result", round)
		}
		if h3, f3 := Settle(holding); len(f3) != 0 || !reflect.DeepEqual(h3, holding) {
			t.Fatalf("round %d: holders clash", round)
		}
	}
	if lost < 500 {
		t.Errorf("only %d claims were lost", lost)
	}
}

func TestSettleScenarios(t *testing.T) {
	with := func(n, on int, claim uint64, change func(*Endpoint)) Endpoint {
		e := endpoint(n, on)
		e.Claim = claim
		if change != nil {
			change(&e)
		}
		return e
	}
	address := func(text string) func(*Endpoint) {
		return func(e *Endpoint) { e.Addresses = []netip.Addr{netip.MustParseAddr(text)} }
	}
	for _, c := range []struct {
		name    string
		list    []Endpoint
		holders []int // hosts, by MAC
		fenced  []int
	}{
		{"greater claim", []Endpoint{with(1, 0, 1, nil), with(1, 1, 2, nil)}, []int{1}, []int{0}},
		{"equal: lower name", []Endpoint{with(1, 3, 2, nil), with(1, 2, 2, nil)}, []int{2}, []int{3}},
		{"another MAC, same address", []Endpoint{with(1, 0, 1, nil), with(2, 1, 5, func(e *Endpoint) { e.Addresses[0] = addr4(1) })}, []int{1}, []int{0}},
		{"same in another VNI", []Endpoint{with(1, 0, 1, nil), with(1, 1, 2, func(e *Endpoint) { e.VNI = 7 })}, []int{0, 1}, nil},
		{"4-in-6 is the same address", []Endpoint{with(1, 0, 1, address("10.0.0.1")), with(2, 1, 2, address("::ffff:10.0.0.1"))}, []int{1}, []int{0}},
		{"a zone doesn't tell apart", []Endpoint{with(1, 0, 1, address("fe80::1")), with(2, 1, 2, address("fe80::1%eth0"))}, []int{1}, []int{0}},
		{"listed twice", []Endpoint{with(1, 0, 1, nil), with(1, 0, 1, nil)}, []int{0}, nil},
		{"the fenced take nothing", []Endpoint{
			with(1, 0, 9, nil),
			with(2, 1, 5, func(e *Endpoint) { e.Addresses = []netip.Addr{addr4(1), addr4(3)} }),
			with(3, 2, 1, nil),
		}, []int{0, 2}, []int{1}},
		{"group MAC", []Endpoint{with(1, 0, 1, func(e *Endpoint) { e.MAC = Broadcast })}, nil, []int{0}},
		{"no MAC", []Endpoint{with(1, 0, 1, func(e *Endpoint) { e.MAC = MAC{} })}, nil, []int{0}},
		{"0.0.0.0", []Endpoint{with(1, 0, 1, address("0.0.0.0"))}, nil, []int{0}},
		{"::", []Endpoint{with(1, 0, 1, address("::"))}, nil, []int{0}},
		{"multicast", []Endpoint{with(1, 0, 1, address("ff02::1"))}, nil, []int{0}},
		{"broadcast", []Endpoint{with(1, 0, 1, address("255.255.255.255"))}, nil, []int{0}},
		{"loopback", []Endpoint{with(1, 0, 1, address("127.0.0.1"))}, nil, []int{0}},
		{"no address at all", []Endpoint{with(1, 0, 1, func(e *Endpoint) { e.Addresses = []netip.Addr{{}} })}, nil, []int{0}},
	} {
		holding, fenced := Settle(c.list)
		hosts := func(numbers []int) (names []crypto.Name) {
			for _, n := range numbers {
				names = append(names, host(n))
			}
			return names
		}
		names := func(list []Endpoint) (names []crypto.Name) {
			for _, e := range list {
				names = append(names, e.Host)
			}
			return names
		}
		if !slices.Equal(names(holding), hosts(c.holders)) || !slices.Equal(names(fenced), hosts(c.fenced)) {
			t.Errorf("%s: holding %v fenced %v", c.name, names(holding), names(fenced))
		}
	}
}

func TestNextClaim(t *testing.T) {
	list := []Endpoint{endpoint(1, 0), endpoint(2, 0), endpoint(3, 0), endpoint(1, 0)}
	list[0].Claim, list[1].Claim, list[2].Claim = 4, 7, math.MaxUint64
	list[3].VNI, list[3].Claim = 5, 99
	for _, c := range []struct {
		vni  VNI
		mac  MAC
		addr netip.Addr
		want uint64
	}{
		{0, mac(1), addr4(50), 5},
		{0, mac(50), addr4(2), 8},
		{0, mac(1), addr4(2), 8},
		{0, mac(50), netip.MustParseAddr("::ffff:10.32.0.2"), 8},
		{0, mac(50), addr4(50), 1},
		{5, mac(1), addr4(2), 100},
		{0, mac(3), addr4(50), math.MaxUint64},
	} {
		if got := NextClaim(list, c.vni, c.mac, []netip.Addr{c.addr}); got != c.want {
			t.Errorf("%v %v in %d: %d, want %d", c.mac, c.addr, c.vni, got, c.want)
		}
	}
}
