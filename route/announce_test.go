package route

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestAnnouncementFrames(t *testing.T) {
	frame := AppendGratuitousARP([]byte("x"), mac(1), netip.MustParseAddr("::ffff:10.32.0.1"))[1:]
	e, _ := ParseEthernet(frame)
	a, ok := ParseARP(frame[e.Payload:])
	if !ok || e.Destination != Broadcast || e.Source != mac(1) || a.SenderMAC != mac(1) || !a.Gratuitous() ||
		a.SenderAddress != addr4(1).As4() || len(frame) != 42 {
		t.Errorf("gratuitous ARP %x", frame)
	}
	frame = AppendUnsolicitedNA(nil, mac(1), addr6(1))
	e, _ = ParseEthernet(frame)
	nd, ok := ParseND(frame[e.Payload:])
	if !ok || e.Destination != (MAC{0x33, 0x33, 0, 0, 0, 1}) || e.Source != mac(1) || nd.Type != ndAdvertisement ||
		nd.LinkLayer != mac(1) || netip.AddrFrom16(nd.Target) != addr6(1) || !checksumOK(frame) || len(frame) != 86 {
		t.Errorf("unsolicited NA %x", frame)
	}
	if flags := frame[ethernetLen+ipv6Len+4]; flags != ndOverride {
		t.Errorf("flags %x", flags)
	}
	if AppendGratuitousARP(nil, mac(1), addr6(1)) != nil || AppendUnsolicitedNA(nil, mac(1), addr4(1)) != nil ||
		AppendAnnouncement(nil, mac(1), netip.Addr{}) != nil {
		t.Error("a frame for an address of the other kind")
	}
	if !bytes.Equal(AppendAnnouncement(nil, mac(1), addr6(1)), frame) {
		t.Error("AppendAnnouncement is not AppendUnsolicitedNA")
	}
}

func TestAnnouncer(t *testing.T) {
	var a Announcer
	now := time.Unix(1000, 0)
	step := func(what string, later time.Duration, list []Endpoint, want ...Announcement) {
		t.Helper()
		now = now.Add(later)
		got := a.Update(now, table(0, 5, nil, list))
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	at := func(n, on, address int) Endpoint {
		e := endpoint(n, on)
		e.Addresses = []netip.Addr{addr4(address)}
		return e
	}
	says := func(n, on, address int) Announcement { return Announcement{0, addr4(address), mac(n), host(on)} }
	step("first", 0, []Endpoint{at(1, 1, 1), at(2, 0, 2)})
	step("same", time.Second, []Endpoint{at(2, 0, 2), at(1, 1, 1)})
	step("another host", 0, []Endpoint{at(1, 2, 1), at(2, 0, 2)}, says(1, 2, 1))
	step("another MAC, and one more", 0, []Endpoint{at(9, 2, 1), at(2, 0, 2), at(3, 1, 3)}, says(9, 2, 1))
	step("moved here", 0, []Endpoint{at(9, 0, 1), at(2, 0, 2)})
	step("moved away", 0, []Endpoint{at(9, 3, 1), at(2, 1, 2)}, says(9, 3, 1), says(2, 1, 2))
	step("gone", 0, nil)
	step("back where it was", time.Minute, []Endpoint{at(9, 3, 1)})
	step("gone again", 0, nil)
	step("back elsewhere", time.Minute, []Endpoint{at(9, 2, 1)}, says(9, 2, 1))
	step("gone for good", 0, nil)
	step("still gone", time.Hour, nil)
	step("somebody new has it", 0, []Endpoint{at(7, 1, 1)})
	if len(a.known) != 1 || a.gone != 0 {
		t.Errorf("%d addresses known, %d gone", len(a.known), a.gone)
	}
}
