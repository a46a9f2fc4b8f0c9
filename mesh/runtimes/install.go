package runtimes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Link makes path a link to program, in the place of what is there by that name, unless
// that is the program itself.
func Link(program, path string) error {
	if there, err := os.Lstat(path); err == nil {
		if own, err := os.Stat(program); err == nil && os.SameFile(own, there) {
			return fmt.Errorf("%s is the program itself: have it stand elsewhere, and run it there", path)
		}
	}
	return Replace(path, func(path string) error { return os.Symlink(program, path) })
}

// Replace makes a file beside path and then gives it that name, so that nobody finds
// half of it. Its directory is made when it is missing.
func Replace(path string, write func(path string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// A name that no runtime takes for a configuration.
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := Remove(fresh); err != nil {
		return err
	}
	err := write(fresh)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		os.Remove(fresh)
	}
	return err
}

// Remove takes a file away. That it is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
