package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NewAnonymous makes a namespace that lives until its last user is gone: the NS,
// sockets opened in it, processes started in it. Its loopback interface is down.
func NewAnonymous() (*NS, error) {
	var ns *NS
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: make a namespace: %w", explain(err))
		}
		var err error
		ns, err = Open(threadPath)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// NewNamed makes a namespace and keeps it as the file name in dir, which is made
// when it is missing: a bind mount in the caller's mount namespace, as iproute2
// makes them, so it outlives the caller until Delete. It works as well inside a
// user namespace that has a mount namespace of its own, for a dir that may be
// written there. A name that exists is refused (errors.Is fs.ErrExist).
func NewNamed(dir, name string) (*NS, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("netns: make %s: %w", name, err)
	}
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("netns: make %s: %w", name, err)
	}
	file.Close()
	ns, err := NewAnonymous()
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	// The descriptor's own link is mounted, not the thread's: the thread that made
	// the namespace is home again.
	source := fmt.Sprintf("/proc/self/fd/%d", ns.FD())
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		ns.Close()
		os.Remove(path)
		return nil, fmt.Errorf("netns: make %s: mount %s: %w", name, path, explain(err))
	}
	return ns, nil
}

// Delete takes away what NewNamed made. The namespace itself ends with its last
// user. It is no error when there is nothing of that name; a file that is no
// network namespace is left alone, unless it is the empty one that a maker who
// died half-way left.
func Delete(dir, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	ns, err := Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, ErrNotNamespace):
		if st, statErr := os.Lstat(path); statErr != nil || !st.Mode().IsRegular() || st.Size() != 0 {
			return fmt.Errorf("netns: delete %s: %w", name, err)
		}
	case err != nil:
		return err
	default:
		ns.Close()
		// Detached: a namespace in use elsewhere must not keep its name.
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("netns: delete %s: unmount %s: %w", name, path, explain(err))
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("netns: delete %s: %w", name, err)
	}
	return nil
}
