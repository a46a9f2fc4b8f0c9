package firewall

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// dockered makes the chain that Docker makes, with an administrator's rules in it.
func dockered(t *testing.T, l *lab, family nftables.TableFamily, rules ...[]expr.Any) {
	t.Helper()
	l.in(l.host, func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: tableFilter, Family: family})
		chain := c.AddChain(&nftables.Chain{Name: chainDocker, Table: table})
		for _, exprs := range rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		}
		return c.Flush()
	})
}

// dockerRules are the rules of Docker's chain of a family, in short.
func dockerRules(t *testing.T, l *lab, family nftables.TableFamily) string {
	t.Helper()
	var words []string
	l.in(l.host, func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		chains, err := dockerChains(c)
		if err != nil {
			return err
		}
		for _, ch := range chains {
			if ch.chain.Table.Family != family {
				continue
			}
			for _, r := range ch.rules {
				switch {
				case slices.Equal(r.UserData, markOurs) && passes(r, bridgeName):
					words = append(words, "ours")
				case passes(r, bridgeName):
					words = append(words, "theirs")
				case forAll(r):
					words = append(words, "all")
				default:
					words = append(words, "other")
				}
			}
		}
		return nil
	})
	return strings.Join(words, " ")
}

// TestDockerPasses: the rule comes once, behind the administrator's and before the end of
// the chain, in both families, and only ours goes with the table.
func TestDockerPasses(t *testing.T) {
	counted := func(exprs ...expr.Any) []expr.Any { return append([]expr.Any{&expr.Counter{}}, exprs...) }
	finish := counted(verdict(expr.VerdictReturn, ""))
	from := func(name string, kind expr.VerdictKind) []expr.Any {
		return rule(meta(expr.MetaKeyIIFNAME), equal(append([]byte(name), 0)...), &expr.Counter{}, verdict(kind, ""))
	}
	wide := make([]byte, 16) // as nft compares a name
	copy(wide, bridgeName)
	nft := rule(meta(expr.MetaKeyIIFNAME), equal(wide...), meta(expr.MetaKeyOIFNAME), equal(wide...), accept())
	begins := rule(meta(expr.MetaKeyIIFNAME), equal([]byte(bridgeName)...), meta(expr.MetaKeyOIFNAME), equal([]byte(bridgeName)...), accept())
	ip4, ip6 := nftables.TableFamilyIPv4, nftables.TableFamilyIPv6
	for name, c := range map[string]struct {
		rules               [][]expr.Any
		with, added, behind string
	}{
		"empty, as Docker 28 leaves it": {nil, "", "ours", ""},
		"as Docker 20 leaves it":        {[][]expr.Any{finish}, "all", "ours all", "all"},
		"an administrator's":            {[][]expr.Any{from("bad0", expr.VerdictDrop), finish}, "other all", "other ours all", "other all"},
		"only one way":                  {[][]expr.Any{from(bridgeName, expr.VerdictAccept)}, "other", "other ours", "other"},
		"of all bridges so called":      {[][]expr.Any{begins}, "other", "other ours", "other"},
		"by hand":                       {[][]expr.Any{passing(bridgeName), finish}, "theirs all", "theirs all", "theirs all"},
		"by nft":                        {[][]expr.Any{nft}, "theirs", "theirs", "theirs"},
		"of another bridge":             {[][]expr.Any{passing("br1")}, "other", "other ours", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			dockered(t, l, ip4, c.rules...)
			dockered(t, l, ip6, finish)
			if got := dockerRules(t, l, ip4); got != c.with {
				t.Fatalf("made %q, want %q", got, c.with)
			}
			for _, first := range []bool{true, false} {
				l.in(l.host, func() error {
					added, err := PassDocker(bridgeName)
					if added != first {
						t.Errorf("added %v at the first call %v", added, first)
					}
					return err
				})
				if got := dockerRules(t, l, ip4); got != c.added {
					t.Errorf("%q, want %q", got, c.added)
				}
				if got := dockerRules(t, l, ip6); got != "ours all" {
					t.Errorf("IPv6: %q", got)
				}
			}
			l.in(l.host, func() error {
				table, err := New(bridgeName)
				if err != nil {
					return err
				}
				return table.Delete()
			})
			if got := dockerRules(t, l, ip4) + ", " + dockerRules(t, l, ip6); got != c.behind+", all" {
				t.Errorf("left %q, want %q", got, c.behind)
			}
		})
	}
}

// TestDockerIsElsewhere: without Docker's chain nothing is made.
func TestDockerIsElsewhere(t *testing.T) {
	l := newLab(t)
	l.in(l.host, func() error {
		if added, err := PassDocker(bridgeName); added || err != nil {
			t.Errorf("added %v, %v", added, err)
		}
		c, err := dial()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		if len(tables) != 0 {
			t.Errorf("%d tables", len(tables))
		}
		return err
	})
}
