package crypto

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// The text forms of a network.
//
// Token: "rs", version, "-", then lower case base32 (RFC 4648, no padding) of
// 70 bytes, which is 112 characters without spare bits:
//
//	offset  0        1            2            34         66         70
//	        │ policy │ generation │ admin public │ secret   │ checksum │
//
// The checksum is the first 4 bytes of SHA-256 over a label and what stands
// before it. It tells a mistyped token from a foreign text; it protects nothing.
//
// File: one line for the format, then one "key value" line for each fact, in
// this order, none missing and none more:
//
//	ripstop network 1
//	kind token                 | kind passphrase
//	id 32 hexadecimal digits
//	cipher auto|none
//	generation 0…255
//	admin 64 hex digits        | name NAME
//	secret 64 hex digits
//
// Admin file:
//
//	ripstop admin 1
//	id 32 hexadecimal digits
//	cipher auto|none
//	key 64 hex digits
const (
	tokenPrefix  = "rs"
	tokenVersion = 1
	tokenLen     = 70
	tokenSumLen  = 4
	fileVersion  = 1
	networkMagic = "ripstop network "
	adminMagic   = "ripstop admin "
	labelToken   = "ripstop token v1"
	maxTextLen   = 4096
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ParseNetwork reads a network file or a token rs1-…; white space around it is
// ignored, and a token may be in capitals. errors.Is tells ErrForeign,
// ErrMistyped and ErrNewerFormat apart.
func ParseNetwork(text []byte) (*Network, error) {
	if len(text) > maxTextLen {
		return nil, fmt.Errorf("crypto: network: %w: %d bytes, at most %d are read", ErrForeign, len(text), maxTextLen)
	}
	s := strings.TrimSpace(string(text))
	if rest, ok := strings.CutPrefix(s, networkMagic); ok {
		return parseNetworkFile(rest)
	}
	if version, body, ok := cutToken(s); ok {
		return parseToken(version, body)
	}
	return nil, fmt.Errorf("crypto: network: %w", ErrForeign)
}

// Token is the network as one line rs1-…; ErrNoToken for passphrase networks.
// Whoever has it is a member.
func (n *Network) Token() (string, error) {
	if n.kind != kindToken {
		return "", fmt.Errorf("crypto: token: %w", ErrNoToken)
	}
	b := make([]byte, 0, tokenLen)
	b = append(b, byte(n.policy), n.generation)
	b = append(b, n.admin[:]...)
	b = append(b, n.secret[:]...)
	sum := tokenSum(b)
	b = append(b, sum[:]...)
	return tokenPrefix + strconv.Itoa(tokenVersion) + "-" + tokenEncoding.EncodeToString(b), nil
}

// cutToken takes "rs", a number and "-" off a text, in small letters or capitals.
func cutToken(s string) (version int, body string, ok bool) {
	head, body, ok := strings.Cut(strings.ToLower(s), "-")
	digits, isToken := strings.CutPrefix(head, tokenPrefix)
	if !ok || !isToken || len(digits) == 0 || len(digits) > 4 {
		return 0, "", false
	}
	version, err := strconv.Atoi(digits)
	if err != nil || version < 1 || strconv.Itoa(version) != digits {
		return 0, "", false
	}
	return version, body, true
}

func parseToken(version int, body string) (*Network, error) {
	if version > tokenVersion {
		return nil, fmt.Errorf("crypto: token rs%d: %w", version, ErrNewerFormat)
	}
	if want := tokenEncoding.EncodedLen(tokenLen); len(body) != want {
		return nil, fmt.Errorf("crypto: token: %w: %d characters after rs1-, not %d", ErrMistyped, len(body), want)
	}
	// The decoder skips line ends, so what it makes of the text is counted too.
	b, err := tokenEncoding.DecodeString(body)
	if err != nil || len(b) != tokenLen {
		return nil, fmt.Errorf("crypto: token: %w: not base32", ErrMistyped)
	}
	b, sum := b[:tokenLen-tokenSumLen], b[tokenLen-tokenSumLen:]
	if want := tokenSum(b); !bytes.Equal(sum, want[:]) {
		return nil, fmt.Errorf("crypto: token: %w: its checksum is wrong", ErrMistyped)
	}
	n := &Network{kind: kindToken, policy: CipherPolicy(b[0]), generation: b[1], admin: SignPublic(b[2:34]), secret: [32]byte(b[34:66])}
	if n.policy != CipherAuto && n.policy != CipherNone {
		return nil, fmt.Errorf("crypto: token: %w: %v is unknown here", ErrNewerFormat, n.policy)
	}
	return n, n.derive()
}

func tokenSum(b []byte) [tokenSumLen]byte {
	sum := sha256.Sum256(append([]byte(labelToken), b...))
	return [tokenSumLen]byte(sum[:tokenSumLen])
}

// MarshalText writes the network file, secret included. A passphrase itself is
// not in it, but its stretched form is: the file needs the same care.
func (n *Network) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%d\n", networkMagic, fileVersion)
	if n.kind == kindPassphrase {
		fmt.Fprintf(&b, "kind passphrase\nid %v\ncipher %v\ngeneration %d\nname %s\n", n.id, n.policy, n.generation, n.name)
	} else {
		fmt.Fprintf(&b, "kind token\nid %v\ncipher %v\ngeneration %d\nadmin %x\n", n.id, n.policy, n.generation, n.admin)
	}
	fmt.Fprintf(&b, "secret %x\n", n.secret)
	return b.Bytes(), nil
}

