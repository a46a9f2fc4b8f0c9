package attach

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ripstop/tun/tuntest"
)

var testResolver = Resolver{Servers: []netip.Addr{netip.MustParseAddr("169.254.83.53")}, Search: []string{"ripstop.internal", "example.org"}}

// rootDir is a directory that stands for a container's root, and it opened.
func rootDir(t *testing.T) (string, *os.File) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestResolverFile: the file is written in place, and what was there comes back to the
// byte, also when it is written twice.
func TestResolverFile(t *testing.T) {
	for name, old := range map[string]string{
		"usual": "nameserver 10.0.0.1\noptions ndots:0\n", "no last line end": "nameserver 10.0.0.1\n# x", "empty": "", "binary": "\x00\xff\n# old x\n# none\n",
	} {
		dir, root := rootDir(t)
		path := filepath.Join(dir, "etc/resolv.conf")
		put(t, path, old)
		before, _ := os.Stat(path)
		for range 2 {
			if err := writeResolver(root, resolverPath, "/"+resolverPath, testResolver); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		got := contents(t, path)
		if !strings.Contains(got, "\nnameserver 169.254.83.53\nsearch ripstop.internal example.org\n") || strings.Contains(got, "nameserver 10.0.0.1") ||
			strings.Contains(old, "ndots") != strings.Contains(got, "\noptions ndots:0\n") {
			t.Errorf("%s: written: %q", name, got)
		}
		if err := restoreResolver(root, resolverPath); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		after, _ := os.Stat(path)
		if got := contents(t, path); got != old || !os.SameFile(before, after) || before.Mode() != after.Mode() {
			t.Errorf("%s: %q came back, not %q", name, got, old)
		}
	}
}

// TestResolverFileMade: a file that was not there goes again; one that somebody has
// rewritten stays.
func TestResolverFileMade(t *testing.T) {
	dir, root := rootDir(t)
	path := filepath.Join(dir, "etc/resolv.conf")
	for range 2 {
		if err := writeResolver(root, resolverPath, "/"+resolverPath, testResolver); err != nil {
			t.Fatal(err)
		}
	}
	if err := restoreResolver(root, resolverPath); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if err := restoreResolver(root, resolverPath); err != nil {
		t.Errorf("a file that is gone: %v", err)
	}
	put(t, path, "nameserver 10.0.0.9\n")
	if err := restoreResolver(root, resolverPath); err != nil || contents(t, path) != "nameserver 10.0.0.9\n" {
		t.Errorf("rewritten by somebody: %v, %q", err, contents(t, path))
	}
}

// TestResolverFileTraps: nothing that a container lays in the way leads out of it, or
// holds the writer.
func TestResolverFileTraps(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	for name, lay := range map[string]func(etc string) error{
		"link out": func(etc string) error { return os.Symlink(outside, filepath.Join(etc, "resolv.conf")) },
		"link up": func(etc string) error {
			return os.Symlink("../../../../../.."+outside, filepath.Join(etc, "resolv.conf"))
		},
		"link inside":   func(etc string) error { return os.Symlink("passwd", filepath.Join(etc, "resolv.conf")) },
		"dangling link": func(etc string) error { return os.Symlink(outside+"2", filepath.Join(etc, "resolv.conf")) },
		"magic link": func(etc string) error {
			return os.Symlink("/proc/self/root"+outside, filepath.Join(etc, "resolv.conf"))
		},
		"folder is a link": func(etc string) error {
			if err := os.Remove(filepath.Join(etc, "passwd")); err != nil {
				return err
			}
			if err := os.Remove(etc); err != nil {
				return err
			}
			return os.Symlink(filepath.Dir(outside), etc)
		},
		"FIFO":      func(etc string) error { return unix.Mkfifo(filepath.Join(etc, "resolv.conf"), 0o600) },
		"directory": func(etc string) error { return os.Mkdir(filepath.Join(etc, "resolv.conf"), 0o700) },
		"the host's file": func(etc string) error {
			put(t, filepath.Join(etc, "resolv.conf"), strings.Repeat("x", maxOldFile+1))
			return nil
		},
	} {
		dir, root := rootDir(t)
		put(t, outside, "precious")
		put(t, filepath.Join(dir, "etc/passwd"), "root")
		if err := lay(filepath.Join(dir, "etc")); err != nil {
			t.Fatal(err)
		}
		if err := writeResolver(root, resolverPath, "/"+resolverPath, testResolver); err == nil {
			t.Errorf("%s: written", name)
		}
		restoreResolver(root, resolverPath)
		if got := contents(t, outside); got != "precious" {
			t.Errorf("%s: the file outside now holds %q", name, got)
		}
		if _, err := os.Lstat(outside + "2"); err == nil {
			t.Errorf("%s: a file was made outside", name)
		}
	}
}

// TestResolverFileOfHost: a container that has the host's files is refused, whether the
// host has a resolver file or none, and nothing is written.
func TestResolverFileOfHost(t *testing.T) {
	dir, root := rootDir(t)
	own := filepath.Join(dir, resolverPath) // as if the directory were the host's root
	if err := writeResolver(root, resolverPath, own, testResolver); err == nil {
		t.Error("a file was made in the host's own folder")
	}
	if _, err := os.Lstat(own); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
	put(t, own, "nameserver 10.0.0.1\n")
	if err := writeResolver(root, resolverPath, own, testResolver); err == nil || contents(t, own) != "nameserver 10.0.0.1\n" {
		t.Errorf("%v; the host's own file holds %q", err, contents(t, own))
	}
}

// TestFilesOf: which files are meant, by how the namespace is named.
func TestFilesOf(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
	for _, arg := range []string{"pid:", "pid:x", "pid:-1", "/proc/x/ns/net", "/tmp/ns", "/run/netns/", "/run/netns/..", ""} {
		if root, _, err := filesOf(Plan{Netns: arg}, false); err == nil {
			root.Close()
			t.Errorf("%q leads to %s", arg, root.Name())
		}
	}
	pid := sleep.Process.Pid
	root, path, err := filesOf(Plan{Netns: "pid:" + strconv.Itoa(pid)}, false)
	if err != nil || path != resolverPath {
		t.Fatalf("%v, %q", err, path)
	}
	root.Close()
	if _, _, err := filesOf(Plan{Netns: "/proc/" + strconv.Itoa(pid) + "/ns/net", NetnsDev: 1, NetnsInode: 1}, false); err == nil {
		t.Error("a process with another namespace than it was is taken")
	}
	if err := RestoreResolver(Plan{Netns: "pid:999999999"}); err != nil {
		t.Errorf("a container that is gone: %v", err)
	}
}

// TestNamedFilesGo: of a namespace with a name neither file nor directory stays, unless
// somebody else has put something there.
func TestNamedFilesGo(t *testing.T) {
	tuntest.NeedRoot(t)
	plan := Plan{Netns: "ripstop-test-" + strconv.Itoa(os.Getpid())}
	dir := filepath.Join(netnsEtc, plan.Netns)
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, other := range []bool{false, true} {
		if err := WriteResolver(plan, testResolver); err != nil {
			t.Fatal(err)
		}
		if other {
			put(t, filepath.Join(dir, "hosts"), "x")
		}
		if err := RestoreResolver(plan); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(dir)
		if other && (err != nil || len(left) != 1) || !other && !os.IsNotExist(err) {
			t.Errorf("with a file of another %v: %v are left, %v", other, left, err)
		}
	}
}
