package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ripstop/integration/lab"
)

// TestForgedFrames: a container sends 10 000 frames that are not its own, to a
// victim on its host and to one elsewhere. None arrives, no neighbour cache
// changes, and each is counted.
func TestForgedFrames(t *testing.T) {
	cfg := line("a", "b")
	cfg.Containers = 3
	s := tell(t, cfg)
	s.upAll()
	s.reach("a", "b")
	addrs := s.attach("a1", "a2", "b1", "b2")
	s.known(4)
	for _, pair := range [][2]int{{1, 0}, {1, 2}, {2, 1}, {2, 0}, {2, 3}, {1, 3}} {
		from := []string{"a1", "a2", "b1", "b2"}[pair[0]]
		s.answered(from, addrs[pair[1]], s.ping(from, addrs[pair[1]], lab.PingConfig{Count: 2}))
	}
	attacker := s.capture("a1")
	victims := map[string]*lab.Capture{"a2": s.capture("a2"), "b1": s.capture("b1")}
	own, foreign := s.mac("a1"), s.mac("b2")
	before := map[string]string{}
	for v := range victims {
		before[v] = s.neighbours(v)
	}
	dropped := s.forged("a")
	marker := []byte("forged-frame-with-a-marker")
	const rounds = 10_000 / 10
	sent := 0
	for range rounds {
		for v := range victims {
			to := s.victimMAC(v)
			for _, f := range forgeries(to, own, foreign, addrs[0], addrs[3], addrs[victim(v)], marker) {
				if err := attacker.Inject(f); err != nil {
					t.Fatal(err)
				}
				sent++
			}
		}
		time.Sleep(2 * time.Millisecond) // within the caps on copies, which would count under another name
	}
	if sent != 10_000 {
		t.Fatalf("sent %d frames, want 10 000", sent)
	}
	// Frames of its own still pass.
	s.answered("a1", addrs[2], s.ping("a1", addrs[2], lab.PingConfig{Count: 3}))
	s.eventually("every forged frame is counted", func() error {
		if got := s.forged("a") - dropped; got != uint64(sent) {
			return fmt.Errorf("%d of %d counted: %v", got, sent, s.status("a").Counters)
		}
		return nil
	})
	for v, c := range victims {
		if n := incoming(c, marker); n != 0 {
			t.Errorf("%s received %d forged frames", v, n)
		}
		for _, f := range c.Frames() {
			if !f.Out && len(f.Data) >= 42 && bytes.Equal(f.Data[12:14], []byte{8, 6}) && bytes.Contains(f.Data, addrs[3].AsSlice()) && bytes.Equal(f.Data[6:12], own[:]) {
				t.Errorf("%s received a forged ARP frame %x", v, f.Data)
				break
			}
		}
		if after := s.neighbours(v); after != before[v] {
			t.Errorf("%s believes something else now: before %s, after %s", v, before[v], after)
		}
	}
}

// victim is the index of a victim among the attached addresses.
func victim(name string) int { return map[string]int{"a2": 1, "b1": 2}[name] }

// victimMAC remembers the MACs: asking the daemon for each frame would take long.
func (s *story) victimMAC(name string) [6]byte {
	if m, ok := s.macs[name]; ok {
		return m
	}
	if s.macs == nil {
		s.macs = make(map[string][6]byte)
	}
	s.macs[name] = s.mac(name)
	return s.macs[name]
}

// forged is how many frames a host's port rules have dropped.
func (s *story) forged(host string) uint64 {
	s.Helper()
	total := uint64(0)
	for name, n := range s.status(host).Counters {
		if strings.HasPrefix(name, "port_rule_") {
			total += n
		}
	}
	return total
}

// neighbours is what a container believes of its neighbours, state left out.
func (s *story) neighbours(container string) string {
	s.Helper()
	r, err := s.Container(container).Exec(s.ctx, "ip", "-o", "neigh", "show", "dev", "rip0")
	if err != nil || r.Code != 0 {
		s.Fatalf("%s: ip neigh: %+v, %v", container, r, err)
	}
	var all []string
	for l := range strings.Lines(r.Out) {
		f := strings.Fields(l)
		if len(f) >= 3 && f[1] == "lladdr" {
			all = append(all, f[0]+" "+f[2])
		}
	}
	return strings.Join(all, ", ")
}

// forgeries are five frames that container own may not send: as another's MAC, as
// another's address, and in ARP and ND as both.
func forgeries(to, own, foreign [6]byte, ownAddr, foreignAddr, victimAddr netip.Addr, marker []byte) [][]byte {
	arp := func(hardware [6]byte, sender netip.Addr) []byte {
		b := append(append(append([]byte(nil), to[:]...), own[:]...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
		b = append(append(b, hardware[:]...), sender.AsSlice()...)
		b = append(append(b, to[:]...), victimAddr.AsSlice()...)
		return append(b, marker...)
	}
	return [][]byte{
		udpFrame(to, foreign, ownAddr, victimAddr, marker),
		udpFrame(to, own, foreignAddr, victimAddr, marker),
		arp(own, foreignAddr), // poison: another's address is at the attacker
		arp(foreign, ownAddr), // the attacker's address is at another
		advertisement(to, own, marker),
	}
}

// advertisement is a neighbour advertisement for another's link-local address,
// with the attacker's MAC in its option.
func advertisement(to, own [6]byte, marker []byte) []byte {
	source := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: own[0] ^ 2, 9: own[1], 10: own[2], 11: 0xff, 12: 0xfe, 13: own[3], 14: own[4], 15: own[5]})
	target := netip.MustParseAddr("fe80::1234")
	destination := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: to[0] ^ 2, 9: to[1], 10: to[2], 11: 0xff, 12: 0xfe, 13: to[3], 14: to[4], 15: to[5]})
	body := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice()...)
	body = append(append(body, 2, 1), own[:]...)
	sum := uint32(len(body)) + 58
	for _, part := range [][]byte{source.AsSlice(), destination.AsSlice(), body} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum))
	b := append(append(append([]byte(nil), to[:]...), own[:]...), 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(body)), 58, 255)
	b = append(append(b, source.AsSlice()...), destination.AsSlice()...)
	return append(append(b, body...), marker...)
}
