package mesh

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ripstop/mesh/api"
)

// TestAliases: an attachment has further names, each once and in lower case; what cannot
// be one is refused, and other ones are another wish.
func TestAliases(t *testing.T) {
	many := make([]string, api.MaxAliases+1)
	for i := range many {
		many[i] = fmt.Sprintf("web%d", i)
	}
	for _, c := range []struct {
		name    string
		aliases []string
		want    []string
		says    string
	}{
		{"Web", []string{"Shop", "web", "shop", "db.in"}, []string{"shop", "db.in"}, ""},
		{"web", many[1:], many[1:], ""},
		{"", nil, nil, ""},
		{"web", many, nil, "7 are the most"},
		{"", []string{"shop"}, nil, "which is missing"},
		{"we_b", nil, nil, `name "we_b"`},
		{"web", []string{""}, nil, `name ""`},
		{"web", []string{strings.Repeat("a", 1<<16)}, nil, "63 characters"},
	} {
		var a attachment
		q := api.AttachRequest{Name: c.name, Aliases: c.aliases}
		err := a.takeNames(q)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 300 {
				t.Errorf("%q, %q: %v", c.name, c.aliases, err)
			}
			continue
		}
		if err != nil || a.Name != c.name || !slices.Equal(a.Aliases, c.want) {
			t.Errorf("%q, %q: %q, %q, %v", c.name, c.aliases, a.Name, a.Aliases, err)
		}
		other := a
		if other.Aliases = append(slices.Clone(a.Aliases), "more"); !a.satisfies(q, &a) || a.satisfies(q, &other) {
			t.Errorf("%q, %q: whatever the aliases are, it is the same or never", c.name, c.aliases)
		}
	}
}
