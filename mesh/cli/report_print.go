package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// print writes the report for people: each part under a line that names it, as the command
// does whose part it is.
func (r *report) print(w *bytes.Buffer) error {
	fmt.Fprintf(w, "ripstop report of %s\n", r.Made.Format(time.RFC3339))
	if r.Redacted {
		fmt.Fprintln(w, "No secret and no key is in it. Underlay addresses and dialled host names are replaced by numbers.")
	} else {
		fmt.Fprintln(w, "No secret and no key is in it. Underlay addresses are: --redact hides them.")
	}
	section := func(name string) { fmt.Fprintf(w, "\n== %s\n", name) }
	row := func(what string, format string, args ...any) {
		fmt.Fprintf(w, "%-24s  %s\n", what, printable(fmt.Sprintf(format, args...)))
	}
	if len(r.Missing) > 0 {
		section("missing")
		for _, m := range r.Missing {
			row(m.What, "%s", m.Why)
		}
	}
	section("program and host")
	commit := r.Program.Commit
	if r.Program.Changed {
		commit += " with changes"
	}
	row("ripstop", "%s %s %s %s", r.Program.Software, commit, r.Program.Go, r.Program.Platform)
	row("kernel", "%s %s", r.Host.Kernel, r.Host.Machine)
	row("system", "%s", r.Host.Distribution)
	row("processors, memory", "%d, %d MiB", r.Host.Processors, r.Host.MemoryBytes>>20)
	row("made by user", "%d", r.Host.User)
	section("doctor")
	if err := r.Doctor.print(w); err != nil {
		return err
	}
	if err := r.printStatus(w, section); err != nil {
		return err
	}
	if i := r.Internals; i != nil {
		section("table sizes")
		for _, name := range slices.Sorted(maps.Keys(i.Sizes)) {
			row(printable(name), "%d", i.Sizes[name])
		}
		section("settings")
		for _, name := range slices.Sorted(maps.Keys(i.Settings)) {
			row(printable(name), "%s", cmp.Or(i.Settings[name], "-"))
		}
	}
	if r.Metrics != "" {
		section("metrics")
		for line := range strings.Lines(r.Metrics) {
			if !strings.HasPrefix(line, "#") { // what they are is documented
				printLines(w, []string{strings.TrimSuffix(line, "\n")})
			}
		}
	}
	if i := r.Internals; i != nil {
		section(fmt.Sprintf("log, the last %d lines; %d before them are not kept", len(i.Log), i.LogLost))
		printLines(w, i.Log)
		if i.Stacks != "" {
			section("stacks")
			printLines(w, strings.Split(strings.ReplaceAll(strings.TrimSuffix(i.Stacks, "\n"), "\t", "  "), "\n"))
		}
	}
	return nil
}

// printStatus writes what status shows, part by part.
func (r *report) printStatus(w *bytes.Buffer, section func(string)) error {
	if r.Status != nil {
		v := view{s: *r.Status, nick: nicknames(*r.Status), now: r.Made}
		section("status")
		w.WriteString(v.summary())
		for _, part := range []struct {
			name  string
			table table
		}{{"peers", v.peers()}, {"underlay addresses", v.underlay()}, {"links", v.links()}, {"paths", v.paths()}, {"targets", v.targets()}, {"routes", v.routes()}, {"endpoints", v.endpoints()}, {"counters", v.counters()}} {
			section("status: " + part.name)
			if err := part.table.print(w); err != nil {
				return err
			}
		}
	}
	if r.IPAM != nil {
		section("status ipam")
		if err := printIPAM(w, *r.IPAM, r.Made); err != nil {
			return err
		}
	}
	if r.Names != nil {
		section("status dns")
		return printNames(w, *r.Names)
	}
	return nil
}

// underlay are the addresses that each host tells others to reach it at.
func (v view) underlay() table {
	t := table{head: []string{"HOST", "ADDRESSES"}, none: "no host"}
	t.add(v.s.Nickname, strings.Join(v.s.Advertise, " "))
	for _, p := range v.s.Peers {
		t.add(nickOr(p.Nickname, p.Name), strings.Join(p.Addresses, " "))
	}
	return t
}

// paths are all paths with neighbours, those that are not in use too.
func (v view) paths() table {
	t := table{head: []string{"PATH WITH", "PATH", "REMOTE", "UP", "IN USE", "RTT", "LOSS", "MTU", "TRAIN"}, none: "no paths"}
	for _, l := range v.s.Links {
		for _, p := range l.Paths {
			t.add(nickOr(l.Nickname, v.host(l.Peer)), p.Path, p.Remote, yes(p.Up), yes(p.Best), micros(p.RTTMicro), fmt.Sprintf("%.0f %%", 100*p.Loss), number(p.MTU), number(p.Train))
		}
	}
	return t
}

// counters are all of them.
func (v view) counters() table {
	t := table{head: []string{"COUNTER", "VALUE"}, none: "nothing was counted"}
	for _, name := range slices.Sorted(maps.Keys(v.s.Counters)) {
		t.add(name, fmt.Sprint(v.s.Counters[name]))
	}
	return t
}

// yes is a truth in a table.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func printLines(w *bytes.Buffer, lines []string) {
	for _, line := range lines {
		fmt.Fprintln(w, printable(line))
	}
}
