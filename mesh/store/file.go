package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// MaxFile bounds a file of the state, bytes.
const MaxFile = 16 << 20

// ReadFile reads a whole file; one that is not there is errors.Is fs.ErrNotExist.
func (s *Store) ReadFile(name string) ([]byte, error) { return s.readFile(name, MaxFile) }

func (s *Store) readFile(name string, limit int64) ([]byte, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return nil, s.wrap("read "+name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, s.wrap("read "+name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, s.wrap("read "+name, errors.New("not a regular file"))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, s.wrap("read "+name, err)
	}
	if int64(len(b)) > limit {
		return nil, s.wrap("read "+name, fmt.Errorf("it has more than %d bytes", limit))
	}
	return b, nil
}

// WriteFile replaces a file, durably: when it returns nil, a crash does not bring
// the old one back.
func (s *Store) WriteFile(name string, data []byte, perm fs.FileMode) error {
	if len(data) > MaxFile {
		return s.wrap("write "+name, fmt.Errorf("%d bytes are more than %d", len(data), MaxFile))
	}
	if strings.HasSuffix(name, tempSuffix) {
		return s.wrap("write "+name, errors.New("names of that form are the store's own"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.replace(name, data, perm); err != nil {
		return s.wrap("write "+name, err)
	}
	return nil
}

// create makes an empty file in place of whatever has the name.
func (s *Store) create(name string, perm fs.FileMode) (*os.File, error) {
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(perm); err != nil { // the umask may have taken something
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *Store) replace(name string, data []byte, perm fs.FileMode) error {
	temp := name + tempSuffix
	f, err := s.create(temp, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = s.root.Rename(temp, name)
	}
	if err != nil {
		s.root.Remove(temp)
		return err
	}
	return s.syncDir()
}

// syncDir makes renames and removals durable.
func (s *Store) syncDir() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Remove removes a file, durably. One that is not there is no error.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.syncDir()
	}
	if err != nil {
		return s.wrap("remove "+name, err)
	}
	return nil
}

// Load reads a JSON file that Save wrote. One that is not there is the zero T and no error.
func Load[T any](s *Store, name string) (T, error) {
	var v T
	b, err := s.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		var zero T
		return zero, s.wrap("read "+name, fmt.Errorf("it is damaged: %w: bring it back from a backup, or remove that file, and what it says is forgotten", err))
	}
	return v, nil
}

// Peek reads a JSON file that Save wrote into the state directory dir, whoever has that
// open: nothing is locked, made or changed. One that is not there is the zero T and no error.
func Peek[T any](dir, name string) (T, error) {
	var none T
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, openError(dir, err)
	}
	defer root.Close()
	return Load[T](&Store{dir: dir, root: root}, name)
}

// Save writes v as JSON, mode 0600.
func Save[T any](s *Store, name string, v T) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return s.wrap("write "+name, err)
	}
	return s.WriteFile(name, append(b, '\n'), 0o600)
}
