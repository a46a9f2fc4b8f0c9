package cli

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ripstop/mesh/api"
	"ripstop/route"
	"ripstop/tun/firewall"
)

// counterSources are the folders whose string literals are counters, what those look
// like, and what status puts before them.
var counterSources = []struct{ folder, form, before string }{
	{"../plane", `^(datagrams|control|frames|drop)_[a-z0-9_]+$`, ""},
	{"..", `^(drop|udp)_[a-z0-9_]+$`, ""}, // what status counts of the sockets
	{"../../tun", `^(tap|routed)_[a-z0-9_]+$`, "drop_"},
	{"../../tun/firewall", `^underlay_guard$`, "port_rule_"},
	{"../../transport", `^control_[a-z0-9_]+$`, ""},
	{"../dns", `^dns_[a-z0-9_]+$`, ""},
}

// countedNames takes the names of all counters from the code that counts.
func countedNames(t *testing.T) (names []string) {
	t.Helper()
	for _, s := range counterSources {
		files, err := filepath.Glob(filepath.Join(s.folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		form, before := regexp.MustCompile(s.form), len(names)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if l, isLiteral := n.(*ast.BasicLit); isLiteral && l.Kind == token.STRING {
					if text, err := strconv.Unquote(l.Value); err == nil && form.MatchString(text) {
						names = append(names, s.before+strings.TrimPrefix(text, s.before))
					}
				}
				return true
			})
		}
		if len(names) == before {
			t.Errorf("%s has no counter of the form %s any more: say where its counters are", s.folder, s.form)
		}
	}
	for d := range route.Drop(route.NumDrops) {
		names = append(names, "drop_"+strings.ReplaceAll(d.String(), "-", "_"))
	}
	for cause := range (firewall.Drops{}).Map() {
		names = append(names, "port_rule_"+cause)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestEveryCounterIsExplained: what can be counted has a meaning, and advice or none on
// purpose; what is explained is counted.
func TestEveryCounterIsExplained(t *testing.T) {
	names := countedNames(t)
	if len(names) < 80 {
		t.Errorf("only %d counters were found: %v", len(names), names)
	}
	for _, name := range names {
		if counterTexts[name].means == "" {
			t.Errorf("%s is counted, and counterTexts does not explain it", name)
		}
	}
	for name := range counterTexts {
		if !slices.Contains(names, name) {
			t.Errorf("%s is explained, and counted nowhere", name)
		}
	}
}

func TestDropsBetween(t *testing.T) {
	for _, c := range []struct {
		before, after map[string]uint64
		want          []string
	}{
		{nil, nil, []string{"ok nothing is lost"}},
		{nil, map[string]uint64{"frames_in": 9, "datagrams_in": 9, "dns_queries": 9, "control_foreign": 0}, []string{"ok nothing is lost"}},
		// Old and few: nothing.
		{map[string]uint64{"drop_no_route": 999}, map[string]uint64{"drop_no_route": 999}, []string{"ok nothing is lost"}},
		{map[string]uint64{"drop_no_route": 1000}, map[string]uint64{"drop_no_route": 1000}, []string{"warn drop_no_route: 1000 in all: "}},
		{map[string]uint64{"drop_no_route": 1000}, map[string]uint64{"drop_no_route": 1000, "frames_out": 2000000}, []string{"ok nothing is lost"}},
		// The one that rises most comes first.
		{map[string]uint64{"drop_no_route": 5, "udp_no_buffers": 7}, map[string]uint64{"drop_no_route": 6, "udp_no_buffers": 9, "drop_fenced": 2000},
			[]string{"warn drop_fenced: 2000 in the last second", "warn udp_no_buffers: 2 in the last second, 9 in all: ", "warn drop_no_route: 1 in the last second"}},
		// What is part of the ordinary is no finding, however much there is.
		{nil, map[string]uint64{"drop_link_local_group": 5000, "drop_destination_here": 1}, []string{"ok nothing is lost that should not be; 5001 frames"}},
		// A daemon that was started again; one that knows more.
		{map[string]uint64{"drop_no_route": 900}, map[string]uint64{"drop_no_route": 3}, []string{"ok nothing is lost"}},
		{nil, map[string]uint64{"drop_of_tomorrow": 1, "gained_tomorrow": 1}, []string{"warn drop_of_tomorrow: 1 in the last second, 1 in all: a reason that this program does not know"}},
	} {
		got := dropsBetween(api.Status{Counters: c.before}, api.Status{Counters: c.after})
		match := len(got) == len(c.want)
		for i := range got {
			match = match && strings.HasPrefix(fmt.Sprint(got[i].Verdict, " ", got[i].Found), c.want[i])
		}
		if !match {
			t.Errorf("%v, then %v: got %+v, want %q", c.before, c.after, got, c.want)
		}
	}
}
