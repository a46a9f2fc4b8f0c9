package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ripstop/tun/tuntest"
)

// here is the identity of the calling goroutine's namespace, read without the
// package's own code.
func here(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return link(t, fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

func link(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func anonymous(t *testing.T) *NS {
	t.Helper()
	ns, err := NewAnonymous()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestDoRunsInTheNamespaceAndComesBack(t *testing.T) {
	tuntest.NeedRoot(t)
	home := here(t)
	a, b := anonymous(t), anonymous(t)
	if Same(a, b) || a.String() == home {
		t.Fatalf("namespaces are not apart: %s %s, home %s", a, b, home)
	}
	wrong := errors.New("wrong")
	err := a.Do(func() error {
		if got := here(t); got != a.String() {
			t.Errorf("in %s, want %s", got, a)
		}
		cur, err := Current()
		if err != nil {
			return err
		}
		defer cur.Close()
		if !Same(cur, a) {
			t.Errorf("Current is %s, want %s", cur, a)
		}
		// Nested, and back in a afterwards.
		if err := b.Do(func() error {
			if got := here(t); got != b.String() {
				t.Errorf("nested: in %s, want %s", got, b)
			}
			return nil
		}); err != nil {
			return err
		}
		if got := here(t); got != a.String() {
			t.Errorf("after nesting: in %s, want %s", got, a)
		}
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("Do returned %v, want the function's own error", err)
	}
	if got := here(t); got != home {
		t.Errorf("the caller moved to %s", got)
	}
}

func TestNoThreadStaysBehind(t *testing.T) {
	tuntest.NeedRoot(t)
	home := here(t)
	first := link(t, "/proc/self/ns/net")
	ns := anonymous(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				if err := ns.Do(func() error {
					// Blocking and starting goroutines makes the runtime start threads.
					done := make(chan string)
					go func() { done <- here(t) }()
					if got := <-done; got != home {
						return fmt.Errorf("a goroutine started inside ran in %s, want home %s", got, home)
					}
					if got := link(t, "/proc/self/ns/net"); got != first {
						return fmt.Errorf("the first thread moved to %s", got)
					}
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		got, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net")
		if errors.Is(err, fs.ErrNotExist) {
			continue // a thread that ended meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		if got != home {
			t.Errorf("thread %s stayed in %s", task.Name(), got)
		}
	}
}

func TestDoOfAFunctionThatEndsItsGoroutine(t *testing.T) {
	tuntest.NeedRoot(t)
	ns := anonymous(t)
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); !errors.Is(err, errGone) {
		t.Errorf("Do returned %v", err)
	}
}

func TestDoAfterClose(t *testing.T) {
	tuntest.NeedRoot(t)
	ns := anonymous(t)
	ns.Close()
	if err := ns.Do(func() error { t.Error("ran"); return nil }); err == nil {
		t.Error("no error after Close")
	}
}

func TestSocketStaysWhereItWasOpened(t *testing.T) {
	tuntest.NeedRoot(t)
	ns := anonymous(t)
	var names []string
	if err := ns.Do(func() error {
		interfaces, err := net.Interfaces()
		for _, i := range interfaces {
			names = append(names, i.Name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(names) != 1 || names[0] != "lo" {
		t.Errorf("a new namespace has interfaces %q", names)
	}
}

func TestNamed(t *testing.T) {
	tuntest.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "made")
	ns, err := NewNamed(dir, "blue")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close(); Delete(dir, "blue") })
	path := filepath.Join(dir, "blue")
	if _, err := NewNamed(dir, "blue"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second of the name: %v", err)
	}
	again, err := Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	if !Same(ns, again) {
		t.Errorf("the name is %s, want %s", again, ns)
	}
	again.Close()
	for range 2 { // the second time there is nothing
		if err := Delete(dir, "blue"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left behind: %v", err)
		}
	}
	// What an interrupted maker leaves is an empty file; a file with content is
	// somebody's.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Delete(dir, "blue"); err != nil {
		t.Errorf("empty file: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Delete(dir, "blue"); err == nil {
		t.Error("a foreign file was deleted")
	}
}

// TestInUserNamespace runs TestNamed again as root of a user and mount namespace.
func TestInUserNamespace(t *testing.T) {
	if os.Getenv("RIPSTOP_NETNS_CHILD") != "" {
		t.Skip("already inside")
	}
	tuntest.NeedRoot(t)
	cmd := exec.Command(os.Args[0], "-test.run=^(TestNamed|TestDoRunsInTheNamespaceAndComesBack)$", "-test.v")
	cmd.Env = append(os.Environ(), "RIPSTOP_NETNS_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestParse(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ arg, want string }{
		{"", "not a namespace's name"},
		{"..", "not a namespace's name"},
		{"no-such-name-here", "no namespace of that name"},
		{"pid:", "process number"},
		{"pid:-1", "process number"},
		{"pid:0", "process number"},
		{"pid:x", "process number"},
		{"pid:4194305", "no such process"}, // above the kernel's greatest pid_max
		{"/no/such/path", "no such file"},
		{"/dev/null", "not a network namespace"},
		{fifo, "not a network namespace"}, // opening it would wait for a writer
		{"/proc/self/ns/uts", "not a network namespace"},
		{"/proc/self/ns/net", "own network namespace"},
		{fmt.Sprintf("pid:%d", os.Getpid()), "own network namespace"},
	} {
		ns, err := Parse(c.arg)
		if err == nil {
			ns.Close()
			t.Errorf("%q was taken", c.arg)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want a text with %q", c.arg, err, c.want)
		}
	}
	if _, err := Parse("/proc/self/ns/net"); !errors.Is(err, ErrOwn) {
		t.Errorf("own namespace: %v", err)
	}
}

func TestParsePID(t *testing.T) {
	tuntest.NeedRoot(t)
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	ns, err := Parse(fmt.Sprintf("pid:%d", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if want := link(t, fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)); ns.String() != want {
		t.Errorf("got %s, want %s", ns, want)
	}
}
