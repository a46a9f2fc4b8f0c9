package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDockerNeedsRoot: who may not make the socket hears what to be.
func TestDockerNeedsRoot(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // root's privilege about files is a thread's
	defer runtime.UnlockOSThread()
	unix.Setfsuid(65534)
	defer unix.Setfsuid(os.Geteuid())
	var errOut bytes.Buffer
	code := Main(t.Context(), []string{"ripstop", "docker", "--plugin-socket", filepath.Join(dir, "plugins", "s")}, Stdio{
		In: strings.NewReader(""), Out: new(bytes.Buffer), Err: &errOut,
		LookupEnv: func(string) (string, bool) { return "", false },
	})
	if code != ExitFailed || !strings.Contains(errOut.String(), "permission denied\nbe root") {
		t.Errorf("%d: %s", code, errOut.String())
	}
}
