package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// fullCrowd is four hosts that have given out their range to its last address.
func fullCrowd(t *testing.T) *crowd {
	c := newCrowd(t, 4, "10.32.0.0/24")
	c.hosts[0].m.Start(c.now)
	for i := range 254 {
		h := c.hosts[i%len(c.hosts)]
		h.ends = nil
		h.m.Allocate(c.now, Request{ID: fmt.Sprint("c", i)})
		for len(h.ends) == 0 {
			c.step()
		}
		if h.ends[0] != nil {
			t.Fatalf("address %d: %v", i+1, h.ends[0])
		}
	}
	return c
}

// looked is the work of all hosts for requests.
func (c *crowd) looked() (n uint64) {
	for _, h := range c.hosts {
		n += h.m.stats.Looked
	}
	return n
}

// refused asks one host of a full crowd n times, some at each step, and says what that
// cost all of them. Every request ends in time, with the cause.
func refused(t *testing.T, n, each int) (looked uint64, messages int) {
	c := fullCrowd(t)
	h := c.hosts[1]
	before, asked, began, sent := c.looked(), c.asked, c.now, 0
	h.ends = nil
	for h.ends == nil || len(h.ends) < n {
		for i := 0; i < each && sent < n; i++ {
			sent++
			h.m.Allocate(c.now, Request{ID: fmt.Sprint("more", sent)})
		}
		c.step()
		if took := c.now.Sub(began); took > defaultDeadline+time.Duration(n/each)*50*time.Millisecond {
			t.Fatalf("%d of %d requests were answered within %v", len(h.ends), n, took)
		}
	}
	for _, err := range h.ends {
		var e *Error
		if !errors.As(err, &e) || e.Cause != CauseFull {
			t.Fatalf("a full network: %v", err)
		}
	}
	looked, messages = c.looked()-before, c.asked-asked
	t.Logf("%d requests, %d a step: looked at %d things, %d messages, %v", n, each, looked, messages, c.now.Sub(began))
	return looked, messages
}

// TestManyWaiting: what requests that cannot be served cost grows with their number,
// and not with its square; what they ask of others hardly grows at all.
func TestManyWaiting(t *testing.T) {
	for _, at := range []struct {
		name       string
		few, step  int
		many, more int
	}{{"at once", 100, 100, 1000, 1000}, {"one after the other", 100, 10, 1000, 10}} {
		t.Run(at.name, func(t *testing.T) {
			few, fewMessages := refused(t, at.few, at.step)
			many, manyMessages := refused(t, at.many, at.more)
			if many > 8*few {
				t.Errorf("ten times the requests looked at %d things instead of %d", many, few)
			}
			if manyMessages > 5*fewMessages {
				t.Errorf("ten times the requests took %d messages instead of %d", manyMessages, fewMessages)
			}
		})
	}
}

// TestReservedIsNotDonated: a block of nothing but reserved addresses would be given
// from one host to the other and back for as long as somebody asks.
func TestReservedIsNotDonated(t *testing.T) {
	cfg := realConfig(0, "10.32.0.0/24")
	upper := netip.MustParsePrefix("10.32.0.128/25")
	cfg.Reserved = []netip.Prefix{upper}
	m, journal := one(t, cfg)
	allocate(t, m, journal, Request{ID: "x"})
	other := simIdentities[1].Name()
	ask := put16(put64(put64(nil, 7), 1), maxGiven)
	if err := m.onAsk(other, &reader{b: putPrefix(ask, cfg.Range)}); err != nil {
		t.Fatal(err)
	}
	given := m.blocksOf(other)
	for _, b := range given {
		if a := m.lay.addr(b * m.lay.size); upper.Contains(a) {
			t.Errorf("%v is donated", a)
		}
	}
	if len(given) == 0 {
		t.Error("nothing is donated")
	}
}
