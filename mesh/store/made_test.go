package store

import (
	"path/filepath"
	"testing"
)

// TestMade: whoever fails may take away again what was not there before, and only that.
func TestMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for _, want := range []bool{true, false} {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if s.Made() != want {
			t.Errorf("made %v, want %v", s.Made(), want)
		}
		s.Close()
	}
	empty := t.TempDir()
	s, err := Open(empty)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Made() {
		t.Error("an empty directory that was there counts as made")
	}
}
