package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary play a second daemon.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_CHILD"); dir != "" {
		_, err := Open(dir)
		fmt.Print(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWhatIsWrittenIsReadAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	s := open(t, dir)
	if err := s.WriteFile(Seed, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteFile(Seed, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Save(s, Targets, []string{"vm1", "vm2"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "network.tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	b, err := s.ReadFile(Seed)
	if err != nil || string(b) != "new" {
		t.Errorf("seed %q, %v", b, err)
	}
	targets, err := Load[[]string](s, Targets)
	if err != nil || !slices.Equal(targets, []string{"vm1", "vm2"}) {
		t.Errorf("targets %v, %v", targets, err)
	}
	none, err := Load[map[string]int](s, Endpoints)
	if err != nil || none != nil {
		t.Errorf("a file that is not there: %v, %v", none, err)
	}
	if _, err := s.ReadFile(Network); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"format", "lock", "seed", "targets"}) {
		t.Errorf("files %v", got)
	}
	for name, want := range map[string]fs.FileMode{".": 0o700, Seed: 0o600, Targets: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode().Perm(), want, err)
		}
	}
	if err := errors.Join(s.Remove(Seed), s.Remove(Seed)); err != nil {
		t.Error(err)
	}
}

func TestASecondDaemonIsToldThePID(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir)
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("in this process: %v", err)
	}
	if !strings.Contains(err.Error(), "`ripstop stop`") || !strings.Contains(err.Error(), "--state") {
		t.Errorf("it does not say what to do: %v", err)
	}
	second := func() string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STORE_CHILD="+dir)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got, want := second(), fmt.Sprintf("process %d", os.Getpid()); !strings.Contains(got, want) {
		t.Errorf("in another process: %q, want a text with %q", got, want)
	}
	s.Close()
	if got := second(); got != "<nil>" {
		t.Errorf("after Close: %q", got)
	}
}

func TestForeignDirectoriesAreLeftUntouched(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		found string
	}{
		{"other format", map[string]string{"format": "ripstop state 2\n", "seed": "x"}, "ripstop state 2"},
		{"empty format", map[string]string{"format": ""}, "empty"},
		{"somebody's files", map[string]string{"thesis.txt": "chapter 1"}, ""},
		{"a seed without a format", map[string]string{"seed": "x"}, ""},
	} {
		dir := t.TempDir()
		for name, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		before := names(t, dir)
		_, err := Open(dir)
		var format *FormatError
		if !errors.As(err, &format) || format.Found != c.found || !strings.Contains(err.Error(), "--state") {
			t.Errorf("%s: %v", c.name, err)
		}
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o755 || !slices.Equal(names(t, dir), before) {
			t.Errorf("%s: the directory was touched: %v %v", c.name, names(t, dir), info.Mode())
		}
	}
	// An Open that was interrupted before the format stood is not foreign.
	dir := t.TempDir()
	for _, name := range []string{"lock", "format.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir)
}

func TestNothingLeadsOut(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := open(t, dir)
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.ReadFile("link"); err == nil {
		t.Errorf("read %q through a link", b)
	}
	for _, name := range []string{"../x", "/etc/x", "x.tmp", ""} {
		if err := s.WriteFile(name, nil, 0o600); err == nil {
			t.Errorf("%q was written", name)
		}
	}
	if err := s.WriteFile("link", []byte("ours"), 0o600); err != nil { // replaces the link itself
		t.Error(err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "theirs" {
		t.Errorf("outside is now %q", b)
	}
}

func TestLimitsAndDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.WriteFile(Endpoints, make([]byte, MaxFile+1), 0o600); err == nil {
		t.Error("too much was written")
	}
	if err := os.WriteFile(filepath.Join(dir, Endpoints), make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadFile(Endpoints); err == nil {
		t.Error("too much was read")
	}
	if err := s.WriteFile(Targets, []byte(`["vm1"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := Load[[]string](s, Targets); err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "remove that file") || v != nil {
		t.Errorf("damaged JSON: %v %v", v, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadFile("dir"); err == nil {
		t.Error("a directory was read")
	}
}

func TestConcurrentWritesLeaveOneWhole(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := s.WriteFile(Targets, bytes.Repeat([]byte{byte('a' + i)}, 1000), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := s.ReadFile(Targets)
	if err != nil || len(b) != 1000 || bytes.Count(b, b[:1]) != 1000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestClear(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	if err := s.WriteFile(Seed, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Clear(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory is still there")
	}
	// What is not a plain file of ours stays, and so does the directory.
	s = open(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "theirs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Clear(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"theirs"}) {
		t.Errorf("left: %v", got)
	}
}

// TestMayStay: what a service manager made for the daemon is emptied, and that it stays is
// no fault.
func TestMayStay(t *testing.T) {
	for errno, want := range map[unix.Errno]bool{
		unix.EROFS: true, unix.EACCES: true, unix.EPERM: true, unix.EBUSY: true, unix.ENOTEMPTY: true, unix.ENOENT: true,
		unix.EIO: false,
	} {
		if got := mayStay(&fs.PathError{Op: "remove", Path: "state", Err: errno}); got != want {
			t.Errorf("%v: %v", errno, got)
		}
	}
}

// TestPeek reads beside the daemon that has the directory open, and leaves no trace.
func TestPeek(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if v, err := Peek[[]string](dir, Targets); v != nil || err != nil {
		t.Errorf("no directory: %v, %v", v, err)
	}
	s := open(t, dir)
	if err := Save(s, Targets, []string{"vm1"}); err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	if v, err := Peek[[]string](dir, Targets); !slices.Equal(v, []string{"vm1"}) || err != nil {
		t.Errorf("%v, %v", v, err)
	}
	if v, err := Peek[[]string](dir, Names); v != nil || err != nil {
		t.Errorf("no such file: %v, %v", v, err)
	}
	if after := names(t, dir); !slices.Equal(before, after) {
		t.Errorf("%v before, %v after", before, after)
	}
	if _, err := Peek[[]string](filepath.Join(dir, Targets), Names); err == nil {
		t.Error("a file in the place of the directory")
	}
}
