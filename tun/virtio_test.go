package tun

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// native is a header as the kernel lays it out, words in the machine's order.
func native(flags, kind byte, words ...uint16) []byte {
	h := []byte{flags, kind}
	for _, w := range words {
		h = binary.NativeEndian.AppendUint16(h, w)
	}
	return h
}

func TestVirtio(t *testing.T) {
	ipv4, ipv6 := make([]byte, 200), make([]byte, 200)
	putEthernet(ipv4, hereMAC, farMAC, etherVLAN)
	binary.BigEndian.PutUint16(ipv4[16:], etherIPv4)
	putEthernet(ipv6, hereMAC, farMAC, etherIPv6)
	ipv6[54+6] = 1 // the outer UDP sum is used
	for _, c := range []struct {
		name   string
		header []byte
		o      Offload
		frame  []byte
	}{
		{"plain", native(0, 0, 0, 0, 0, 0), Offload{}, nil},
		{"unfinished", native(1, 0, 0, 0, 34, 16), Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16}, nil},
		{"tcp4", native(1, 1, 66, 1448, 34, 16), Offload{NeedsChecksum: true, Type: GSOTCPv4, HeaderLen: 66, SegmentSize: 1448, ChecksumStart: 34, ChecksumOffset: 16}, nil},
		{"tcp6 ecn", native(1, 0x84, 86, 1428, 54, 16), Offload{NeedsChecksum: true, Type: GSOTCPv6, ECN: true, HeaderLen: 86, SegmentSize: 1428, ChecksumStart: 54, ChecksumOffset: 16}, nil},
		{"udp", native(1, 5, 42, 1200, 34, 6), Offload{NeedsChecksum: true, Type: GSOUDP, HeaderLen: 42, SegmentSize: 1200, ChecksumStart: 34, ChecksumOffset: 6}, nil},
		{"plain, 24", native(0, 0, make([]uint16, 11)...), Offload{}, nil},
		{"tunnel in v4", native(1, 0x21, 120, 1398, 84, 16, 0, 0, 0, 0, 0, 34, 64),
			Offload{NeedsChecksum: true, Type: GSOTCPv4, HeaderLen: 120, SegmentSize: 1398, ChecksumStart: 84, ChecksumOffset: 16, OuterL4: 34, InnerL3: 64}, ipv4},
		{"tunnel in v6 with sum", native(9, 0x44, 140, 1378, 104, 16, 0, 0, 0, 0, 0, 54, 84),
			Offload{NeedsChecksum: true, Type: GSOTCPv6, HeaderLen: 140, SegmentSize: 1378, ChecksumStart: 104, ChecksumOffset: 16, OuterL4: 54, InnerL3: 84}, ipv6},
	} {
		got, ok := getVirtio(c.header)
		if !ok || got != c.o {
			t.Errorf("%s: read %+v, %v; want %+v", c.name, got, ok, c.o)
		}
		h := bytes.Repeat([]byte{0xff}, len(c.header))
		putVirtio(h, &c.o, c.frame)
		if !bytes.Equal(h, c.header) {
			t.Errorf("%s: wrote %x, want %x", c.name, h, c.header)
		}
	}
	for name, h := range map[string][]byte{
		"unknown type":              native(1, 2, 0, 0, 0, 0),
		"unknown flag":              native(0x10, 0, 0, 0, 0, 0),
		"ECN alone":                 native(1, 0x80, 0, 0, 0, 0),
		"old UDP":                   native(1, 3, 42, 1200, 34, 6),
		"tunnel in a short header":  native(1, 0x21, 120, 1398, 84, 16),
		"tunnel of both families":   native(1, 0x61, make([]uint16, 11)...),
		"tunnel of nothing":         native(1, 0x20, make([]uint16, 11)...),
		"outer sum, unknown beside": native(0x18, 0x21, make([]uint16, 11)...),
	} {
		if o, ok := getVirtio(h); ok {
			t.Errorf("%s was read as %+v", name, o)
		}
	}
	if o, ok := getVirtio(native(2, 0, 0, 0, 0, 0)); !ok || o != (Offload{}) {
		t.Errorf("a checked frame is a plain one: %+v, %v", o, ok)
	}
}

func FuzzVirtio(f *testing.F) {
	f.Add(native(1, 1, 66, 1448, 34, 16), []byte("frame"))
	f.Add(native(9, 0x44, 140, 1378, 104, 16, 0, 0, 0, 0, 0, 54, 84), make([]byte, 100))
	f.Fuzz(func(t *testing.T, h, frame []byte) {
		size := virtioHeader
		if len(h) >= virtioTunnelHeader {
			size = virtioTunnelHeader
		} else if len(h) < size {
			return
		}
		o, ok := getVirtio(h[:size])
		if !ok {
			return
		}
		again := make([]byte, size)
		putVirtio(again, &o, frame)
		if back, ok := getVirtio(again); (!ok || back != o) && o.OuterL4 != 0 == (size == virtioTunnelHeader && h[1]&gsoTunnel != 0) {
			t.Errorf("%x: %+v became %+v, %v", h, o, back, ok)
		}
	})
}

func TestOffloadSteps(t *testing.T) {
	for _, c := range []struct {
		want  OffloadMask
		steps []OffloadMask
	}{
		{0, []OffloadMask{0}},
		{OffloadAll, []OffloadMask{0x1ef, 0x6f, 0x0f, 0x01, 0}},
		{OffloadChecksum, []OffloadMask{1, 0}},
		{offloadTCP, []OffloadMask{0}},                                            // without checksums nothing
		{OffloadChecksum | OffloadECN, []OffloadMask{1, 0}},                       // ECN without TSO
		{OffloadChecksum | OffloadUSO4, []OffloadMask{1, 0}},                      // half of USO
		{OffloadChecksum | offloadTCP | offloadTun, []OffloadMask{0x0f, 0x01, 0}}, // tunnels without USO
		{OffloadAll &^ OffloadTunnel, []OffloadMask{0x6f, 0x0f, 0x01, 0}},
		{OffloadAll &^ OffloadTunnelChecksum, []OffloadMask{0xef, 0x6f, 0x0f, 0x01, 0}},
		{OffloadAll &^ offloadTCP, []OffloadMask{0x61, 0x01, 0}},
	} {
		got := c.want.steps()
		if len(got) != len(c.steps) {
			t.Errorf("%#x: %#x, want %#x", c.want, got, c.steps)
			continue
		}
		for i := range got {
			if got[i] != c.steps[i] {
				t.Errorf("%#x: %#x, want %#x", c.want, got, c.steps)
			}
		}
	}
}
