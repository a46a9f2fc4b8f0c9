package api

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// The text exposition format of Prometheus, version 0.0.4. A family is one metric: its
// help, its type and all of its samples, side by side, the samples ordered by their labels.
//
//	# HELP ripstop_peers Other hosts of the network, by the way to them.
//	# TYPE ripstop_peers gauge
//	ripstop_peers{state="direct"} 2
//	ripstop_peers{state="gone"} 0
//
// A metric has a bounded number of samples: the fixed values of its label, or one for
// each peer, of which gossip takes at most 4096.

// expositionType is the format's Content-Type.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// The types of metrics in use.
const (
	counter = "counter" // never falls while the daemon runs
	gauge   = "gauge"
)

// metric describes one metric, and reads its samples out of a scrape.
type metric struct {
	name   string   // with its unit, and _total for a counter
	kind   string   // counter or gauge
	help   string   // one sentence without a line's end; docs/metrics.md has it word for word
	labels []string // names
	read   func(s *scrape, sample sampler)
}

// sampler takes one value with the values of the metric's labels, in their order.
type sampler func(value float64, labels ...string)

// appendMetric appends m's family: nothing when it has no sample. Of samples with the
// same labels, such as of peers whose nicknames differ only in what is not printed, the
// least stays: a name may stand once only.
func appendMetric(b []byte, m metric, s *scrape) []byte {
	type line struct {
		labels string
		value  float64
	}
	var lines []line
	m.read(s, func(value float64, labels ...string) {
		lines = append(lines, line{labelText(m.labels, labels), value})
	})
	if len(lines) == 0 {
		return b
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(strings.Compare(a.labels, b.labels), cmp.Compare(a.value, b.value))
	})
	lines = slices.CompactFunc(lines, func(a, b line) bool { return a.labels == b.labels })
	b = append(b, "# HELP "+m.name+" "+helpEscapes.Replace(m.help)+"\n# TYPE "+m.name+" "+m.kind+"\n"...)
	for _, l := range lines {
		b = append(b, m.name+l.labels+" "...)
		b = strconv.AppendFloat(b, l.value, 'f', -1, 64)
		b = append(b, '\n')
	}
	return b
}

// labelText is {name="value",…}, nothing without labels.
func labelText(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	var b strings.Builder
	for i, name := range names {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(name + `="` + labelEscapes.Replace(clean(values[i])) + `"`)
	}
	b.WriteByte('}')
	return b.String()
}

// What stands for itself nowhere in the format; in help a quotation mark does.
var (
	labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

// clean makes a text that may come from another host one that a reader takes: no control
// characters but the line's end, which is escaped, for a zero byte ends the whole answer
// for some readers; and UTF-8, to which strings.Map brings every byte that is none.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
