package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// unhex turns hexadecimal digits, spaces between them ignored, into bytes.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Values and their bytes, both ways.
var (
	headers = []struct {
		value Header
		bytes string
	}{
		{Header{Type: TypeData, Index: 0x01020304, Counter: 0x05060708090a0b0c}, "02 00 0000 01020304 05060708090a0b0c"},
		{Header{Type: TypeControl, Flags: 0x81, Index: 1, Counter: 2}, "03 81 0000 00000001 0000000000000002"},
		{Header{Type: TypeClear, Index: 1<<32 - 1, Counter: 1<<64 - 1}, "04 00 0000 ffffffff ffffffffffffffff"},
		{Header{Type: TypeHandshake}, "05 00 0000 00000000 0000000000000000"},
		{Header{Type: 0xee, Counter: 1}, "ee 00 0000 00000000 0000000000000001"},
	}
	relays = []struct {
		value RelayHeader
		bytes string
	}{
		{RelayHeader{HopLimit: 32, Flow: 0x0102, Index: 0x03040506, Counter: 0x0708090a0b0c0d0e,
			Destination: [8]byte{0xd0, 1, 2, 3, 4, 5, 6, 0xd7}, Source: [8]byte{0x50, 1, 2, 3, 4, 5, 6, 0x57},
			MAC: [16]byte{0xaa, 15: 0xbb}},
			"01 20 0102 03040506 0708090a0b0c0d0e d0010203040506d7 5001020304050657 aa0000000000000000000000000000bb"},
		{RelayHeader{HopLimit: 1},
			"01 01 0000 00000000 0000000000000000 0000000000000000 0000000000000000 00000000000000000000000000000000"},
	}
	records = []struct {
		value Record
		bytes string
	}{
		{Record{Length: 3, VNI: 0x0102}, "0003 00 00 0102 0000 0000 0000"},
		{Record{Length: 3, Flags: RecordPartial | RecordTrain | RecordLast, Position: 7, VNI: 1, ChecksumStart: 34, ChecksumOffset: 16, Aux: 0xfffe},
			"0003 07 07 0001 0022 0010 fffe"},
		{Record{Length: 3, Flags: RecordPartial | RecordTrain | RecordTunnel, Aux: 64}, "0003 13 00 0000 0000 0000 0040"},
	}
	probes = []struct {
		value Probe
		bytes string
	}{
		{Probe{ID: 0x0102030405060708}, "01 00 00 00 0102030405060708 0000 0000 00000000000000000000000000000000"},
		{Probe{ID: 1, Answer: true, HearsYou: true, Path: PathTCP, MTU: 1500, Observed: netip.MustParseAddrPort("192.0.2.1:6783")},
			"01 03 02 00 0000000000000001 05dc 1a7f 00000000000000000000ffffc0000201"},
		{Probe{HearsYou: true, Path: PathDirect, Observed: netip.MustParseAddrPort("[2001:db8::1]:1")},
			"01 02 01 00 0000000000000000 0000 0001 20010db8000000000000000000000001"},
	}
)

func TestHeader(t *testing.T) {
	for _, test := range headers {
		want := unhex(t, test.bytes)
		got := bytes.Repeat([]byte{0xff}, HeaderLen)
		test.value.Put(got)
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: put %x, want %x", test.value, got, want)
		}
		value, err := ParseHeader(append(want, "behind"...))
		if err != nil || value != test.value {
			t.Errorf("%x: parsed %+v, %v, want %+v", want, value, err, test.value)
		}
		for n := range want {
			if _, err := ParseHeader(want[:n]); !errors.Is(err, ErrDatagramShort) {
				t.Errorf("%x cut at %d: %v", want, n, err)
			}
		}
	}
	for _, zero := range []int{2, 3} {
		b := unhex(t, headers[0].bytes)
		b[zero] = 1
		if _, err := ParseHeader(b); !errors.Is(err, ErrDatagramField) {
			t.Errorf("byte %d set: %v", zero, err)
		}
	}
	if h, err := ParseHeader([]byte{0}); err != nil || h != (Header{}) {
		t.Errorf("runt of one byte: %+v, %v", h, err)
	}
	if h, err := ParseHeader([]byte{1, 2, 3}); err != nil || h != (Header{Type: TypeRelay}) {
		t.Errorf("relayed: %+v, %v", h, err)
	}
}

