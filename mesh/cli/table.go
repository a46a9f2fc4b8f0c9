package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table is rows of text under a head. An empty cell shows as "-", an empty table as
// one line, a column in which every cell is empty not at all.
type table struct {
	head []string
	none string // shown instead when there are no rows
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t table) print(w io.Writer) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, t.none)
		return err
	}
	used := make([]bool, len(t.head))
	for _, row := range t.rows {
		for i, cell := range row {
			used[i] = used[i] || cell != ""
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for n, row := range append([][]string{t.head}, t.rows...) {
		var cells []string
		for i, cell := range row {
			switch {
			case !used[i]:
			case cell == "":
				cells = append(cells, "-")
			case n > 0:
				cells = append(cells, printable(cell))
			default:
				cells = append(cells, cell)
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// printable takes from a text, which may come from another host, what could move a
// terminal's cursor or break the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, s)
}
