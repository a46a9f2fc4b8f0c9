package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Directories in which a bare name is looked for, in this order: that of
// iproute2, then Docker's.
const (
	RunDir    = "/run/netns"
	DockerDir = "/var/run/docker/netns"
)

// ErrOwn is what Parse says of the caller's own namespace.
var ErrOwn = errors.New("that is this host's own network namespace, which cannot be attached to itself: `ripstop expose` gives the host an address")

// Parse opens the namespace that a person named: "pid:123", a path (anything with
// a slash), or a name under RunDir or DockerDir. The caller's own namespace is
// refused with ErrOwn.
func Parse(arg string) (*NS, error) {
	ns, err := parse(arg)
	if err != nil {
		return nil, err
	}
	own, err := Current()
	if err != nil {
		ns.Close()
		return nil, err
	}
	defer own.Close()
	if Same(ns, own) {
		ns.Close()
		return nil, fmt.Errorf("netns: %s: %w", arg, ErrOwn)
	}
	return ns, nil
}

func parse(arg string) (*NS, error) {
	if text, ok := strings.CutPrefix(arg, "pid:"); ok {
		pid, err := strconv.Atoi(text)
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("netns: %q: pid: is followed by a process number", arg)
		}
		ns, err := OpenPID(pid)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("netns: %s: there is no such process: %w", arg, fs.ErrNotExist)
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("netns: %s: another user's process: root, or CAP_SYS_PTRACE, is needed: %w", arg, fs.ErrPermission)
		}
		return ns, err
	}
	if strings.Contains(arg, "/") {
		return Open(arg)
	}
	return Named(arg)
}

// Named opens the namespace of that name under RunDir or DockerDir.
func Named(name string) (*NS, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	for _, dir := range []string{RunDir, DockerDir} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return Open(path)
	}
	return nil, fmt.Errorf("netns: %s: no namespace of that name in %s or %s (pid:NUMBER and a path are understood too): %w", name, RunDir, DockerDir, fs.ErrNotExist)
}

// checkName refuses what is no file name.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("netns: %q: not a namespace's name", name)
	}
	return nil
}
