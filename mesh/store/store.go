// Package store is the state directory of a host: small files that survive crashes,
// held by one daemon at a time.
//
//	STATE/            0700
//	  format          "ripstop state 1"; a directory of another format is left untouched
//	  lock            flock held while the store is open, with the holder's pid in it
//	  seed            0600, the host's root secret
//	  network         0600, network ID, cipher policy, shared secret
//	  admin           0600, the network's private admin key, on the host that made it
//	  targets         JSON, the dial list
//	  endpoints       JSON, what is attached
//	  numbering       JSON, the range that addresses are given out of
//	  ipam.1  ipam.2  the journal of addresses, two generations; see Journal
//	  names           JSON, the DNS names added by hand
//	  NAME.tmp        a write that was interrupted; removed at the next Open
//
// A file is replaced whole: written beside, synced, renamed, and the directory
// synced, so after a crash it is either the old one or the new one. Everything goes
// through os.Root: no name, and no symbolic link laid into the directory, leads out
// of it.
//
// The store knows no keys: a caller that wants a file sealed seals it.
//
// Read store.go first, then file.go and journal.go.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The names of the files of a host's state.
const (
	Seed      = "seed"
	Network   = "network"
	Admin     = "admin"
	Targets   = "targets"
	Endpoints = "endpoints"
	Addresses = "ipam" // a journal
	Numbering = "numbering"
	Names     = "names"
)

const (
	formatFile = "format"
	lockFile   = "lock"
	format     = "ripstop state 1"
	tempSuffix = ".tmp"
)

// Store is an open state directory. Its methods may be called from several goroutines.
type Store struct {
	dir  string
	root *os.Root
	lock *os.File
	made bool       // Open made the directory
	mu   sync.Mutex // serialises writes, whose temporary names would clash
}

// LockedError says which process holds a state directory.
type LockedError struct {
	Dir string
	PID int // 0 when it cannot be told
}

// Error names the holder.
func (e *LockedError) Error() string {
	holder := ""
	if e.PID != 0 {
		holder = fmt.Sprintf(", process %d", e.PID)
	}
	return fmt.Sprintf("store: state directory %s: another daemon runs on it%s: end that by `ripstop stop`, or choose another directory by --state", e.Dir, holder)
}

// FormatError says that a state directory was not written by this version, or not by
// ripstop at all.
type FormatError struct {
	Dir   string
	Found string // the first line of its format file, cut to a sensible length; empty = it has none
}

// Error says what was found and what helps.
func (e *FormatError) Error() string {
	if e.Found == "" {
		return fmt.Sprintf("store: state directory %s: there are files in it, but it is no state directory of ripstop: choose another one by --state", e.Dir)
	}
	return fmt.Sprintf("store: state directory %s: it has the format %q, this version knows %q: run the version that wrote it, or choose another directory by --state", e.Dir, e.Found, format)
}

// Open opens dir, makes it when it is missing or empty, and locks it until Close.
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store: state directory %s: %w", dir, err)
	}
	_, err = os.Lstat(abs)
	made := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, openError(dir, err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, openError(dir, err)
	}
	s := &Store{dir: dir, root: root, made: made}
	if err := s.open(); errors.Is(err, fs.ErrPermission) {
		s.Close()
		return nil, fmt.Errorf("%w%s", err, remedy)
	} else if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// remedy is what helps a user who may not use a directory.
const remedy = ": run it as root, or choose a directory of your own by --state"

// openError says which directory cannot be opened.
func openError(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("store: state directory %s: %w%s", dir, err, remedy)
	}
	return fmt.Errorf("store: state directory %s: %w", dir, err)
}

func (s *Store) open() error {
	// The format comes first, so that a foreign directory does not even get a lock file.
	fresh, err := s.checkFormat()
	if err != nil {
		return err
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if fresh { // whoever waited for the lock may find it done
		if fresh, err = s.checkFormat(); err != nil {
			return err
		}
	}
	if err := s.root.Chmod(".", 0o700); err != nil {
		return s.wrap("set its mode", err)
	}
	if fresh {
		return s.WriteFile(formatFile, []byte(format+"\n"), 0o600)
	}
	return s.sweep()
}

// checkFormat reports whether the directory is still to be filled.
func (s *Store) checkFormat() (fresh bool, err error) {
	b, err := s.readFile(formatFile, maxFormat)
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := fs.ReadDir(s.root.FS(), ".")
		if err != nil {
			return false, s.wrap("list", err)
		}
		for _, e := range entries {
			// What an interrupted first Open leaves is no sign of anybody else.
			if e.Name() != lockFile && e.Name() != formatFile+tempSuffix {
				return false, &FormatError{Dir: s.dir}
			}
		}
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if line, _, _ := strings.Cut(string(b), "\n"); line != format {
		if line == "" {
			line = "empty"
		}
		return false, &FormatError{Dir: s.dir, Found: line}
	}
	return false, nil
}

// maxFormat bounds the format file, bytes.
const maxFormat = 128

// takeLock takes the lock or says who has it.
func (s *Store) takeLock() error {
	f, err := s.root.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return s.wrap("lock", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return s.wrap("lock", err)
		}
		b, _ := io.ReadAll(io.LimitReader(f, 32))
		pid, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
		return &LockedError{Dir: s.dir, PID: pid}
	}
	s.lock = f
	if err := f.Truncate(0); err != nil {
		return s.wrap("lock", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return s.wrap("lock", err)
	}
	return nil
}

// sweep removes what interrupted writes left.
func (s *Store) sweep() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return s.wrap("list", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), tempSuffix) {
			if err := s.root.Remove(e.Name()); err != nil {
				return s.wrap("remove "+e.Name(), err)
			}
		}
	}
	return nil
}

func (s *Store) wrap(doing string, err error) error {
	return fmt.Errorf("store: state directory %s: %s: %w", s.dir, doing, err)
}

// Dir is the directory as it was given to Open.
func (s *Store) Dir() string { return s.dir }

// Made reports whether Open made the directory: it held nothing before.
func (s *Store) Made() bool { return s.made }

// Close gives the directory free. It may be called more than once.
func (s *Store) Close() error {
	var errs []error
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	errs = append(errs, s.root.Close())
	for _, err := range errs {
		if err != nil && !errors.Is(err, os.ErrClosed) {
			return s.wrap("close", err)
		}
	}
	return nil
}

// Clear removes every plain file in the directory, the lock last, and then the
// directory itself if it is empty and this user may: one that a service manager made
// is its own. Seed, network and admin key are gone. Nothing but Close may follow.
func (s *Store) Clear() error {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return s.wrap("list", err)
	}
	var errs []error
	for _, e := range entries {
		// The lock goes last: a daemon that starts meanwhile still meets it.
		if e.Type().IsRegular() && e.Name() != lockFile {
			errs = append(errs, s.root.Remove(e.Name()))
		}
	}
	errs = append(errs, s.root.Remove(lockFile))
	if err := errors.Join(errs...); err != nil {
		return s.wrap("remove", err)
	}
	if err := os.Remove(s.dir); err != nil && !mayStay(err) {
		return s.wrap("remove", err)
	}
	return nil
}

// mayStay reports whether a directory that was emptied may be left: somebody else's files
// are in it, or it is not for this user or from this mount namespace to remove.
func mayStay(err error) bool {
	for _, reason := range []error{unix.ENOTEMPTY, unix.EBUSY, unix.EROFS, fs.ErrPermission, fs.ErrNotExist} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}
