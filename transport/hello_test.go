package transport

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
)

func helloSamples() map[string]Hello {
	full := Hello{UID: 1<<64 - 1, Age: 90 * time.Minute, Port: 6783, Nickname: "vm-ä", Software: "ripstop 1.0",
		Observed: netip.MustParseAddrPort("[2001:db8::7]:40001")}
	for i := range MaxHelloAddresses {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		if i%2 == 1 {
			a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
		}
		full.Addresses = append(full.Addresses, netip.AddrPortFrom(a, 6783))
	}
	return map[string]Hello{"least": {UID: 1}, "full": full}
}

func TestHello(t *testing.T) {
	for name, h := range helloSamples() {
		b := h.Append([]byte("in front"))
		b = b[len("in front"):]
		if len(b) > MaxHelloLen || MaxHelloLen > crypto.MaxHello {
			t.Errorf("%s: %d bytes", name, len(b))
		}
		got, err := ParseHello(b)
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if got, err := ParseHello(append(bytes.Clone(b), 1, 2, 3)); err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("%s with fields of a later version: %+v, %v", name, got, err)
		}
		for n := range b {
			if _, err := ParseHello(b[:n]); err == nil {
				t.Errorf("%s cut at %d of %d: accepted", name, n, len(b))
			}
		}
	}
}

func TestHelloBytes(t *testing.T) {
	h := Hello{UID: 0x0102030405060708, Age: 0x10203 * time.Millisecond, Port: 0x1a7f, Nickname: "a", Software: "bc",
		Observed: netip.MustParseAddrPort("1.2.3.4:5"), Addresses: []netip.AddrPort{netip.MustParseAddrPort("[::1]:6")}}
	want := "\x01\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00\x00\x01\x02\x03\x1a\x7f" +
		"\x01a\x02bc\x04\x01\x02\x03\x04\x00\x05\x01\x10" + strings.Repeat("\x00", 15) + "\x01\x00\x06"
	if got := string(h.Append(nil)); got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestHelloBounds(t *testing.T) {
	h := Hello{UID: 1, Nickname: strings.Repeat("ä", MaxNickname), Software: strings.Repeat("x", 300),
		Addresses: make([]netip.AddrPort, 99), Observed: netip.MustParseAddrPort("[::ffff:1.2.3.4]:5")}
	for i := range h.Addresses {
		h.Addresses[i] = netip.MustParseAddrPort("10.0.0.1:1")
	}
	h.Nickname = "x" + h.Nickname
	got, err := ParseHello(h.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got.Nickname != h.Nickname[:MaxNickname-1] || len(got.Software) != MaxSoftware || len(got.Addresses) != MaxHelloAddresses || got.Observed != netip.MustParseAddrPort("1.2.3.4:5") {
		t.Errorf("%+v", got)
	}
	if invalid := (Hello{UID: 1, Nickname: "\xff\xfe" + strings.Repeat("x", 61) + "\xff\xff"}).Append(nil); len(invalid) > MaxHelloLen {
		t.Error("too long")
	}
	good := Hello{UID: 1, Nickname: "nick"}.Append(nil)
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	for name, b := range map[string][]byte{
		"version 0":           change(0, 0),
		"version 2":           change(0, 2),
		"uid 0":               change(1, make([]byte, 8)...),
		"age":                 change(9, 0xff),
		"long nickname":       append(change(19, 65)[:20], bytes.Repeat([]byte("a"), 100)...),
		"newline in nickname": change(20, '\n'),
		"escape in nickname":  change(20, 0x1b),
		"not UTF-8":           change(20, 0xff),
		"an address of 5":     change(25, 5),
		"address in 6 form":   append(append(change(25, 16)[:26], netip.MustParseAddr("::ffff:1.2.3.4").AsSlice()...), 0, 1, 0),
		"33 addresses":        append(change(26, 33), make([]byte, 900)...),
		"empty address":       append(change(26, 1), 0),
	} {
		if h, err := ParseHello(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, h)
		}
	}
}

func FuzzParseHello(f *testing.F) {
	for _, h := range helloSamples() {
		f.Add(h.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHello(b)
		if err != nil {
			return
		}
		again, err := ParseHello(h.Append(nil))
		if err != nil || !reflect.DeepEqual(h, again) {
			t.Fatalf("%+v becomes %+v, %v", h, again, err)
		}
	})
}
