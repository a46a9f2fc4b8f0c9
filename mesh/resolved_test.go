package mesh

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSetResolved: what resolvectl is told, and that the first refusal ends it.
func TestSetResolved(t *testing.T) {
	dir := t.TempDir()
	log, program := filepath.Join(dir, "log"), filepath.Join(dir, "resolvectl")
	for _, c := range []struct{ exit, want string }{
		{"0", "domain br0 ~x.internal\ndefault-route br0 false\ndns br0 169.254.83.53\n"},
		{"1", "domain br0 ~x.internal\n"},
	} {
		os.Remove(log)
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >> "+log+"\necho no bus >&2\nexit "+c.exit+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := setResolved(context.Background(), program, "br0", netip.MustParseAddr("169.254.83.53"), "x.internal")
		if (err == nil) != (c.exit == "0") || err != nil && !strings.Contains(err.Error(), "no bus") {
			t.Errorf("exit %s: %v", c.exit, err)
		}
		if got, _ := os.ReadFile(log); string(got) != c.want {
			t.Errorf("exit %s: told %q, not %q", c.exit, got, c.want)
		}
	}
}

// TestResolvedHas: what resolvectl prints of an interface.
func TestResolvedHas(t *testing.T) {
	program := filepath.Join(t.TempDir(), "resolvectl")
	for printed, want := range map[string]bool{
		"Link 5 (br0): ~x.internal":       true,
		"Link 5 (br0): lan ~x.internal ~": true,
		"Link 5 (br0): x.internal":        false,
		"Link 5 (br0):":                   false,
	} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n[ \"$*\" = 'domain br0' ] && echo '"+printed+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if has, err := resolvedHas(context.Background(), program, "br0", "x.internal"); has != want || err != nil {
			t.Errorf("%s: %v, %v", printed, has, err)
		}
	}
	if _, err := resolvedHas(context.Background(), program, "br1", "x.internal"); err == nil {
		t.Error("a refusal is no error")
	}
}

// TestSocketListed: a socket's inode counts where it stands, and nowhere else.
func TestSocketListed(t *testing.T) {
	const table = `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 21042 /run/a b 77
0000000000000000: 00000002 00000000 00000000 0002 01    78 @abstract
0000000000000000: 00000002 00000000 00000000 0002 01 781
`
	for inode, want := range map[uint64]bool{21042: true, 78: true, 781: true, 77: false, 2: false, 1: false, 7: false} {
		if got, err := socketListed(strings.NewReader(table), inode); got != want || err != nil {
			t.Errorf("%d: %v, %v", inode, got, err)
		}
	}
}

// TestInOurNetwork: the same namespace and another one are told apart, without the right
// to trace anybody.
func TestInOurNetwork(t *testing.T) {
	if here, err := inOurNetwork(os.Getpid()); !here || err != nil {
		t.Errorf("this process: %v, %v", here, err)
	}
	elsewhere := exec.Command("cat")
	elsewhere.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	hold, err := elsewhere.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := elsewhere.Start(); err != nil {
		if os.Getenv("RIPSTOP_CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("no user namespace: %v", err)
	}
	defer elsewhere.Wait()
	defer hold.Close()
	if here, err := inOurNetwork(elsewhere.Process.Pid); here || err != nil {
		t.Errorf("a process elsewhere: %v, %v", here, err)
	}
	if _, err := inOurNetwork(1 << 23); err == nil {
		t.Error("no process is no error")
	}
}