func TestRelayHeader(t *testing.T) {
	inner := unhex(t, headers[0].bytes+strings.Repeat("cc", 5)+strings.Repeat("dd", TagLen))
	for _, test := range relays {
		want := append(unhex(t, test.bytes), inner...)
		got := append(bytes.Repeat([]byte{0xff}, RelayLen), inner...)
		test.value.Put(got)
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: put %x, want %x", test.value, got, want)
		}
		value, err := ParseRelayHeader(want)
		if err != nil || value != test.value {
			t.Errorf("%x: parsed %+v, %v, want %+v", want, value, err, test.value)
		}
		for n := range RelayMin {
			if _, err := ParseRelayHeader(want[:n]); !errors.Is(err, ErrDatagramShort) {
				t.Errorf("%x cut at %d: %v", want, n, err)
			}
		}
		if _, err := ParseRelayHeader(want[:RelayMin]); err != nil {
			t.Errorf("shortest: %v", err)
		}
	}
	for _, bad := range []struct {
		what  string
		place int
		value byte
	}{
		{"another type", 0, byte(TypeData)},
		{"hop limit 0", 1, 0},
		{"relayed in relayed", RelayLen, byte(TypeRelay)},
		{"runt in relayed", RelayLen, byte(TypeRunt)},
	} {
		b := append(unhex(t, relays[0].bytes), inner...)
		b[bad.place] = bad.value
		if _, err := ParseRelayHeader(b); !errors.Is(err, ErrDatagramField) {
			t.Errorf("%s: %v", bad.what, err)
		}
	}
}

// TestRelayAD changes every byte of a relayed datagram: the associated data changes with
// it exactly where the hop MAC is to cover it.
func TestRelayAD(t *testing.T) {
	b := append(unhex(t, relays[0].bytes), unhex(t, headers[0].bytes+strings.Repeat("cc", 40)+strings.Repeat("dd", TagLen))...)
	scratch := make([]byte, 0, RelayADLen)
	want := bytes.Clone(RelayAD(b, scratch))
	if len(want) != RelayADLen {
		t.Fatalf("%d bytes, want %d", len(want), RelayADLen)
	}
	for i := range b {
		b[i] ^= 1
		covered := i < relayMAC || i >= RelayLen && i < RelayLen+HeaderLen || i >= len(b)-TagLen
		if changed := !bytes.Equal(RelayAD(b, scratch), want); changed != covered {
			t.Errorf("byte %d: covered %v, want %v", i, changed, covered)
		}
		b[i] ^= 1
	}
	before := bytes.Clone(b)
	PutRelayMAC(b, [TagLen]byte{1, 2, 3})
	if h, err := ParseRelayHeader(b); err != nil || h.MAC != [TagLen]byte{1, 2, 3} {
		t.Errorf("MAC %x, %v", h.MAC, err)
	}
	PutRelayMAC(b, relays[0].value.MAC)
	if !bytes.Equal(b, before) {
		t.Error("PutRelayMAC wrote elsewhere")
	}
}

func TestRecord(t *testing.T) {
	frame := []byte{0xf0, 0xf1, 0xf2}
	for _, test := range records {
		want := unhex(t, test.bytes)
		got := bytes.Repeat([]byte{0xff}, RecordLen)
		test.value.Put(got)
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: put %x, want %x", test.value, got, want)
		}
		whole := append(want, frame...)
		value, body, rest, err := ParseRecord(append(whole, 9, 9))
		if err != nil || value != test.value || !bytes.Equal(body, frame) || !bytes.Equal(rest, []byte{9, 9}) {
			t.Errorf("%x: parsed %+v, %x, %x, %v", whole, value, body, rest, err)
		}
		if cap(body) != len(body) {
			t.Errorf("the frame has room for %d bytes of the next record", cap(body)-len(body))
		}
		for n := range whole {
			if _, _, _, err := ParseRecord(whole[:n]); !errors.Is(err, ErrDatagramShort) {
				t.Errorf("%x cut at %d: %v", whole, n, err)
			}
		}
	}
	if _, _, _, err := ParseRecord(make([]byte, 20)); !errors.Is(err, ErrDatagramField) {
		t.Errorf("no frame: %v", err)
	}
	if _, _, _, err := ParseRecord(append(unhex(t, "ffff 00 00 0000 0000 0000 0000"), make([]byte, 65534)...)); !errors.Is(err, ErrDatagramShort) {
		t.Errorf("one byte too few for the longest frame: %v", err)
	}
}

func TestProbe(t *testing.T) {
	for _, test := range probes {
		want := unhex(t, test.bytes)
		if got := test.value.Append([]byte("before")); !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Errorf("%+v: %x, want %x", test.value, got, want)
		}
		for _, padding := range []int{0, 1, 1400} {
			value, err := ParseProbe(append(bytes.Clone(want), make([]byte, padding)...))
			if err != nil || value != test.value {
				t.Errorf("%x: parsed %+v, %v, want %+v", want, value, err, test.value)
			}
		}
		for n := range want {
			if _, err := ParseProbe(want[:n]); !errors.Is(err, ErrDatagramShort) {
				t.Errorf("%x cut at %d: %v", want, n, err)
			}
		}
	}
	for _, place := range []int{controlKind, probeZero} {
		b := unhex(t, probes[0].bytes)
		b[place] = 9
		if _, err := ParseProbe(b); !errors.Is(err, ErrDatagramField) {
			t.Errorf("byte %d: %v", place, err)
		}
	}
	mapped := Probe{Observed: netip.MustParseAddrPort("[::ffff:192.0.2.1]:5")}
	if p, err := ParseProbe(mapped.Append(nil)); err != nil || p.Observed != netip.MustParseAddrPort("192.0.2.1:5") {
		t.Errorf("mapped address: %v, %v", p.Observed, err)
	}
}

