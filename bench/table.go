package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// column is a figure in a table.
type column struct{ key, title, unit string }

// section is a table: the systems down, figures across.
type section struct {
	title   string
	columns []column
}

// sections are all tables, and so the list of all figures; sizes are those of datagrams.
func sections(sizes []int) []section {
	tcp := section{title: "TCP, Gbit/s, there and back"}
	loss := section{title: "TCP: retransmits per 100 000 segments; processor seconds per Gbit of both daemons, of a relay, of the whole machine"}
	for _, n := range streamCounts {
		streams := fmt.Sprintf("%d streams", n)
		if n == 1 {
			streams = "1 stream"
		}
		tcp.columns = append(tcp.columns, column{tcpKey(n, "out"), streams + " →", "Gbit/s"}, column{tcpKey(n, "back"), "←", "Gbit/s"})
		loss.columns = append(loss.columns, column{tcpKey(n, "retransmits"), "retransmits, " + fmt.Sprint(n), "per 100000 segments"})
	}
	loss.columns = append(loss.columns, column{tcpKey(1, "cpu"), "daemons", "s/Gbit"}, column{tcpKey(1, "relay"), "relay", "s/Gbit"}, column{tcpKey(1, "machine"), "machine", "s/Gbit"})
	udp := section{title: "UDP: thousand datagrams a second at under 1 % loss"}
	cost := section{title: "UDP at the fixed rate: microseconds of both daemons' processor time per datagram, of a relay's, and % lost"}
	for _, n := range sizes {
		size := fmt.Sprintf("%d B", n)
		udp.columns = append(udp.columns, column{udpKey(n, "rate"), size, "thousand/s"})
		cost.columns = append(cost.columns, column{udpKey(n, "cpu"), size, "µs"}, column{udpKey(n, "relay"), "relay", "µs"}, column{udpKey(n, "loss"), "lost", "%"})
	}
	all := []section{tcp, loss, udp, cost}
	for _, when := range []struct{ key, text string }{{"idle", "idle"}, {"load", "beside a TCP stream"}} {
		s := section{title: "Round trips, µs, " + when.text + ": ping, and request/response with its rate in thousands a second"}
		for _, kind := range []string{"ping", "request"} {
			for _, p := range []string{"p50", "p99"} {
				s.columns = append(s.columns, column{latencyKey(kind, when.key, p), kind + " " + p, "µs"})
			}
		}
		s.columns = append(s.columns, column{latencyKey("request", when.key, "rate"), "rate", "thousand/s"}, column{latencyKey("ping", when.key, "lost"), "pings lost %", "%"})
		if when.key == "load" {
			s.columns = append(s.columns, column{"load.tcp", "TCP Gbit/s", "Gbit/s"})
		}
		all = append(all, s)
	}
	return append(all, section{title: "Peak resident memory, MB", columns: []column{{"memory.end", "an end's daemon", "MB"}, {"memory.relay", "a relay's", "MB"}}})
}

// unitOf is a figure's unit: what its column says, or that of its kind.
func unitOf(key string) string {
	for _, s := range sections(nil) {
		for _, c := range s.columns {
			if c.key == key {
				return c.unit
			}
		}
	}
	_, what, _ := strings.Cut(key, ".")
	switch {
	case strings.HasPrefix(key, "tcp") && what == "mean":
		return "Gbit/s"
	case strings.HasPrefix(key, "udp") && what == "rate":
		return "thousand/s"
	case strings.HasPrefix(key, "udp") && what == "loss":
		return "%"
	case strings.HasPrefix(key, "udp") && (what == "cpu" || what == "relay"):
		return "µs"
	case what == "cpu" || what == "relay" || what == "machine":
		return "s/Gbit"
	case what == "relayshare":
		return "ratio"
	case strings.HasSuffix(key, ".lost"):
		return "%"
	case strings.HasPrefix(key, "ping") || strings.HasPrefix(key, "request"):
		return "µs"
	}
	return ""
}

// moreIsBetter reports it of a figure.
func moreIsBetter(key string) bool {
	u := unitOf(key)
	return u == "Gbit/s" || u == "thousand/s"
}

