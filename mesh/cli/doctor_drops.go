package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ripstop/mesh/api"
)

// sampling is how long counters are watched.
const sampling = time.Second

// A counter is large from so many on, if that is also more than this share of all
// frames: a busy host loses some, and after a change many for a moment.
const (
	largeCount = 1000
	largeShare = 0.001
)

// checkDrops says which losses go on, and which were many, of those that are no part of
// the ordinary.
func checkDrops(ctx context.Context, x *examination) []finding {
	pause(ctx, sampling)
	later, err := x.client.Status(ctx)
	if err != nil {
		return one(warning("run it again", "the daemon gave no second status: %s", reason(err)))
	}
	return dropsBetween(*x.status, later)
}

// dropsBetween compares the counters of two statuses of one daemon.
func dropsBetween(before, after api.Status) []finding {
	traffic := after.Counters["frames_in"] + after.Counters["frames_out"]
	type rise struct {
		name    string
		by, sum uint64
		text    counterText
	}
	var rises []rise
	var ordinary uint64
	for name, sum := range after.Counters {
		c, known := counterTexts[name]
		switch {
		case !known && !strings.HasPrefix(name, "drop_"):
			continue // of a newer daemon, and perhaps no loss
		case !known:
			c = counterText{"a reason that this program does not know", "`ripstop version`: use the one that the daemon runs"}
		case c.advice == "":
			if strings.HasPrefix(name, "drop_") {
				ordinary += sum
			}
			continue
		}
		// A daemon that was started again counts from 0.
		by := sum - min(before.Counters[name], sum)
		if by > 0 || sum >= largeCount && float64(sum) >= largeShare*float64(traffic) {
			rises = append(rises, rise{name, by, sum, c})
		}
	}
	slices.SortFunc(rises, func(a, b rise) int {
		return cmp.Or(cmp.Compare(b.by, a.by), cmp.Compare(b.sum, a.sum), strings.Compare(a.name, b.name))
	})
	var found []finding
	for _, r := range rises {
		how := fmt.Sprintf("%d in all", r.sum)
		if r.by > 0 {
			how = fmt.Sprintf("%d in the last second, %d in all", r.by, r.sum)
		}
		found = append(found, warning(r.text.advice, "%s: %s: %s", r.name, how, r.text.means))
	}
	if ordinary > 0 {
		return orGood(found, "nothing is lost that should not be; %d frames were dropped as they should", ordinary)
	}
	return orGood(found, "nothing is lost")
}
