package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ripstop/mesh/store"
	"ripstop/mesh/store/storetest"
)

// entry is what the tests append: a number that can be checked.
func entry(n int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(n))
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// entries are the numbers in a generation up to the first that is not whole.
func entries(b []byte) (list []int) {
	for ; len(b) >= 8 && crc32.ChecksumIEEE(b[:4]) == binary.BigEndian.Uint32(b[4:]); b = b[8:] {
		list = append(list, int(binary.BigEndian.Uint32(b)))
	}
	return list
}

func snapshot(upTo int) (b []byte) {
	for n := range upTo {
		b = append(b, entry(n)...)
	}
	return b
}

// suite is what a journal promises; reopen is a start of the host.
func suite(t *testing.T, reopen func() (*store.Journal, [][]byte, error)) {
	open := func(want ...string) *store.Journal {
		t.Helper()
		j, list, err := reopen()
		if err != nil || fmt.Sprintf("%q", list) != fmt.Sprintf("%q", want) {
			t.Fatalf("generations %q, %v, want %q", list, err, want)
		}
		return j
	}
	j := open()
	if j.Append([]byte("x")) == nil || j.Sync() == nil {
		t.Error("appended before the first snapshot")
	}
	for i, text := range []string{"one", "two", "three"} {
		if err := errors.Join(j.Rotate([]byte(text)), j.Append([]byte("+")), j.Append([]byte("+")), j.Sync()); err != nil {
			t.Fatal(err)
		}
		if want := []int{5, 5, 7}[i]; j.Size() != want {
			t.Errorf("size %d, want %d", j.Size(), want)
		}
	}
	j = open("three++", "two++")
	if err := errors.Join(j.Rotate([]byte("four")), j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	if j.Append([]byte("x")) == nil {
		t.Error("appended after Close")
	}
	j = open("four", "three++")
	if err := j.Rotate(make([]byte, store.MaxJournal+1)); err == nil {
		t.Error("too much was written")
	}
	open("four", "three++")
}

func TestJournalOnADisk(t *testing.T) {
	dir := t.TempDir()
	var s *store.Store
	suite(t, func() (*store.Journal, [][]byte, error) {
		if s != nil {
			s.Close()
		}
		var err error
		if s, err = store.Open(dir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s.Journal("j")
	})
	for _, name := range []string{"j.1", "j.2"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "j.1.tmp")); err == nil {
		t.Error("a file is left beside")
	}
}

func TestJournalInMemory(t *testing.T) {
	disk := storetest.NewDisk()
	suite(t, func() (*store.Journal, [][]byte, error) {
		disk.Crash(nil)
		return store.OpenJournal(disk, "j")
	})
}

var errStopped = errors.New("stopped")

// write runs a journal through appends and rotations until it fails, and returns how
// many numbers were acknowledged.
func write(disk *storetest.Disk, from int) (acked int, err error) {
	j, _, err := store.OpenJournal(disk, "j")
	if err == nil {
		err = j.Rotate(snapshot(from))
	}
	for n := from; err == nil && n < from+12; n++ {
		acked = n
		if n%5 == 4 {
			err = j.Rotate(snapshot(n + 1))
		} else {
			err = errors.Join(j.Append(entry(n)), j.Sync())
		}
	}
	return acked, err
}

// TestAJournalSurvivesEveryStop: the host dies at each operation in turn, some of
// what was not synced is there and some not; what was acknowledged is there always,
// in the first generation that can be read.
func TestAJournalSurvivesEveryStop(t *testing.T) {
	stops := 0
	for at := 1; ; at++ {
		ended := false
		for seed := range uint64(8) {
			disk := storetest.NewDisk()
			rng := rand.New(rand.NewPCG(seed, uint64(at)))
			from := 0
			for range 2 { // and once more on what is left
				n := 0
				disk.Fail = func(string) error {
					if n++; n >= at {
						return errStopped
					}
					return nil
				}
				acked, err := write(disk, from)
				ended = err == nil
				disk.Fail = nil
				if seed == 0 {
					disk.Crash(nil) // only the daemon was killed
				} else {
					disk.Crash(rng)
				}
				_, list, err := store.OpenJournal(disk, "j")
				if err != nil || acked > 0 && len(list) == 0 {
					t.Fatalf("stop %d, seed %d: %d generations, %v", at, seed, len(list), err)
				}
				var got []int
				if len(list) > 0 {
					got = entries(list[0])
				}
				if len(got) < acked {
					t.Fatalf("stop %d, seed %d: %d of %d numbers are there", at, seed, len(got), acked)
				}
				for i, n := range got {
					if n != i {
						t.Fatalf("stop %d, seed %d: numbers %v", at, seed, got)
					}
				}
				from = len(got)
			}
			stops++
		}
		if ended {
			break
		}
	}
	t.Logf("%d stops", stops)
}

// TestAFailedWriteEndsAGeneration: after an error nothing can be appended until the
// journal is written anew, and that works as soon as there is space.
func TestAFailedWriteEndsAGeneration(t *testing.T) {
	for _, operation := range []string{"write", "sync", "create", "rename", "sync directory", "full"} {
		disk := storetest.NewDisk()
		j, _, err := store.OpenJournal(disk, "j")
		if err := errors.Join(err, j.Rotate(snapshot(3))); err != nil {
			t.Fatal(err)
		}
		disk.Full = operation == "full"
		disk.Fail = func(o string) error {
			if o == operation {
				return errStopped
			}
			return nil
		}
		err = errors.Join(j.Append(entry(3)), j.Sync(), j.Rotate(snapshot(4)))
		if err == nil || !strings.HasPrefix(err.Error(), "store: journal j: ") {
			t.Errorf("%s: %v", operation, err)
		}
		if j.Append(entry(4)) == nil {
			t.Errorf("%s: appended to what is not known", operation)
		}
		disk.Fail, disk.Full = nil, false
		if err := errors.Join(j.Rotate(snapshot(5)), j.Append(entry(5)), j.Sync()); err != nil {
			t.Errorf("%s: %v", operation, err)
		}
		disk.Crash(rand.New(rand.NewPCG(1, 1)))
		if _, list, err := store.OpenJournal(disk, "j"); err != nil || len(list) != 2 || len(entries(list[0])) != 6 {
			t.Errorf("%s: %d generations, %v", operation, len(list), err)
		}
	}
}

// TestDamagedGenerations: what cannot be told to be older comes first, and is what is
// replaced; a newer format is left alone.
func TestDamagedGenerations(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	reopen := func() (*store.Journal, [][]byte) {
		t.Helper()
		j, list, err := s.Journal("j")
		if err != nil {
			t.Fatal(err)
		}
		return j, list
	}
	j, _ := reopen()
	if err := errors.Join(j.Rotate([]byte("one")), j.Rotate([]byte("two"))); err != nil {
		t.Fatal(err)
	}
	whole := map[string][]byte{}
	for _, name := range []string{"j.1", "j.2"} {
		b, err := s.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		whole[name] = b
	}
	for name, b := range whole {
		other := whole[map[string]string{"j.1": "j.2", "j.2": "j.1"}[name]]
		for cut := range len(b) {
			if err := s.WriteFile(name, b[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			j, list := reopen()
			if len(list) != 2 || cut < len(b)-3 && !bytes.Equal(list[0], b[:cut]) {
				t.Fatalf("%s cut to %d: %q", name, cut, list)
			}
			if cut < len(b)-3 {
				if err := j.Rotate([]byte("new")); err != nil {
					t.Fatal(err)
				}
				if _, list := reopen(); string(list[0]) != "new" || !bytes.HasSuffix(other, list[1]) {
					t.Fatalf("%s cut to %d, then begun anew: %q", name, cut, list)
				}
			}
		}
		if err := s.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newer := []byte("ripstop journal 2 something else")
	if err := s.WriteFile("j.1", newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Journal("j"); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("newer format: %v", err)
	}
	if b, err := s.ReadFile("j.1"); err != nil || !bytes.Equal(b, newer) {
		t.Errorf("newer format: it is now %q, %v", b, err)
	}
}

func FuzzOpenJournal(f *testing.F) {
	f.Add([]byte("ripstop journal 1 0000000000000007\nbody"), []byte("ripstop journal 1 0000000000000008\n"))
	f.Add([]byte("ripstop journal 2 "), []byte{})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		disk := storetest.NewDisk()
		for name, text := range map[string][]byte{"j.1": a, "j.2": b} {
			file, err := disk.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			file.Write(text)
		}
		j, list, err := store.OpenJournal(disk, "j")
		if err != nil {
			return
		}
		if len(list) != 2 {
			t.Fatalf("%d generations", len(list))
		}
		if err := j.Rotate([]byte("new")); err != nil {
			t.Fatal(err)
		}
		if _, list, err := store.OpenJournal(disk, "j"); err != nil || len(list) != 2 {
			t.Fatalf("%q, %v", list, err)
		}
	})
}
