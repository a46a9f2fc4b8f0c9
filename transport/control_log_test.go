package transport

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestControlReasonsAreLoggedOnce: why a target is not reached is said once for each
// reason, also when reasons take turns or never are the same twice.
func TestControlReasonsAreLoggedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		reason func(try int) string
		want   int
	}{
		"one":         {func(int) string { return "one" }, 1},
		"alternating": {func(try int) string { return fmt.Sprintf("number %d", try%2) }, 2},
		"ever new":    {func(try int) string { return fmt.Sprintf("number %d", try) }, maxReasons},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				tries := 0
				a := newMemNet().start(t, testIdentities(t, 1)[0], testNetwork(t), 1, func(cfg *ControlConfig) {
					cfg.Log = slog.New(slog.NewTextHandler(&out, nil))
					cfg.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) {
						tries++
						return nil, fmt.Errorf("%s", c.reason(tries))
					}
				})
				a.SetTargets([]string{"10.0.0.2"})
				wait(10 * time.Minute)
				a.stop()
				if got := strings.Count(out.String(), "target not reached"); got != c.want || tries < 50 {
					t.Errorf("%d lines of %d tries, want %d:\n%s", got, tries, c.want, out.String())
				}
			})
		})
	}
}
