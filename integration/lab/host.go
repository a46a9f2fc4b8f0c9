package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/tun/netns"
)

// Place is a network namespace with a name: what hosts and containers have in common.
type Place struct {
	lab  *Lab
	name string
	ns   *netns.NS
}

// Name is the place's name in the lab.
func (p *Place) Name() string { return p.name }

// Netns is the path of the namespace, as `ripstop attach` takes it.
func (p *Place) Netns() string { return filepath.Join(p.lab.netnsDir(), p.name) }

// Do runs fn in the namespace. Sockets opened by fn stay there; goroutines
// started by it do not.
func (p *Place) Do(fn func() error) error { return p.ns.Do(fn) }

// Result is how a command ended.
type Result struct {
	Out, Err string
	Code     int // exit code; -1 = ended by a signal
}

// grace is how long a command may take to end after its context did.
const grace = 2 * time.Second

// Exec runs a program in the place and waits for it. An exit code other than 0
// is no error: it is in the Result.
func (p *Place) Exec(ctx context.Context, program string, args ...string) (Result, error) {
	cmd := p.command(ctx, program, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := p.start(cmd); err != nil {
		return Result{Code: -1}, err
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{Code: -1}, fmt.Errorf("lab: %s: run %s: %w", p.name, program, err)
	}
	return Result{Out: out.String(), Err: errOut.String(), Code: cmd.ProcessState.ExitCode()}, nil
}

// command prepares a program whose environment holds no setting of ripstop's own.
func (p *Place) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "RIPSTOP_") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = grace
	// The child follows when this program dies without a word. Threads are given
	// back to the pool by netns, so the one that forks lives as long as the program.
	// A group of its own keeps it from the terminal's Ctrl-C: the lab stops it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	return cmd
}

// start starts cmd in the namespace: a child inherits that of the forking thread.
func (p *Place) start(cmd *exec.Cmd) error {
	if err := p.Do(cmd.Start); err != nil {
		return fmt.Errorf("lab: %s: start %s: %w", p.name, cmd.Path, err)
	}
	return nil
}

// Interfaces are the names of the place's network devices, without the loopback.
func (p *Place) Interfaces() ([]string, error) {
	var names []string
	err := p.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: list interfaces: %w", p.name, err)
	}
	return names, nil
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("lab: loopback up: %w", err)
	}
	return nil
}

// Host is a machine of the lab: a namespace with underlay links, in which daemons run.
type Host struct {
	*Place
	ends    []*End    // in the order of the links
	daemons []*Daemon // every one ever started
}

// AddHost makes a host.
func (l *Lab) AddHost(name string) (*Host, error) {
	if name == "" || len(name) > 8 || strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}) {
		return nil, fmt.Errorf("lab: host %q: a name has 1 to 8 lower case letters and digits", name)
	}
	p, err := l.newSpace(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(l.dir, name), 0o700); err != nil {
		return nil, fmt.Errorf("lab: host %s: %w", name, err)
	}
	h := &Host{Place: p}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[name] = h
	return h, nil
}

// Socket is the path of the host's API socket, State that of its state directory.
func (h *Host) Socket() string { return filepath.Join(h.lab.dir, h.name, "sock") }

// State is the path of the host's state directory.
func (h *Host) State() string { return filepath.Join(h.lab.dir, h.name, "state") }

// Ends are the host's ends of its links, in the order the links were made.
func (h *Host) Ends() []*End {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.ends
}

// Addr is the underlay address at which h reaches other, which may be h itself: on
// their first common link, IPv4 if it has that. ok is false without a common link.
func (h *Host) Addr(other *Host) (addr netip.Addr, ok bool) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	for _, e := range h.ends {
		if there := e.link.ends[other.name]; there != nil {
			return there.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// Container is a namespace that is to be attached to the network by its host.
type Container struct {
	*Place
	host *Host
}

// Host is the host the container runs on.
func (c *Container) Host() *Host { return c.host }

// AddContainer makes a container; it is not attached.
func (h *Host) AddContainer(name string) (*Container, error) {
	p, err := h.lab.newSpace(name)
	if err != nil {
		return nil, err
	}
	c := &Container{Place: p, host: h}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.lab.containers[name] = c
	return c, nil
}
