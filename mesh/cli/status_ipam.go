package cli

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ripstop/mesh/api"
)

// barCells is how many characters the bar of the range has.
const barCells = 64

// barKeys mark hosts in the bar; who has no key of its own is among the others.
const (
	barKeys   = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	barOthers = '#'
)

// printIPAM shows the address map: what there is, whose the range is, as a table and
// as a bar, what is in use here, and what happened.
func printIPAM(w io.Writer, i api.IPAM, now time.Time) error {
	nick := make(map[string]string)
	for _, h := range i.Hosts {
		nick[h.Host] = h.Nickname
	}
	row := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%10s  %s\n", what, printable(fmt.Sprintf(format, args...)))
	}
	ranges := i.Range.String()
	if i.Range6.IsValid() {
		ranges += ", and beside it " + i.Range6.String()
	}
	row("range", "%s", ranges)
	if i.Subnet != i.Range {
		row("default", "%s", i.Subnet)
	}
	if len(i.Reserved) > 0 {
		row("reserved", "%s", joined(i.Reserved))
	}
	if i.Map != "" {
		row("map", "%s, begun by %s", i.Map, and(named(i.Founders, nick)))
	}
	row("here", "%s", ipamCounts(i))
	ipamTrouble(row, i)
	if len(i.Hosts) > 0 {
		keys := barKeysOf(i.Hosts)
		fmt.Fprintln(w)
		if err := ipamHosts(i, keys).print(w); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%v [%s] %v\n", i.Range.Masked().Addr(), bar(i, keys), lastOf(i))
	}
	if len(i.Uses) > 0 {
		fmt.Fprintln(w)
		if err := ipamUses(i, nick).print(w); err != nil {
			return err
		}
	}
	if len(i.Events) > 0 {
		fmt.Fprintln(w)
		t := table{head: []string{"AGO", "EVENT", "WHAT"}}
		for _, e := range i.Events {
			t.add(max(now.Sub(e.Time), 0).Round(time.Second).String(), e.Kind, e.Text)
		}
		return t.print(w)
	}
	return nil
}

// ipamTrouble says why no address is given out, if so.
func ipamTrouble(row func(what, format string, args ...any), i api.IPAM) {
	if i.Waiting != "" {
		row("WAITING", "%s", i.Waiting)
	}
	if i.SaveError != "" {
		row("WARNING", "nothing is given out: %s", i.SaveError)
	}
}

// ipamCounts says how many addresses are in which state here.
func ipamCounts(i api.IPAM) string {
	text := fmt.Sprintf("%d in use", i.Used)
	for _, part := range []struct {
		n    int
		what string
	}{
		{i.Fenced, "of them FENCED: another host has them"}, {i.Held, "held by other hosts"}, {i.Resting, "resting after release"},
		{i.Pending, "requests waiting"}, {i.Conflicts, "conflicts settled"},
	} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text
}

// named are what people call the hosts of those names.
func named(names []string, nick map[string]string) []string {
	var all []string
	for _, name := range names {
		all = append(all, nickOr(nick[name], name))
	}
	slices.Sort(all)
	return all
}

// barKeysOf gives the hosts with blocks a letter each, in the order of the table.
func barKeysOf(hosts []api.IPAMHost) map[string]rune {
	keys := make(map[string]rune)
	next := 0
	for _, h := range sortedHosts(hosts) {
		if h.Blocks == 0 {
			continue
		}
		keys[h.Host] = barOthers
		if next < len(barKeys) {
			keys[h.Host] = rune(barKeys[next])
		}
		next++
	}
	return keys
}

func sortedHosts(hosts []api.IPAMHost) []api.IPAMHost {
	return slices.SortedStableFunc(slices.Values(hosts), func(a, b api.IPAMHost) int {
		return strings.Compare(nickOr(a.Nickname, a.Host), nickOr(b.Nickname, b.Host))
	})
}

func ipamHosts(i api.IPAM, keys map[string]rune) table {
	t := table{head: []string{"KEY", "HOST", "BLOCKS", "ADDRESSES", "SHARE", "FREE", "STATE"}}
	total := 0
	for _, h := range i.Hosts {
		total += h.Addresses
	}
	for _, h := range sortedHosts(i.Hosts) {
		state := "reachable"
		if !h.Reachable {
			state = "UNREACHABLE"
		}
		key := ""
		if k, ok := keys[h.Host]; ok {
			key = string(k)
		}
		t.add(key, nickOr(h.Nickname, h.Host), fmt.Sprint(h.Blocks), fmt.Sprint(h.Addresses), fmt.Sprintf("%.1f %%", 100*float64(h.Addresses)/float64(max(total, 1))), fmt.Sprint(h.Free), state)
	}
	return t
}

// bar is the range in cells, each with the key of the host that has most of it.
func bar(i api.IPAM, keys map[string]rune) string {
	size := uint64(1) << (32 - i.Range.Bits())
	cells := min(barCells, size)
	first := number32(i.Range.Masked().Addr())
	shares := make([]map[rune]uint64, cells)
	for _, r := range i.Ranges {
		from, to := number32(r.First)-first, number32(r.Last)-first+1
		for c := from * cells / size; c < cells && c*size/cells < to; c++ {
			lo, hi := max(from, c*size/cells), min(to, (c+1)*size/cells)
			if shares[c] == nil {
				shares[c] = make(map[rune]uint64)
			}
			shares[c][keys[r.Host]] += hi - lo
		}
	}
	var b strings.Builder
	for _, share := range shares {
		most := ' '
		for _, key := range slices.Sorted(maps.Keys(share)) {
			if share[key] > share[most] {
				most = key
			}
		}
		b.WriteRune(most)
	}
	return b.String()
}

// number32 is an IPv4 address as a number.
func number32(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

// lastOf is the last address of the range.
func lastOf(i api.IPAM) netip.Addr {
	if n := len(i.Ranges); n > 0 {
		return i.Ranges[n-1].Last
	}
	return i.Range.Addr()
}

func ipamUses(i api.IPAM, nick map[string]string) table {
	t := table{head: []string{"ADDRESS", "STATE", "FOR", "HELD BY", "BLOCK OF"}}
	host := func(name string) string {
		if name == "" {
			return ""
		}
		return nickOr(nick[name], name)
	}
	for _, u := range i.Uses {
		what, _, _ := strings.Cut(u.For, "@")
		t.add(bare([]netip.Prefix{u.Address}), u.State, what, host(u.Holder), host(u.Owner))
	}
	return t
}
