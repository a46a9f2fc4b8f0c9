package crypto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/flynn/noise"
)

// vector is one entry of testdata/noise.json, whose source stands in the file.
type vector struct {
	Name         string     `json:"protocol_name"`
	Prologue     hexBytes   `json:"init_prologue"`
	InitPSKs     []hexBytes `json:"init_psks"`
	InitStatic   hexBytes   `json:"init_static"`
	InitEphem    hexBytes   `json:"init_ephemeral"`
	RespStatic   hexBytes   `json:"resp_static"`
	RespEphem    hexBytes   `json:"resp_ephemeral"`
	RemoteStatic hexBytes   `json:"init_remote_static"`
	Hash         hexBytes   `json:"handshake_hash"`
	Messages     []struct{ Payload, Ciphertext hexBytes }
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

func readVectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/noise.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Vectors
}

// side starts one side of a vector through the constructor that the handshakes use.
func (v vector) side(t *testing.T, initiator bool) (*noise.HandshakeState, noiseConfig) {
	t.Helper()
	c := noiseConfig{psk: (*[32]byte)(v.InitPSKs[0]), initiator: initiator, prologue: v.Prologue}
	ciphers, hashes := noise.CipherChaChaPoly, noise.HashSHA256
	if strings.Contains(v.Name, "AESGCM") {
		ciphers = noise.CipherAESGCM
	}
	if strings.Contains(v.Name, "BLAKE2s") {
		hashes = noise.HashBLAKE2s
	}
	c.suite = noise.NewCipherSuite(noise.DH25519, ciphers, hashes)
	c.pattern, c.placement = noise.HandshakeXX, 3
	if strings.Contains(v.Name, "IKpsk2") {
		c.pattern, c.placement = noise.HandshakeIK, 2
		if initiator {
			c.peer = v.RemoteStatic
		}
	}
	static, ephem := v.RespStatic, v.RespEphem
	if initiator {
		static, ephem = v.InitStatic, v.InitEphem
	}
	e, err := newEphemeral(bytes.NewReader(ephem))
	if err != nil {
		t.Fatal(err)
	}
	c.random = e.source()
	if c.static, err = noise.DH25519.GenerateKeypair(bytes.NewReader(static)); err != nil {
		t.Fatal(err)
	}
	hs, err := c.start()
	if err != nil {
		t.Fatal(err)
	}
	return hs, c
}

// The published vectors of XXpsk3 and IKpsk2 with both ciphers and hashes.
func TestNoiseVectors(t *testing.T) {
	vectors := readVectors(t)
	if len(vectors) != 8 {
		t.Fatalf("%d vectors, want 8", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			sides := make([]*noise.HandshakeState, 2)
			sides[0], _ = v.side(t, true)
			sides[1], _ = v.side(t, false)
			var keys [2][2]*noise.CipherState
			finished := false
			for i, m := range v.Messages {
				from, to := i%2, 1-i%2
				if finished {
					// After the handshake: the first key of the split is the initiator's.
					sealed, err := keys[from][from].Encrypt(nil, nil, m.Payload)
					if err != nil || !bytes.Equal(sealed, m.Ciphertext) {
						t.Fatalf("transport message %d: %x, %v, want %x", i, sealed, err, m.Ciphertext)
					}
					plain, err := keys[to][from].Decrypt(nil, nil, sealed)
					if err != nil || !bytes.Equal(plain, m.Payload) {
						t.Fatalf("transport message %d opened: %x, %v", i, plain, err)
					}
					continue
				}
				message, a, b, err := sides[from].WriteMessage(nil, m.Payload)
				if err != nil || !bytes.Equal(message, m.Ciphertext) {
					t.Fatalf("message %d: %x, %v, want %x", i, message, err, m.Ciphertext)
				}
				payload, c, d, err := sides[to].ReadMessage(nil, message)
				if err != nil || !bytes.Equal(payload, m.Payload) {
					t.Fatalf("message %d read: %x, %v", i, payload, err)
				}
				if a != nil {
					finished = true
					keys[from], keys[to] = [2]*noise.CipherState{a, b}, [2]*noise.CipherState{c, d}
				}
			}
			for i, s := range sides {
				if !bytes.Equal(s.ChannelBinding(), v.Hash) {
					t.Errorf("side %d: handshake hash %x, want %x", i, s.ChannelBinding(), v.Hash)
				}
			}
		})
	}
}

// The responder's own copy of message 1 is what an initiator would have sent:
// in the vectors its first 32 bytes are e, and an honest state reads it.
func TestFirstMessageNeedsNoPrivateKey(t *testing.T) {
	for _, v := range readVectors(t) {
		if !strings.Contains(v.Name, "XXpsk3") {
			continue
		}
		initiator, c := v.side(t, true)
		want, _, _, err := initiator.WriteMessage(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		responder, _ := v.side(t, false)
		got, err := firstMessage(c, [32]byte(v.Messages[0].Ciphertext[:32]))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %x, %v, want %x", v.Name, got, err, want)
		}
		if _, _, _, err := responder.ReadMessage(nil, got); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
	}
}
