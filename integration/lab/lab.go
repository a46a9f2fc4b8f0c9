// Package lab lays out hosts, links and containers as network namespaces on one
// machine, runs the real binary in them, disturbs them and looks at what crosses.
//
//	        host a                       host b                       host c
//	┌───────────────────────┐   ┌───────────────────────┐   ┌───────────────────────┐
//	│ ripstop up   l1 .1 ◄──┼───┼──► .2 l1      l2 .1 ◄─┼───┼──► .2 l2              │
//	│ bridge, TAP           │   │ bridge, TAP           │   │ bridge, TAP           │
//	└──┬────────┬───────────┘   └──┬────────┬───────────┘   └───────────────────────┘
//	   a1       a2                 b1       b2      containers: namespaces of their own
//
// A link between two hosts is one veth pair, between more a bridge in a namespace
// of its own. Link n has 198.18.n.0/24 and 2001:db8:n::/64 (RFC 2544 and RFC 3849:
// addresses that are nobody's), the hosts in order .1, .2, … There is no routing
// between links and none to the outside: hosts without a common link cannot reach
// each other but through the overlay.
//
//	l, err := lab.New(lab.Config{
//		Binary:     binary,
//		Hosts:      []string{"a", "b", "c"},
//		Links:      []lab.LinkConfig{{Hosts: []string{"a", "b"}}, {Hosts: []string{"b", "c"}, MTU: 1400}},
//		Containers: 2,
//	})
//	defer l.Close()
//	a, err := l.Host("a").Start(lab.StartConfig{Secret: token, Peers: []string{"b"}})
//
// Everything is made through system calls; no other program is needed. Root is, or
// being root of a user namespace that has a mount namespace of its own: Isolated
// starts the same program again in one. All files lie in one temporary directory,
// all namespaces are bind mounts in it; Close takes everything away and reports
// what it had to end by force.
//
// The package is not a test: `ripstop demo` and bench use it too.
//
// Read lab.go and host.go first, then link.go and impair.go (the underlay and its
// faults), daemon.go (the binary), packet.go (captures), ping.go and flow.go (traffic).
package lab

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"ripstop/tun/netns"
)

// Config describes a lab.
type Config struct {
	Binary     string       // path of ripstop; empty = the running program itself
	Dir        string       // directory for everything, must not exist; empty = a temporary one
	Hosts      []string     // names of at most 8 characters, letters and digits
	Links      []LinkConfig // between those hosts
	Containers int          // on every host, named by host and number: a1, a2
}

// Lab is a layout of namespaces. Its methods may be called from several goroutines.
type Lab struct {
	binary string
	dir    string

	mu         sync.Mutex // guards the rest
	hosts      map[string]*Host
	containers map[string]*Container
	links      []*Link
	spaces     []*Place // everything with a namespace, in the order made
	closed     bool
}

// ErrPrivilege is what New ends with where the kernel refuses namespaces.
var ErrPrivilege = errors.New("lab: root, or a user and mount namespace of one's own, is needed")

// New makes what cfg describes. After an error nothing is left.
func New(cfg Config) (*Lab, error) {
	l := &Lab{binary: cfg.Binary, dir: cfg.Dir, hosts: make(map[string]*Host), containers: make(map[string]*Container)}
	if l.binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("lab: find the running program: %w", err)
		}
		l.binary = exe
	}
	var err error
	if l.dir == "" {
		l.dir, err = os.MkdirTemp("", "ripstop-")
	} else {
		err = os.Mkdir(l.dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("lab: make directory: %w", err)
	}
	if err := l.build(cfg); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(cfg Config) error {
	for _, name := range cfg.Hosts {
		if _, err := l.AddHost(name); err != nil {
			return err
		}
	}
	for _, link := range cfg.Links {
		if _, err := l.AddLink(link); err != nil {
			return err
		}
	}
	for _, name := range cfg.Hosts {
		for n := range cfg.Containers {
			if _, err := l.Host(name).AddContainer(name + strconv.Itoa(n+1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Dir is the directory that holds everything.
func (l *Lab) Dir() string { return l.dir }

// Binary is the path of the program that runs in the hosts.
func (l *Lab) Binary() string { return l.binary }

// Host finds a host by name; nil if there is none.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[name]
}

// Hosts are all hosts, sorted by name.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	hosts := make([]*Host, 0, len(l.hosts))
	for _, name := range slices.Sorted(maps.Keys(l.hosts)) {
		hosts = append(hosts, l.hosts[name])
	}
	return hosts
}

// Container finds a container by name; nil if there is none.
func (l *Lab) Container(name string) *Container {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.containers[name]
}

// Link finds the first link that all the named hosts are on; nil if there is none.
func (l *Lab) Link(hosts ...string) *Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, link := range l.links {
		on := true
		for _, name := range hosts {
			on = on && link.ends[name] != nil
		}
		if on {
			return link
		}
	}
	return nil
}

// newSpace makes a namespace with its loopback up, known by name in the lab's
// directory. The caller holds no lock.
func (l *Lab) newSpace(name string) (*Place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("lab: make %s: %w", name, os.ErrClosed)
	}
	ns, err := netns.NewNamed(l.netnsDir(), name)
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w (%w)", ErrPrivilege, err)
		}
		return nil, fmt.Errorf("lab: make %s: %w", name, err)
	}
	p := &Place{lab: l, name: name, ns: ns}
	l.spaces = append(l.spaces, p)
	return p, p.Do(loopbackUp)
}

func (l *Lab) netnsDir() string { return filepath.Join(l.dir, "netns") }

// StopAll stops the daemons of all hosts; an error names those that had to be killed.
func (l *Lab) StopAll() error { return stopAll(l.Hosts()) }

func stopAll(hosts []*Host) error {
	var wg sync.WaitGroup
	errs := make([]error, len(hosts))
	for i, h := range hosts {
		wg.Go(func() { errs[i] = h.stopAll() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close stops the daemons, removes all namespaces and files, and returns an error
// naming every process that still ran in one of the namespaces and had to be
// killed. It may be called more than once.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	spaces := l.spaces
	hosts := slices.Collect(maps.Values(l.hosts))
	l.mu.Unlock()

	errs := []error{stopAll(hosts), killStrays(spaces)}
	for _, p := range slices.Backward(spaces) {
		p.ns.Close()
		errs = append(errs, netns.Delete(l.netnsDir(), p.name))
	}
	if err := os.RemoveAll(l.dir); err != nil {
		errs = append(errs, fmt.Errorf("lab: remove %s: %w", l.dir, err))
	}
	return errors.Join(errs...)
}
