package runtimes

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLink: a link takes the place of what was there, but never that of its own program.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	program, link := filepath.Join(dir, "program"), filepath.Join(dir, "new", "link")
	if err := os.WriteFile(program, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Link(program, link); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(link); to != program {
			t.Errorf("a link to %q, %v", to, err)
		}
	}
	if err := Link(program, program); err == nil {
		t.Error("a program became a link to itself")
	}
	if err := os.Rename(program, link); err != nil {
		t.Fatal(err)
	}
	if err := Link(link, link); err == nil {
		t.Error("a program in the link's place became a link to itself")
	}
	if b, err := os.ReadFile(link); string(b) != "x" {
		t.Errorf("the program is %q, %v", b, err)
	}
}
