package crypto

import (
	"bytes"
	"testing"
)

func TestState(t *testing.T) {
	id := testIdentity(t, 10)
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("state"), 10000)} {
		box := id.SealState(nil, plain)
		got, err := id.OpenState(box)
		if err != nil || !bytes.Equal(got, plain) || len(box) != len(plain)+stateOverhead {
			t.Errorf("%d bytes: %d, %v", len(plain), len(got), err)
		}
	}
	box := id.SealState(seeded(1), []byte("allocations"))
	if bytes.Contains(box, []byte("allocations")) {
		t.Error("the box can be read")
	}
	for bit := range 8 * len(box) {
		if _, err := id.OpenState(flipped(box, bit)); err == nil {
			t.Fatalf("bit %d flipped opens", bit)
		}
	}
	for n := range box {
		_, err := id.OpenState(box[:n])
		wantError(t, "cut box", err, ErrState)
	}
	_, err := testIdentity(t, 11).OpenState(box)
	wantError(t, "another host's box", err, ErrState)
	newer := bytes.Clone(box)
	newer[0] = stateVersion + 1
	_, err = id.OpenState(newer)
	wantError(t, "newer box", err, ErrNewerFormat)
	defer func() {
		if recover() == nil {
			t.Error("sealed without randomness")
		}
	}()
	id.SealState(bytes.NewReader(nil), nil)
}

func FuzzOpenState(f *testing.F) {
	id := testIdentity(f, 10)
	box := id.SealState(seeded(1), []byte("state"))
	f.Add(box)
	f.Add(box[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := id.OpenState(b); (err == nil) != bytes.Equal(b, box) {
			t.Fatalf("%x: %v", b, err)
		}
	})
}