func TestRequestReply(t *testing.T) {
	for _, body := range [][]byte{nil, []byte("move"), bytes.Repeat([]byte{7}, MaxRequest)} {
		want := append(unhex(t, "02 05 0102030405060708"), body...)
		b, err := Request{ID: 0x0102030405060708, Kind: 5, Body: body}.Append(nil)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("request: %x, %v, want %x", b, err, want)
		}
		request, err := ParseRequest(b)
		if err != nil || !bytes.Equal(request.Body, body) || request.ID != 0x0102030405060708 || request.Kind != 5 {
			t.Errorf("request: %+v, %v", request, err)
		}
		if _, err := ParseReply(b); !errors.Is(err, ErrDatagramField) {
			t.Errorf("request taken for a reply: %v", err)
		}
		b, err = Reply{ID: 1, Kind: 255, Body: body}.Append([]byte{})
		if err != nil || b[0] != byte(ControlReply) {
			t.Errorf("reply: %x, %v", b, err)
		}
		reply, err := ParseReply(b)
		if err != nil || !bytes.Equal(reply.Body, body) || reply.ID != 1 || reply.Kind != 255 {
			t.Errorf("reply: %+v, %v", reply, err)
		}
		for n := range requestLen {
			if _, err := ParseReply(b[:n]); !errors.Is(err, ErrDatagramShort) {
				t.Errorf("reply cut at %d: %v", n, err)
			}
		}
	}
	long := make([]byte, MaxRequest+1)
	if _, err := (Request{Body: long}).Append(nil); err == nil {
		t.Error("a request of too many bytes was written")
	}
	if _, err := ParseRequest(append(unhex(t, "02 05 0102030405060708"), long...)); !errors.Is(err, ErrDatagramField) {
		t.Errorf("a request of too many bytes was read: %v", err)
	}
}

// TestWireAllocations: what stands on the frame path costs no memory.
func TestWireAllocations(t *testing.T) {
	b := make([]byte, 200)
	scratch := make([]byte, 0, RelayADLen)
	buf := make([]byte, 0, 200)
	header, relay, record := headers[0].value, relays[0].value, records[0].value
	for name, f := range map[string]func(){
		"header": func() { header.Put(b); ParseHeader(b); ParseHeader(b[:3]) },
		"relay": func() {
			relay.Put(b)
			header.Put(b[RelayLen:])
			ParseRelayHeader(b)
			ParseRelayHeader(b[:70])
			RelayAD(b, scratch)
			PutRelayMAC(b, relay.MAC)
		},
		"record": func() { record.Put(b); ParseRecord(b); ParseRecord(b[:3]) },
		"probe":  func() { ParseProbe(probes[1].value.Append(buf)) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, test := range headers {
		f.Add(unhex(f, test.bytes))
	}
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil || h.Type == TypeRunt || h.Type == TypeRelay {
			return
		}
		var again [HeaderLen]byte
		h.Put(again[:])
		if !bytes.Equal(again[:], b[:HeaderLen]) {
			t.Errorf("%x became %x", b[:HeaderLen], again)
		}
	})
}

func FuzzParseRelayHeader(f *testing.F) {
	for _, test := range relays {
		f.Add(append(unhex(f, test.bytes), append([]byte{2}, make([]byte, 60)...)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseRelayHeader(b)
		if err != nil {
			return
		}
		if len(RelayAD(b, nil)) != RelayADLen {
			t.Error("associated data of another length")
		}
		var again [RelayLen]byte
		h.Put(again[:])
		if !bytes.Equal(again[:], b[:RelayLen]) {
			t.Errorf("%x became %x", b[:RelayLen], again)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	for _, test := range records {
		f.Add(append(unhex(f, test.bytes), 1, 2, 3, 4))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		for rest := b; len(rest) > 0; {
			r, frame, behind, err := ParseRecord(rest)
			if err != nil {
				return
			}
			if len(frame) != int(r.Length) || len(rest) != RecordLen+len(frame)+len(behind) {
				t.Fatalf("%+v: frame of %d, %d behind, of %d", r, len(frame), len(behind), len(rest))
			}
			at := len(again)
			again = append(again, make([]byte, RecordLen)...)
			r.Put(again[at:])
			again = append(again, frame...)
			rest = behind
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func FuzzParseProbe(f *testing.F) {
	for _, test := range probes {
		f.Add(unhex(f, test.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProbe(b)
		if err != nil {
			return
		}
		again, err := ParseProbe(p.Append(nil))
		if err != nil || again != p {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add(unhex(f, "02 05 0102030405060708 aabb"))
	f.Add(unhex(f, "03 05 0102030405060708"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRequest(b); err == nil {
			if again, err := r.Append(nil); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
		if r, err := ParseReply(b); err == nil {
			if again, err := r.Append(nil); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
			if again, _ := ParseReply(b); !reflect.DeepEqual(again, r) {
				t.Errorf("parsed twice: %+v and %+v", r, again)
			}
		}
	})
}
