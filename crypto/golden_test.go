package crypto

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// Formats and derivations that stay as they are: hosts of other versions and
// files of earlier ones depend on them.
const (
	goldenName  = "1c5430ee4ea52a8ad788f8f7ac29ad43"
	goldenToken = "rs1-aaaj6el3o4cdkqpthagbt2shnopzm4ueahplvd4zbha6pycsb3d2turamai6ya57dvk3fpgj6fnm2z52jvgz7ejeiimtvcm5o2e33gr2mkpramy6"
	goldenFile  = `ripstop network 1
kind token
id 2a61ff9d9dd5c766967dca7182785ac3
cipher auto
generation 0
admin 9f117b77043541f3380c19ea476b9f96728401deba8f9909c1e7e0520ec7a9d2
secret 206011ec03bf1d55b2bcc9f15acd67ba4d4d9f912442193a899d7689bd9a3a62
`
	goldenPassphraseID = "ba01eff3ab1064205b53d61dc84b6e3f"
	goldenFromA        = "101db47edbe100ad"
	goldenFromB        = "45ff79e70c378371"
	goldenMessage1     = "da55eb61dea5e2ca"
	goldenMessage2     = "17809b647df008e9"
	goldenDatagram     = "470e3b3e0fa795ba"
)

func TestNetworkGolden(t *testing.T) {
	n := testNetwork(t, 1, CipherAuto)
	if got := token(t, n); got != goldenToken {
		t.Errorf("token %s, want %s", got, goldenToken)
	}
	if got := string(marshal(t, n)); got != goldenFile {
		t.Errorf("file\n%s\nwant\n%s", got, goldenFile)
	}
	if got := passphraseNetworkID("default").String(); got != goldenPassphraseID {
		t.Errorf("id of a passphrase network %s, want %s", got, goldenPassphraseID)
	}
}

// The bytes of handshakes between seeded hosts, as SHA-256.
func TestWireGolden(t *testing.T) {
	fromA, fromB := recorded(t, testNetwork(t, 1, CipherAuto))
	h := testHosts(t, CipherAuto)
	i, message1 := h.initiate(t)
	_, message2 := h.accept(t, message1, seeded(21))
	a, err := i.Finish(message2)
	if err != nil {
		t.Fatal(err)
	}
	_, datagram := seal(t, a.Data, []byte("frame"))
	for _, c := range []struct {
		what, want string
		bytes      []byte
	}{
		{"control initiator", goldenFromA, fromA}, {"control responder", goldenFromB, fromB},
		{"session message 1", goldenMessage1, message1}, {"session message 2", goldenMessage2, message2}, {"datagram", goldenDatagram, datagram},
	} {
		sum := sha256.Sum256(c.bytes)
		if got := hex.EncodeToString(sum[:8]); got != c.want {
			t.Errorf("%s: %d bytes, %s, want %s", c.what, len(c.bytes), got, c.want)
		}
	}
}
