package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killStrays kills whatever processes are in the places' namespaces and returns an
// error that names each. This program's own threads are not looked at.
func killStrays(spaces []*Place) error {
	of := make(map[string]string, len(spaces)) // namespace → place
	for _, p := range spaces {
		of[p.ns.String()] = p.name
	}
	var errs []error
	for _, pid := range processes() {
		if pid == os.Getpid() {
			continue
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			continue // ended meanwhile, or another user's
		}
		place, ours := of[ns]
		if !ours {
			continue
		}
		errs = append(errs, fmt.Errorf("lab: %s: process %d (%s) was still running", place, pid, commandLine(pid)))
		if err := kill(pid); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// kill ends a process that may be nobody's child here and waits until it is gone.
// A pidfd names the process for sure, also when its number is used again.
func kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lab: process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("lab: process %d: kill: %w", pid, err)
	}
	ended := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ended, int(grace/time.Millisecond)); err != nil || n == 0 {
		return fmt.Errorf("lab: process %d: it does not end (%v)", pid, err)
	}
	return nil
}

func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandLine(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
}

// writeSysctl sets a setting of the calling thread's namespace.
func writeSysctl(path, value string) error {
	if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
		return fmt.Errorf("lab: sysctl: %w", err)
	}
	return nil
}
