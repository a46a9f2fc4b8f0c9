package crypto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// same compares what the text forms carry and what is derived from it.
func same(a, b *Network) bool {
	return a.kind == b.kind && a.policy == b.policy && a.generation == b.generation && a.secret == b.secret && a.admin == b.admin &&
		a.name == b.name && a.id == b.id && a.silence == b.silence && a.controlPSK == b.controlPSK && a.sessionPSK == b.sessionPSK
}

func marshal(t testing.TB, n *Network) []byte {
	t.Helper()
	text, err := n.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func token(t testing.TB, n *Network) string {
	t.Helper()
	s, err := n.Token()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNetworkTextForms(t *testing.T) {
	for _, policy := range []CipherPolicy{CipherAuto, CipherNone} {
		n := testNetwork(t, 1, policy)
		n.generation = 7
		for what, text := range map[string][]byte{
			"file": marshal(t, n), "token": []byte(token(t, n)),
			"token in capitals": []byte("\n " + strings.ToUpper(token(t, n)) + "\r\n"),
			"file of Windows":   bytes.ReplaceAll(marshal(t, n), []byte("\n"), []byte("\r\n")),
		} {
			got, err := ParseNetwork(text)
			if err != nil || !same(got, n) {
				t.Errorf("%v: %s: %v, %v", policy, what, got, err)
			}
		}
	}
}

func TestNetworkIDCommits(t *testing.T) {
	auto, none := testNetwork(t, 1, CipherAuto), testNetwork(t, 1, CipherNone)
	other := testNetwork(t, 2, CipherAuto)
	if auto.secret != none.secret || auto.admin != none.admin {
		t.Fatal("the two differ in more than the policy")
	}
	if auto.ID() == none.ID() || auto.ID() == other.ID() {
		t.Error("another policy or admin key, yet the same network")
	}
	if auto.silence == none.silence || auto.controlPSK == none.controlPSK || auto.sessionPSK == none.sessionPSK {
		t.Error("two networks share a key")
	}
	if auto.silence == auto.controlPSK || auto.controlPSK == auto.sessionPSK {
		t.Error("one key serves two purposes")
	}
	a, _ := ParseNetwork([]byte(strings.Replace(string(marshal(t, auto)), "cipher auto", "cipher none", 1)))
	if a != nil {
		t.Error("a file whose policy was changed is read")
	}
}

func TestParseNetworkRefuses(t *testing.T) {
	n := testNetwork(t, 1, CipherAuto)
	file, tok := string(marshal(t, n)), token(t, n)
	for _, c := range []struct {
		text string
		want error
	}{
		{"", ErrForeign}, {"rs1", ErrForeign}, {"rs", ErrForeign}, {"rs-abc", ErrForeign}, {"rs01-abc", ErrForeign},
		{"rs0-abc", ErrForeign}, {"rs99999-abc", ErrForeign}, {"correct horse battery staple", ErrForeign},
		{"wg1-" + tok[4:], ErrForeign}, {"ripstop network", ErrForeign}, {strings.Repeat("x", maxTextLen+1), ErrForeign},
		{"ripstop network ", ErrForeign}, {"ripstop network x\n", ErrMistyped}, {"ripstop network 01\n", ErrMistyped},
		{"ripstop network 2\nanything", ErrNewerFormat}, {"rs2-anything", ErrNewerFormat},
		{"rs1-", ErrMistyped}, {tok + "a", ErrMistyped}, {tok[:len(tok)-1] + "\n" + tok[len(tok)-1:], ErrMistyped},
		{file + "more\n", ErrMistyped}, {strings.Replace(file, "kind token", "kind passphrase", 1), ErrMistyped},
		{strings.Replace(file, "kind token", "kind x", 1), ErrMistyped}, {strings.Replace(file, "generation 0", "generation 256", 1), ErrMistyped},
		{strings.Replace(file, "generation 0\n", "", 1), ErrMistyped}, {strings.Replace(file, "id ", "id  ", 1), ErrMistyped},
		{strings.Replace(file, n.ID().String(), testNetwork(t, 2, CipherAuto).ID().String(), 1), ErrMistyped},
	} {
		got, err := ParseNetwork([]byte(c.text))
		if got != nil || !errors.Is(err, c.want) {
			t.Errorf("%.40q: %v, %v, want %v", c.text, got, err, c.want)
		}
	}
}

// Every truncation and every changed character of both forms is noticed.
func TestParseNetworkDamage(t *testing.T) {
	n := testNetwork(t, 1, CipherAuto)
	for what, text := range map[string][]byte{"file": bytes.TrimSpace(marshal(t, n)), "token": []byte(token(t, n))} {
		for i := range text {
			if got, err := ParseNetwork(text[:i]); err == nil {
				t.Fatalf("%s cut at %d is read as %v", what, i, got)
			}
			// The secret in the file has no checksum: any 64 digits are a secret.
			if what == "file" && i > bytes.Index(text, []byte("secret")) {
				continue
			}
			for _, c := range []byte("a2Z ~\n") {
				if bytes.EqualFold(text[i:i+1], []byte{c}) {
					continue
				}
				damaged := bytes.Clone(text)
				damaged[i] = c
				if got, err := ParseNetwork(damaged); err == nil && (what != "file" || !generationOnly(got, n)) {
					t.Fatalf("%s with %q at %d is read as %v", what, c, i, got)
				}
			}
		}
	}
}

// generationOnly: one digit of the generation may be changed to another.
func generationOnly(a, b *Network) bool {
	c := &Network{kind: a.kind, policy: a.policy, generation: b.generation, secret: a.secret, admin: a.admin, name: a.name}
	return c.derive() == nil && same(c, b)
}

// In the token two neighbouring characters are a frequent slip.
func TestTokenSwaps(t *testing.T) {
	tok := []byte(token(t, testNetwork(t, 3, CipherAuto)))
	for i := 4; i+1 < len(tok); i++ {
		if tok[i] == tok[i+1] {
			continue
		}
		slip := bytes.Clone(tok)
		slip[i], slip[i+1] = slip[i+1], slip[i]
		if _, err := ParseNetwork(slip); !errors.Is(err, ErrMistyped) {
			t.Fatalf("swapped at %d: %v", i, err)
		}
	}
}

func TestNewNetworkRefuses(t *testing.T) {
	if _, _, err := NewNetwork(nil, 2); err == nil {
		t.Error("an unknown policy makes a network")
	}
	for n := range 64 {
		if _, _, err := NewNetwork(bytes.NewReader(make([]byte, n)), CipherAuto); err == nil {
			t.Fatalf("%d random bytes make a network", n)
		}
	}
	a, _, err := NewNetwork(nil, CipherAuto)
	b, _, err2 := NewNetwork(nil, CipherAuto)
	if err != nil || err2 != nil || a.ID() == b.ID() || a.secret == b.secret {
		t.Errorf("two new networks: %v, %v", err, err2)
	}
}

func TestAdmin(t *testing.T) {
	for _, policy := range []CipherPolicy{CipherAuto, CipherNone} {
		n, admin, err := NewNetwork(seeded(4), policy)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := admin.MarshalText()
		got, err := ParseAdmin(text)
		if err != nil || got.Network() != n.ID() || !got.key.Equal(admin.key) {
			t.Fatalf("%v: %v, %v", policy, got, err)
		}
		trimmed := bytes.TrimSpace(text)
		for i := range trimmed {
			if _, err := ParseAdmin(trimmed[:i]); err == nil {
				t.Fatalf("cut at %d is read", i)
			}
			damaged := bytes.Clone(trimmed)
			damaged[i] ^= 1
			if _, err := ParseAdmin(damaged); err == nil {
				t.Fatalf("changed at %d is read", i)
			}
		}
	}
	_, err := ParseAdmin([]byte("ripstop admin 2\n"))
	wantError(t, "newer admin file", err, ErrNewerFormat)
	_, err = ParseAdmin([]byte("ripstop network 1\n"))
	wantError(t, "network file", err, ErrForeign)
	_, err = ParseAdmin(make([]byte, maxTextLen+1))
	wantError(t, "long file", err, ErrForeign)
}

func TestPassphraseNetwork(t *testing.T) {
	a, err := PassphraseNetwork("correct horse battery", "lab")
	if err != nil {
		t.Fatal(err)
	}
	b, err := PassphraseNetwork("  correct horse battery\n", "lab")
	if err != nil || !same(a, b) {
		t.Errorf("white space around the passphrase counts: %v", err)
	}
	other, err := PassphraseNetwork("correct horse batterz", "lab")
	if err != nil || other.ID() != a.ID() || other.silence != a.silence {
		t.Errorf("ID or silence key depends on the passphrase: %v", err)
	}
	if other.controlPSK == a.controlPSK || other.sessionPSK == a.sessionPSK {
		t.Error("two passphrases, one secret")
	}
	elsewhere, err := PassphraseNetwork("correct horse battery", "lab2")
	if err != nil || elsewhere.ID() == a.ID() || elsewhere.secret == a.secret || elsewhere.silence == a.silence {
		t.Errorf("the network's name counts for nothing: %v", err)
	}
	if !a.Passphrase() || a.Policy() != CipherAuto || a.Name() != "lab" {
		t.Errorf("%v: %v %v %q", a, a.Passphrase(), a.Policy(), a.Name())
	}
	if s, err := a.Token(); s != "" || !errors.Is(err, ErrNoToken) {
		t.Errorf("token %q, %v", s, err)
	}
	text := marshal(t, a)
	if bytes.Contains(text, []byte("horse")) {
		t.Error("the passphrase is in the file")
	}
	got, err := ParseNetwork(text)
	if err != nil || !same(got, a) {
		t.Errorf("read back: %v, %v", got, err)
	}
}

func TestPassphraseRefuses(t *testing.T) {
	for _, p := range []string{"", "elevenchars", "   short    ", "ëëëëëëëëëëë"} {
		if _, err := PassphraseNetwork(p, "lab"); !errors.Is(err, ErrShortPassphrase) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if _, err := PassphraseNetwork(strings.Repeat("x", MaxPassphrase+1), "lab"); err == nil {
		t.Error("a passphrase without end is stretched")
	}
	for _, name := range []string{"", "two words", "line\n", "bell\a", "\xff", strings.Repeat("n", MaxNetworkName+1)} {
		if _, err := PassphraseNetwork("correct horse battery", name); err == nil {
			t.Errorf("network name %q is accepted", name)
		}
	}
}

// No verb and no log handler shows a byte of a secret.
func TestSecretsDoNotPrint(t *testing.T) {
	n, admin, err := NewNetwork(seeded(5), CipherAuto)
	if err != nil {
		t.Fatal(err)
	}
	seed, _ := NewSeed(seeded(5))
	id := testIdentity(t, 5)
	a, b := sessionPair(t, CipherAuto)
	ca, _ := controlPair(t)
	values := map[string]any{"network": n, "admin": admin, "seed": seed, "identity": id, "data": a.Data, "hop": b.Hop, "send": ca.Send, "receive": ca.Receive}
	secrets := [][]byte{n.secret[:], admin.key.Seed(), seed.bytes[:], id.noise.Bytes(), id.sign.Seed(), id.stateKey[:], ca.Send.key[:], ca.Receive.key[:], a.Data.sealIV[:], b.Hop.openIV[:]}
	var out strings.Builder
	log := slog.New(slog.NewJSONHandler(&out, nil))
	text := slog.New(slog.NewTextHandler(&out, nil))
	for what, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%t", "%g"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		log.Info("x", what, v)
		text.Info("x", what, v)
	}
	shown := strings.ToLower(out.String())
	for i, s := range secrets {
		for _, form := range []string{fmt.Sprintf("%x", s), fmt.Sprint(s), string(s), strings.Trim(fmt.Sprint(s), "[]")} {
			if strings.Contains(shown, strings.ToLower(form)) {
				t.Errorf("secret %d is shown as %.20s…", i, form)
			}
		}
	}
	for what, v := range values {
		if reflect.TypeOf(v).Elem().Comparable() && (what == "network" || what == "admin" || what == "seed" || what == "identity") {
			t.Errorf("%s can be compared", what)
		}
	}
}

func TestCipherPolicyText(t *testing.T) {
	for _, p := range []CipherPolicy{CipherAuto, CipherNone} {
		if got, err := ParseCipherPolicy(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if _, err := ParseCipherPolicy("aes"); err == nil {
		t.Error("aes is a policy")
	}
	if !json.Valid([]byte(fmt.Sprintf("%q", CipherPolicy(9)))) {
		t.Error("an unknown policy does not print")
	}
}

// What is read is written back to something that is read as the same.
func FuzzParseNetwork(f *testing.F) {
	n := testNetwork(f, 1, CipherAuto)
	f.Add(marshal(f, n))
	f.Add([]byte(token(f, n)))
	f.Add(marshal(f, testNetwork(f, 1, CipherNone)))
	p := &Network{kind: kindPassphrase, name: "lab"}
	if err := p.derive(); err != nil {
		f.Fatal(err)
	}
	f.Add(marshal(f, p))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := ParseNetwork(text)
		if err != nil {
			if n != nil {
				t.Fatal("a network beside an error")
			}
			return
		}
		again, err := ParseNetwork(marshal(t, n))
		if err != nil || !same(n, again) {
			t.Fatalf("%v: %v", again, err)
		}
	})
}

func FuzzParseAdmin(f *testing.F) {
	_, admin, err := NewNetwork(seeded(4), CipherAuto)
	if err != nil {
		f.Fatal(err)
	}
	text, _ := admin.MarshalText()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAdmin(text)
		if err != nil {
			return
		}
		text, _ = a.MarshalText()
		if again, err := ParseAdmin(text); err != nil || again.Network() != a.Network() {
			t.Fatal(err)
		}
	})
}
