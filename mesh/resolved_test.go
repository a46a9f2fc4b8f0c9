package mesh

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSetResolved: what resolvectl is told, and that the first refusal ends it.
func TestSetResolved(t *testing.T) {
	dir := t.TempDir()
	log, program := filepath.Join(dir, "log"), filepath.Join(dir, "resolvectl")
	for _, c := range []struct{ exit, want string }{
		{"0", "domain br0 ~x.internal\ndefault-route br0 false\ndns br0 169.254.83.53\n"},
		{"1", "domain br0 ~x.internal\n"},
	} {
		os.Remove(log)
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >> "+log+"\necho no bus >&2\nexit "+c.exit+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := setResolved(context.Background(), program, "br0", netip.MustParseAddr("169.254.83.53"), "x.internal")
		if (err == nil) != (c.exit == "0") || err != nil && !strings.Contains(err.Error(), "no bus") {
			t.Errorf("exit %s: %v", c.exit, err)
		}
		if got, _ := os.ReadFile(log); string(got) != c.want {
			t.Errorf("exit %s: told %q, not %q", c.exit, got, c.want)
		}
	}
}

// TestResolvedHas: what resolvectl prints of an interface.
func TestResolvedHas(t *testing.T) {
	program := filepath.Join(t.TempDir(), "resolvectl")
	for printed, want := range map[string]bool{
		"Link 5 (br0): ~x.internal":       true,
		"Link 5 (br0): lan ~x.internal ~": true,
		"Link 5 (br0): x.internal":        false,
		"Link 5 (br0):":                   false,
	} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n[ \"$*\" = 'domain br0' ] && echo '"+printed+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if has, err := resolvedHas(context.Background(), program, "br0", "x.internal"); has != want || err != nil {
			t.Errorf("%s: %v, %v", printed, has, err)
		}
	}
	if _, err := resolvedHas(context.Background(), program, "br1", "x.internal"); err == nil {
		t.Error("a refusal is no error")
	}
}
