package api

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcess: the process behind a socket is the one that listens there, whatever it
// says of itself.
func TestProcess(t *testing.T) {
	c := NewClient(serve(t, new(recorder)))
	defer c.Close()
	pid, pidfd, err := c.Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil || pid != os.Getpid() || !strings.Contains(string(info), fmt.Sprintf("\nPid:\t%d\n", pid)) {
		t.Errorf("process %d, %v:\n%s", pid, err, info)
	}
	nobody := NewClient(filepath.Join(t.TempDir(), "s"))
	if _, _, err := nobody.Process(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without a daemon: %v", err)
	}
}
