package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestManualOfSample holds the page for a small table; -rewrite writes it anew.
func TestManualOfSample(t *testing.T) {
	sample := sampleCommands()
	sample[0].text = `
Takes ` + "`ripstop that`" + ` where it's -said; the
next line flows, and

.hidden is no request. A lone ` + "`" + ` stays.

Examples:
  ripstop plain 'a b' \
    ~/x                                  a comment
'after' all`
	got := manual(sample)
	path := filepath.Join("testdata", "manual", "sample.8")
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestManualIsWhole: every command that help lists and each of its flags is there, and
// nothing is taken for a request that is none.
func TestManualIsWhole(t *testing.T) {
	page := manual(commands())
	for _, c := range commands() {
		_, section, found := strings.Cut(page, "\n.SS "+escaped("ripstop "+c.name))
		if found == c.hidden {
			t.Errorf("%s: hidden %v, shown %v", c.name, c.hidden, found)
		}
		section, _, _ = strings.Cut(section, "\n.S")
		flags, _ := c.flags(new(invocation))
		flags.VisitAll(func(f *pflag.Flag) {
			if !c.hidden && !strings.Contains(section, escaped("--"+f.Name)) {
				t.Errorf("%s: --%s is not there", c.name, f.Name)
			}
		})
	}
	requests := map[string]bool{".TH": true, ".SH": true, ".SS": true, ".TP": true, ".PP": true, ".B": true, ".nh": true, ".ad": true, ".nf": true, ".fi": true}
	for line := range strings.Lines(page) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); line[0] == '\'' || line[0] == '.' && !requests[word] {
			t.Errorf("a request: %s", line)
		}
	}
}
