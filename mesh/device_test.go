package mesh

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"ripstop/tun/firewall"
)

// TestWatchRules: rules that are gone are put back, and said to be gone only then.
func TestWatchRules(t *testing.T) {
	n, ns := host(t)
	var out bytes.Buffer
	n.log = slog.New(slog.NewTextHandler(&out, nil))
	table, err := firewall.New(n.cfg.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	n.firewall = table
	err = ns.Do(func() error {
		if err := makePorts(nil); err != nil {
			return err
		}
		for _, want := range []int{1, 1} {
			n.watchRules(time.Now())
			if got := strings.Count(out.String(), "port rules are gone"); got != want {
				t.Errorf("said to be gone %d times, want %d:\n%s", got, want, out.String())
			}
			if there, err := table.Present(); !there || err != nil {
				t.Errorf("they were not put back: %v", err)
			}
		}
		return table.Delete()
	})
	if err != nil {
		t.Fatal(err)
	}
}
