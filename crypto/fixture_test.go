package crypto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// seeded is a random source that gives the same bytes for the same number.
func seeded(n uint64) *rand.ChaCha8 {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], n)
	return rand.NewChaCha8(seed)
}

func testIdentity(t testing.TB, n uint64) *Identity {
	t.Helper()
	seed, err := NewSeed(seeded(n))
	if err != nil {
		t.Fatal(err)
	}
	id, err := NewIdentity(seed)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testNetwork(t testing.TB, n uint64, policy CipherPolicy) *Network {
	t.Helper()
	network, _, err := NewNetwork(seeded(n), policy)
	if err != nil {
		t.Fatal(err)
	}
	return network
}

// stream is one side's view of a connection: it reads what was prepared, then
// meets the end, and keeps what was written.
type stream struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func newStream(in []byte) *stream             { return &stream{in: bytes.NewReader(in)} }
func (s *stream) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *stream) Write(b []byte) (int, error) { return s.out.Write(b) }

// flipped is b with one bit changed.
func flipped(b []byte, bit int) []byte {
	c := bytes.Clone(b)
	c[bit/8] ^= 1 << (bit % 8)
	return c
}

// wantError fails unless err is one of the wanted.
func wantError(t *testing.T, what string, err error, wanted ...error) {
	t.Helper()
	for _, w := range wanted {
		if errors.Is(err, w) {
			return
		}
	}
	t.Fatalf("%s: error %v, want one of %v", what, err, wanted)
}

// lowOrderX25519 are the encodings whose product with any key is zero; each is
// also tried with the top bit that X25519 ignores.
func lowOrderX25519() (list [][32]byte) {
	for _, k := range weakSignKeys[4:] {
		list = append(list, k)
	}
	list = append(list, [32]byte{}, [32]byte{1},
		[32]byte{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
		[32]byte{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
			0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57})
	for _, k := range list {
		k[31] |= 0x80
		list = append(list, k)
	}
	return list
}
