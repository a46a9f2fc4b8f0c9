package ipam

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestWords: a refusal names what is known, and what to do next; nothing that is not
// the case.
func TestWords(t *testing.T) {
	m, journal := one(t, realConfig(0, "10.32.0.0/28"))
	other := simIdentities[1].Name()
	m.set(netip.MustParseAddr("10.32.0.5"), &entry{kind: kindHeld, holder: other, claim: 7})
	refused := func(want string, except ...string) {
		t.Helper()
		text := ""
		for range 100 {
			r := m.Ready(m.now)
			for _, a := range r.Refusals {
				text += a.Err.Error()
			}
			m.Done(m.now, nil)
			if r.Empty() {
				break
			}
		}
		for _, e := range except {
			if strings.Contains(text, e) {
				t.Errorf("%q has %q in it", text, e)
			}
		}
		if !strings.Contains(text, want) {
			t.Errorf("%q does not say %q", text, want)
		}
	}
	m.Allocate(m.now, Request{ID: "x", Addr: netip.MustParsePrefix("10.32.0.5/28").Addr()})
	refused("10.32.0.5 is in use on "+other.String(), `by ""`)
	m.Release(m.now, "web", netip.Addr{})
	refused("`ripstop detach`")
	allocate(t, m, journal, Request{ID: "x"})
	m.Leave(m.now, time.Second)
	refused(`is in use here by "x": detach or release it first`, "1 addresses")

	fresh, err := New(realConfig(0, "10.32.0.0/28"), simEpoch)
	if err != nil {
		t.Fatal(err)
	}
	fresh.Targets(simEpoch, nil, []string{"vm2"})
	fresh.otherRange(other, netip.MustParsePrefix("10.40.0.0/16"))
	if got := fresh.Status().Waiting; !strings.HasPrefix(got, "there is no address map yet: "+other.String()+" numbers the range 10.40.0.0/16, this host 10.32.0.0/28") || strings.Contains(got, "ipam start") {
		t.Errorf("two ranges: %q", got)
	}
}
