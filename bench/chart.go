package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// panel is one bar chart: a figure of every system but the bare underlay, beside
// which the others could hardly be told apart.
type panel struct {
	key, title string
}

// panels are what the chart shows, of what was measured.
var panels = [...]panel{
	{"tcp1.mean", "One TCP stream, Gbit/s: more is better"},
	{"udp100.rate", "UDP datagrams of 100 bytes at under 1 % loss, thousand/s: more is better"},
	{"tcp1.cpu", "Both daemons' processor seconds per Gbit: less is better"},
	{"ping.idle.p50", "Idle ping, median, µs: less is better"},
}

// The chart's measures in user units, which are pixels at its natural size.
const (
	chartWidth  = 860
	labelWidth  = 250
	valueWidth  = 150 // right of the longest bar, for its figure
	barHeight   = 16
	rowHeight   = 24
	panelHead   = 40
	chartMargin = 16
	footHeight  = 50
)

// chartStyle has colours that can be read on white and on black; where the reader's
// preference is known they follow it.
const chartStyle = `
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #6e7781 }
  .head { font-weight: 600 }
  .small { font-size: 11px }
  .bar { fill: #8c959f }
  .ours { fill: #2f81f7 }
  .range { stroke: #57606a; stroke-width: 1.5 }
  @media (prefers-color-scheme: light) {
    text { fill: #24292f }
  }
  @media (prefers-color-scheme: dark) {
    text { fill: #c9d1d9 }
    .bar { fill: #6e7681 }
    .ours { fill: #58a6ff }
    .range { stroke: #c9d1d9 }
  }
`

// writeChart draws bars of medians with their range, ripstop's own in colour.
func (r *report) writeChart(w io.Writer) error {
	var body strings.Builder
	y := chartMargin
	for _, one := range panels {
		y = r.drawPanel(&body, one, y)
	}
	foot := fmt.Sprintf("Medians of %d interleaved rounds, lines from least to greatest; both hosts on one machine, underlay MTU %d.", r.Completed, r.Options.MTU)
	if r.Options.Smoke {
		foot = "A smoke run: these figures mean nothing."
	}
	drawText(&body, chartMargin, y+18, "small", "start", foot)
	drawText(&body, chartMargin, y+34, "small", "start", r.Machine.line())
	height := y + footHeight
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="t">
<title id="t">ripstop beside other networks</title>
<style>%s</style>
%s</svg>
`, chartWidth, height, chartWidth, height, chartStyle, body.String())
	return err
}

// drawPanel draws a panel from y on, if anything was measured for it, and returns
// where the next begins.
func (r *report) drawPanel(b *strings.Builder, p panel, y int) int {
	most := 0.0
	for _, s := range r.Systems {
		if f, ok := r.Figures[s.Name][p.key]; ok && s.Name != bare {
			most = max(most, f.Max)
		}
	}
	if most == 0 {
		return y
	}
	drawText(b, chartMargin, y+20, "head", "start", p.title)
	y += panelHead
	const space = chartWidth - 2*chartMargin - labelWidth - valueWidth
	const left = chartMargin + labelWidth
	at := func(v float64) float64 { return math.Round((left+v/most*space)*10) / 10 }
	for _, s := range r.Systems {
		f, ok := r.Figures[s.Name][p.key]
		if !ok || s.Name == bare {
			continue
		}
		class := "bar"
		if strings.HasPrefix(s.Name, ripstop) {
			class = "bar ours"
		}
		drawText(b, left-8, y+13, "", "end", title(s))
		fmt.Fprintf(b, "<rect class=%q x=\"%d\" y=\"%d\" width=\"%g\" height=\"%d\" rx=\"2\"/>\n",
			class, left, y, max(1, math.Round((at(f.Median)-left)*10)/10), barHeight)
		if f.Min != f.Max {
			fmt.Fprintf(b, "<line class=\"range\" x1=\"%g\" y1=\"%g\" x2=\"%g\" y2=\"%g\"/>\n", at(f.Min), float64(y)+barHeight/2, at(f.Max), float64(y)+barHeight/2)
		}
		drawText(b, int(at(max(f.Median, f.Max)))+8, y+13, "", "start", number(f.Median))
		y += rowHeight
	}
	return y + chartMargin
}

func drawText(b *strings.Builder, x, y int, class, anchor, text string) {
	fmt.Fprintf(b, `<text x="%d" y="%d"`, x, y)
	if class != "" {
		fmt.Fprintf(b, ` class=%q`, class)
	}
	if anchor != "start" {
		fmt.Fprintf(b, ` text-anchor=%q`, anchor)
	}
	b.WriteByte('>')
	xml.EscapeText(b, []byte(text))
	b.WriteString("</text>\n")
}
