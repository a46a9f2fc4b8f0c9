package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/integration/lab"
)

// targets are the targets of a host's daemon, in its order.
func (s *story) targets(host string) []string {
	s.Helper()
	var all []string
	for _, t := range s.status(host).Targets {
		all = append(all, t.Target)
	}
	return all
}

// wantTargets waits until a host's daemon has these targets.
func (s *story) wantTargets(host string, want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s has the targets %v", host, want), func() error {
		if got := s.targets(host); !slices.Equal(got, want) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
}

// TestPeersFile: SIGHUP reads the peers file again and leaves alone what the operator
// gave otherwise; what stands in the file is nowhere else.
func TestPeersFile(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	file := filepath.Join(s.Dir(), "peers")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangUp := func(d *lab.Daemon) {
		t.Helper()
		if err := unix.Kill(d.PID(), unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	const given, told, first, second = "192.0.2.1", "192.0.2.2", "198.51.100.1", "198.51.100.2"
	write(first + " # the first\n")
	d := s.up("a", lab.StartConfig{Peers: []string{given}, Args: []string{"--peers-file", file}})
	s.wantTargets("a", given, first)
	s.run("a", "connect", told)
	hangUp(d)
	write(first + "\n" + second + "\n")
	hangUp(d)
	s.wantTargets("a", given, told, first, second)
	write(second + "\n")
	hangUp(d)
	s.wantTargets("a", given, told, second)
	write("not a peer\n")
	hangUp(d)
	s.eventually("the bad file is refused", func() error {
		if !strings.Contains(d.Log(), "peers file not read again") {
			return fmt.Errorf("nothing is logged")
		}
		return nil
	})
	s.wantTargets("a", given, told, second)
	if r, err := s.Host("a").Ripstop(s.ctx, "forget", second); err != nil || r.Code != 1 || !strings.Contains(r.Err, file) {
		t.Errorf("forget of what the file holds: %+v, %v", r, err)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	// The next start without peers has those of the last, and its own file's.
	write(second + "\n")
	d = s.up("a", lab.StartConfig{Args: []string{"--peers-file", file}})
	s.wantTargets("a", given, told, second)
	hangUp(d)
	s.eventually("the file is read again", func() error {
		if !strings.Contains(d.Log(), "peers file read again") {
			return fmt.Errorf("nothing is logged")
		}
		return nil
	})
	s.wantTargets("a", given, told, second)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	s.up("a", lab.StartConfig{})
	s.wantTargets("a", given, told)
}

// TestServiceManager: the daemon tells the service manager when it is ready and when
// it ends.
func TestServiceManager(t *testing.T) {
	s := tell(t, lab.Config{Hosts: []string{"a"}})
	path := filepath.Join(s.Dir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hear := func() []string {
		t.Helper()
		b := make([]byte, 1024)
		manager.SetReadDeadline(time.Now().Add(patience))
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(b[:n]), "\n")
	}
	d := s.up("a", lab.StartConfig{Env: []string{"NOTIFY_SOCKET=" + path}})
	st := s.status("a")
	if got, want := hear(), []string{"READY=1", "STATUS=" + st.Name, fmt.Sprintf("MAINPID=%d", d.PID())}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := hear(); !slices.Equal(got, []string{"STOPPING=1"}) {
		t.Errorf("told %q at the end", got)
	}
}