// writeTable writes the report for people.
func (r *report) writeTable(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s", r.Machine.line())
	for _, name := range slices.Sorted(maps.Keys(r.Machine.Sysctls)) {
		p.line("  %s = %s", name, r.Machine.Sysctls[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Machine.Versions)) {
		p.line("  %s: %s", name, r.Machine.Versions[name])
	}
	p.line("  load average at the start %s", r.Machine.Load)
	if !r.Machine.Root {
		p.line("  Not root of this machine: sockets could not be given larger buffers. Figures are lower than root's.")
	}
	offload := "on"
	if !r.Options.Segmentation {
		offload = "off"
	}
	p.line("Underlay: MTU %d, segmentation offload %s. %g s per measurement, %d of %d rounds; medians (least–greatest).",
		r.Options.MTU, offload, r.Options.Seconds, r.Completed, r.Options.Rounds)
	if r.Options.Smoke {
		p.line("This was a smoke run: its figures mean nothing.")
	}
	p.line("TCP streams have congestion control %s.", r.Options.Congestion)
	if r.Options.Nice != 0 {
		p.line("The other networks' daemons have niceness %d.", r.Options.Nice)
	}
	p.line("The fixed UDP rate is %.0f datagrams a second.", r.Options.UDPRate)
	for _, s := range sections(r.Options.UDPSizes) {
		r.writeSection(p, s)
	}
	r.writePooled(p)
	r.writeRatios(p)
	for _, m := range r.Missing {
		p.line("%s", m)
	}
	for _, f := range r.Failures {
		p.line("FAILED: %s", f)
	}
	return p.err
}

// writeSection writes a table of the columns and systems that have anything.
func (r *report) writeSection(p *printer, s section) {
	var columns []column
	for _, c := range s.columns {
		if slices.ContainsFunc(r.Systems, func(one reportSystem) bool { return len(r.Figures[one.Name][c.key].Values) > 0 }) {
			columns = append(columns, c)
		}
	}
	if len(columns) == 0 {
		return
	}
	p.line("\n%s", s.title)
	var rows [][]string
	head := []string{""}
	for _, c := range columns {
		head = append(head, c.title)
	}
	rows = append(rows, head)
	for _, one := range r.Systems {
		row, any := []string{title(one)}, false
		for _, c := range columns {
			cell := "–"
			if f, ok := r.Figures[one.Name][c.key]; ok {
				any = true
				cell = f.text()
				if _, limited := r.Figures[one.Name][strings.TrimSuffix(c.key, "rate")+"limited"]; limited && strings.HasPrefix(c.key, "udp") && strings.HasSuffix(c.key, ".rate") {
					cell = "≥ " + cell // the generator's end, not the system's
				}
			}
			row = append(row, cell)
		}
		if any {
			rows = append(rows, row)
		}
	}
	p.table(rows)
}

// title is what a system is called in tables.
func title(s reportSystem) string {
	if s.Layer == "" {
		return s.Title
	}
	return fmt.Sprintf("%s (L%s)", s.Title, s.Layer)
}

// text is a figure with its range; a single value has none.
func (s summary) text() string {
	if s.Min == s.Max {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// number writes three significant digits, and no more than needed before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.9995:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// writePooled writes percentiles of all rounds' pings together.
func (r *report) writePooled(p *printer) {
	rows := [][]string{{"", "pings", "p50", "p90", "p99", "p99.9"}}
	for _, one := range r.Systems {
		for _, when := range []string{"idle", "load"} {
			t, ok := r.Pooled[one.Name]["ping."+when]
			if !ok {
				continue
			}
			row := []string{title(one) + ", " + when, fmt.Sprint(t.Count)}
			for _, q := range percentiles {
				row = append(row, number(t.Percentiles[q.name]))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		p.line("\nPings of all rounds together, µs")
		p.table(rows)
	}
}

func (r *report) writeRatios(p *printer) {
	if len(r.Ratios) == 0 {
		return
	}
	p.line("\nCompared within each round: median (least–greatest)")
	rows := [][]string{}
	for _, one := range r.Ratios {
		row := []string{one.Text, one.Result.text(), fmt.Sprintf("%d rounds", one.Rounds), ""}
		if met, ok := one.met(); ok {
			sign := "≥"
			if one.AtMost {
				sign = "≤"
			}
			row[3] = fmt.Sprintf("wanted %s %s", sign, number(*one.Want))
			if one.Goal != nil {
				row[3] += fmt.Sprintf(", goal %s", number(*one.Goal))
			}
			if met {
				row[3] += ": met"
			} else {
				row[3] += ": not met"
			}
		}
		rows = append(rows, row)
	}
	p.table(rows)
}

// printer writes lines and keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); p.err == nil {
		p.err = err
	}
}

// table aligns rows.
func (p *printer) table(rows [][]string) {
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.TrimRight("  "+strings.Join(row, "\t"), "\t"))
	}
	if err := t.Flush(); p.err == nil {
		p.err = err
	}
}
