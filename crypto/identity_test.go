package crypto

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"strings"
	"testing"
)

// What a seed derives is fixed for ever: names are kept over upgrades.
func TestIdentityGolden(t *testing.T) {
	seed, err := ParseSeed([]byte(" 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(seed)
	if err != nil {
		t.Fatal(err)
	}
	name, _ := id.Name().MarshalText()
	if got := string(name); got != goldenName {
		t.Errorf("name %s, want %s", got, goldenName)
	}
	if id.Public().Name() != id.Name() || id.Name().IsZero() || id.String() != id.Name().String() {
		t.Error("the name is not that of the keys")
	}
	mac := id.Name().MAC()
	if mac[0]&3 != 2 {
		t.Errorf("MAC %x is not a locally administered unicast one", mac)
	}
	short := id.Name().Short()
	if long := id.Name(); !bytes.Equal(short[:], long[:8]) {
		t.Errorf("short name %x", short)
	}
}

func TestSeedAndNameText(t *testing.T) {
	seed, err := NewSeed(seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := seed.MarshalText()
	again, err := ParseSeed(text)
	if err != nil || again.bytes != seed.bytes {
		t.Fatal(err)
	}
	for n := range text {
		if _, err := ParseSeed(text[:n]); err == nil {
			t.Fatalf("seed cut at %d", n)
		}
	}
	if _, err := ParseSeed(bytes.Repeat([]byte("g"), 64)); err == nil || strings.Contains(err.Error(), "gg") {
		t.Errorf("not hexadecimal: %v", err)
	}
	if _, err := NewSeed(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("a seed of 31 bytes")
	}
	a, b := testIdentity(t, 1).Name(), testIdentity(t, 2).Name()
	if a.Compare(b) != -b.Compare(a) || a.Compare(a) != 0 || a == b {
		t.Error("names have no order")
	}
	text, _ = a.MarshalText()
	var got Name
	if err := got.UnmarshalText(text); err != nil || got != a {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("x", 32), string(text) + "00"} {
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("name %q is read", bad)
		}
	}
	uid := UID(0xfedcba9876543210)
	text, _ = uid.MarshalText()
	var u UID
	if err := u.UnmarshalText(text); err != nil || u != uid || u.UnmarshalText([]byte("x")) == nil {
		t.Errorf("uid %v, %v", u, err)
	}
}

func TestSignatures(t *testing.T) {
	a, b := testIdentity(t, 1), testIdentity(t, 2)
	sig := a.Sign("label", []byte("message"))
	key := a.Public().Sign
	if !Verify(key, sig, "label", []byte("message")) {
		t.Fatal("own signature refused")
	}
	// Valid under another key, label, or division between label and message: never.
	if Verify(b.Public().Sign, sig, "label", []byte("message")) || Verify(key, sig, "labe", []byte("lmessage")) ||
		Verify(key, sig, "labelm", []byte("essage")) || Verify(key, sig, "other", []byte("message")) || Verify(key, sig, "label", []byte("messagf")) {
		t.Error("a signature holds for something else")
	}
	for bit := range 8 * len(sig) {
		if Verify(key, Signature(flipped(sig[:], bit)), "label", []byte("message")) {
			t.Fatalf("bit %d flipped verifies", bit)
		}
	}
}

// Under a key of low order anyone can sign: shown with the plain library, refused by Verify.
func TestWeakSignKeys(t *testing.T) {
	forged := 0
	for _, key := range weakSignKeys {
		for _, sign := range []byte{0, 0x80} {
			key[31] |= sign
			if !key.weak() {
				t.Errorf("%x is not known as weak", key)
			}
			// S = 0 and R a point of low order: right for one message in at most eight.
			found := false
			for n := uint32(0); n < 200 && !found; n++ {
				message := binary.BigEndian.AppendUint32(nil, n)
				for _, r := range weakSignKeys {
					for _, rs := range []byte{0, 0x80} {
						var sig Signature
						r[31] = r[31]&0x7f | rs
						copy(sig[:], r[:])
						if ed25519.Verify(key[:], signedBytes("label", message), sig[:]) {
							found = true
							if Verify(key, sig, "label", message) {
								t.Errorf("forged signature under %x", key)
							}
						}
					}
				}
			}
			if found {
				forged++
			}
		}
	}
	if forged < 8 {
		t.Errorf("%d keys could be forged under, so the test shows nothing", forged)
	}
	if key := testIdentity(t, 1).Public().Sign; key.weak() {
		t.Error("an honest key is refused")
	}
}

func FuzzParseSeed(f *testing.F) {
	f.Add([]byte(strings.Repeat("0f", 32)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSeed(b); err == nil {
			text, _ := s.MarshalText()
			if !bytes.EqualFold(text, bytes.TrimSpace(b)) {
				t.Fatalf("%q becomes %q", b, text)
			}
		}
	})
}