func parseNetworkFile(rest string) (*Network, error) {
	f, err := newFactReader("network file", rest)
	if err != nil {
		return nil, err
	}
	n := new(Network)
	switch kind := f.fact("kind"); kind {
	case "token":
		n.kind = kindToken
	case "passphrase":
		n.kind = kindPassphrase
	default:
		f.fail("kind", "unknown")
	}
	id := NetworkID(f.hex("id", len(n.id)))
	n.policy = f.policy()
	generation, err := strconv.ParseUint(f.fact("generation"), 10, 8)
	if err != nil {
		f.fail("generation", "not a number up to 255")
	}
	n.generation = uint8(generation)
	if n.kind == kindPassphrase {
		n.name = f.fact("name")
		if f.err == nil && checkNetworkName(n.name) != nil {
			f.fail("name", "not a network name")
		}
	} else {
		n.admin = SignPublic(f.hex("admin", len(n.admin)))
	}
	n.secret = [32]byte(f.hex("secret", len(n.secret)))
	if err := f.end(); err != nil {
		return nil, err
	}
	if err := n.derive(); err != nil {
		return nil, err
	}
	if n.id != id {
		return nil, fmt.Errorf("crypto: network file: %w: its id belongs to another network", ErrMistyped)
	}
	return n, nil
}

// MarshalText writes the admin file, private key included.
func (a *Admin) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%s%d\nid %v\ncipher %v\nkey %x\n", adminMagic, fileVersion, a.Network(), a.policy, a.key.Seed()), nil
}

// ParseAdmin reads what Admin.MarshalText wrote; white space around it is ignored.
func ParseAdmin(text []byte) (*Admin, error) {
	if len(text) > maxTextLen {
		return nil, fmt.Errorf("crypto: admin file: %w: %d bytes, at most %d are read", ErrForeign, len(text), maxTextLen)
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(string(text)), adminMagic)
	if !ok {
		return nil, fmt.Errorf("crypto: admin file: %w", ErrForeign)
	}
	f, err := newFactReader("admin file", rest)
	if err != nil {
		return nil, err
	}
	id := NetworkID(f.hex("id", len(NetworkID{})))
	policy := f.policy()
	seed := f.hex("key", ed25519.SeedSize)
	if err := f.end(); err != nil {
		return nil, err
	}
	a := new(Admin)
	a.set(seed, policy)
	if a.Network() != id {
		return nil, fmt.Errorf("crypto: admin file: %w: its id belongs to another network", ErrMistyped)
	}
	return a, nil
}

// factReader reads the "key value" lines of a file in their fixed order and
// keeps the first error. What it returns after an error has the right length
// and means nothing.
type factReader struct {
	what  string
	lines []string
	err   error
}

// newFactReader checks the version, which stands on the first line of rest.
func newFactReader(what, rest string) (*factReader, error) {
	first, rest, _ := strings.Cut(rest, "\n")
	first = strings.TrimSuffix(first, "\r")
	version, err := strconv.ParseUint(first, 10, 32)
	if err != nil || version < 1 || strconv.FormatUint(version, 10) != first {
		return nil, fmt.Errorf("crypto: %s: %w: no format number", what, ErrMistyped)
	}
	if version > fileVersion {
		return nil, fmt.Errorf("crypto: %s of format %d: %w", what, version, ErrNewerFormat)
	}
	return &factReader{what: what, lines: strings.Split(rest, "\n")}, nil
}

func (f *factReader) fail(key, why string) {
	if f.err == nil {
		f.err = fmt.Errorf("crypto: %s: %w: %s: %s", f.what, ErrMistyped, key, why)
	}
}

func (f *factReader) fact(key string) string {
	if f.err != nil {
		return ""
	}
	if len(f.lines) == 0 {
		f.fail(key, "missing")
		return ""
	}
	value, ok := strings.CutPrefix(strings.TrimSuffix(f.lines[0], "\r"), key+" ")
	if !ok {
		f.fail(key, "missing")
		return ""
	}
	f.lines = f.lines[1:]
	return value
}

// hex reads n bytes; the file writes small letters, and only those are read.
func (f *factReader) hex(key string, n int) []byte {
	b := make([]byte, n)
	value := f.fact(key)
	if f.err != nil {
		return b
	}
	if len(value) != 2*n || value != strings.ToLower(value) {
		f.fail(key, fmt.Sprintf("not %d hexadecimal digits", 2*n))
		return b
	}
	if _, err := hex.Decode(b, []byte(value)); err != nil {
		f.fail(key, "not hexadecimal")
	}
	return b
}

func (f *factReader) policy() CipherPolicy {
	p, err := ParseCipherPolicy(f.fact("cipher"))
	if err != nil {
		f.fail("cipher", "neither auto nor none")
	}
	return p
}

func (f *factReader) end() error {
	if f.err == nil && len(f.lines) > 0 {
		f.fail("end", "more lines than the format has")
	}
	return f.err
}
