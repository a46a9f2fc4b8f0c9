package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ripstop/integration/lab"
)

// rig is one system laid out: two hosts, hosts between them for relays, a container
// on each of the two, and the daemons.
type rig struct {
	opt      *options
	programs programs
	lab      *lab.Lab

	from, to *lab.Place // where the load is made: containers, or the hosts themselves
	addr     netip.Addr // of to, as from reaches it

	ends, relays []int // process numbers of the daemons
	processes    []*process
}

// The hosts at the ends and the device of their first link.
const (
	hostA, hostB = "a", "b"
	underlay     = "l1"
)

// Addresses in layer 2 overlays, and the containers' networks in layer 3 ones.
var (
	overlayA = netip.MustParsePrefix("10.32.0.1/24")
	overlayB = netip.MustParsePrefix("10.32.0.2/24")

	routedA = routedEnd{network: "10.33.1.0/24", gateway: "10.33.1.1", container: "10.33.1.2"}
	routedB = routedEnd{network: "10.33.2.0/24", gateway: "10.33.2.1", container: "10.33.2.2"}
)

// routedEnd is a host's side of a layer 3 overlay.
type routedEnd struct{ network, gateway, container string }

// lay makes the hosts, and on them the system. After an error nothing is left.
func lay(ctx context.Context, s *system, opt *options, programs programs) (*rig, error) {
	r := &rig{opt: opt, programs: programs}
	binary := programs.ripstop
	if s.program != "" {
		binary = s.program
	}
	hosts := []string{hostA}
	for n := range s.relays {
		hosts = append(hosts, fmt.Sprintf("r%d", n+1))
	}
	hosts = append(hosts, hostB)
	cfg := lab.Config{Binary: binary, Hosts: hosts}
	for i := range len(hosts) - 1 {
		cfg.Links = append(cfg.Links, lab.LinkConfig{Hosts: hosts[i : i+2], MTU: opt.MTU})
	}
	var err error
	if r.lab, err = lab.New(cfg); err != nil {
		return nil, err
	}
	if err = r.prepare(ctx); err == nil {
		err = s.lay(ctx, r)
	}
	if err == nil {
		err = r.waitReachable(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lay out %s: %w", s.name, err), r.close())
	}
	return r, nil
}

// prepare gives all hosts what is the same for every system.
func (r *rig) prepare(ctx context.Context) error {
	for _, h := range r.lab.Hosts() {
		// Frames on a bridge are nobody's business here, whoever's bridge it is.
		for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
			if err := h.Do(func() error { return writeSysctl("net/bridge/"+name, "0") }); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if r.opt.Segmentation {
			continue
		}
		for _, e := range h.Ends() {
			// Generic segmentation stays on: the kernel cuts just before the device,
			// as for a network card that can't.
			args := []string{"-K", e.Device()}
			for _, feature := range []string{"tso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gso-list"} {
				args = append(args, feature, "off")
			}
			if _, err := run(ctx, h.Place, "ethtool", args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// close takes everything away.
func (r *rig) close() error {
	var errs []error
	for i := len(r.processes) - 1; i >= 0; i-- {
		errs = append(errs, r.processes[i].stop())
	}
	return errors.Join(append(errs, r.lab.Close())...)
}

// daemon starts an end's daemon, to be counted and stopped with the rig. nice(1) becomes it.
func (r *rig) daemon(ctx context.Context, cfg processConfig) error {
	if r.opt.Nice != 0 {
		cfg.Program, cfg.Args = "nice", append([]string{"-n", strconv.Itoa(r.opt.Nice), cfg.Program}, cfg.Args...)
	}
	p, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	r.processes = append(r.processes, p)
	r.ends = append(r.ends, p.pid())
	return nil
}

// The limits of waiting for a system's first answers.
const (
	reachTimeout = 20 * time.Second
	reachPings   = 3 // answered one after the other
)

// waitReachable waits until the ends answer one another.
func (r *rig) waitReachable(ctx context.Context) error {
	deadline := time.Now().Add(reachTimeout)
	for {
		replies, err := r.from.Ping(ctx, r.addr, lab.PingConfig{Count: reachPings, Interval: 20 * time.Millisecond, Timeout: 500 * time.Millisecond})
		if err != nil {
			return err
		}
		answered := 0
		for _, reply := range replies {
			if reply.Answered {
				answered++
			}
		}
		if answered == reachPings {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not reached from %s within %v%s", r.addr, r.from.Name(), reachTimeout, r.said())
		}
	}
}

// said is what the daemons wrote last, for an error.
func (r *rig) said() string {
	var b strings.Builder
	for _, p := range r.processes {
		fmt.Fprintf(&b, "; %s said: %s", filepath.Base(p.name), p.out.lines(5))
	}
	for _, h := range r.lab.Hosts() {
		if log, err := os.ReadFile(h.LogFile()); err == nil {
			fmt.Fprintf(&b, "; ripstop on %s said: %s", h.Name(), lastLines(string(log), 5))
		}
	}
	return b.String()
}

// ip runs iproute2 in a place; words are separated by spaces.
func ip(ctx context.Context, place *lab.Place, format string, args ...any) error {
	_, err := run(ctx, place, "ip", strings.Fields(fmt.Sprintf(format, args...))...)
	return err
}

// ipAll runs several commands one after the other.
func ipAll(ctx context.Context, place *lab.Place, commands ...string) error {
	for _, c := range commands {
		if err := ip(ctx, place, "%s", c); err != nil {
			return err
		}
	}
	return nil
}

// containers makes one container on each end host and makes the load run there.
func (r *rig) containers() (a, b *lab.Container, err error) {
	if a, err = r.lab.Host(hostA).AddContainer("a1"); err != nil {
		return nil, nil, err
	}
	if b, err = r.lab.Host(hostB).AddContainer("b1"); err != nil {
		return nil, nil, err
	}
	r.from, r.to = a.Place, b.Place
	return a, b, nil
}

// vethIndex keeps the two ends of a veth pair from having one number in two
// namespaces, for which the kernel reports carrier late.
const vethIndex = 500

// bridged puts a container of each end host on a bridge, with the named port that
// leads to the other host. The port exists; mtu is the containers'.
func (r *rig) bridged(ctx context.Context, port string, mtu int) error {
	a, b, err := r.containers()
	if err != nil {
		return err
	}
	r.addr = overlayB.Addr()
	for _, end := range []struct {
		c      *lab.Container
		prefix netip.Prefix
	}{{a, overlayA}, {b, overlayB}} {
		err := ipAll(ctx, end.c.Host().Place,
			"link add br0 type bridge",
			fmt.Sprintf("link add c0 mtu %d index %d type veth peer name eth0 mtu %d netns %s", mtu, vethIndex, mtu, end.c.Netns()),
			"link set c0 master br0",
			fmt.Sprintf("link set %s mtu %d master br0", port, mtu),
			"link set br0 up", "link set c0 up", fmt.Sprintf("link set %s up", port))
		if err != nil {
			return err
		}
		err = ipAll(ctx, end.c.Place, fmt.Sprintf("addr add %s dev eth0", end.prefix), "link set eth0 up")
		if err != nil {
			return err
		}
	}
	return nil
}

// routed gives each end host a container behind it and routes what is for the
// other one into a device, which exists and is called by prefix and host; mtu is the
// containers' and its own.
func (r *rig) routed(ctx context.Context, prefix string, mtu int) error {
	a, b, err := r.containers()
	if err != nil {
		return err
	}
	r.addr = netip.MustParseAddr(routedB.container)
	for _, end := range []struct {
		c           *lab.Container
		here, there routedEnd
	}{{a, routedA, routedB}, {b, routedB, routedA}} {
		if err := end.c.Host().Do(func() error { return writeSysctl("net/ipv4/ip_forward", "1") }); err != nil {
			return err
		}
		device := prefix + end.c.Host().Name()
		err := ipAll(ctx, end.c.Host().Place,
			fmt.Sprintf("link add c0 mtu %d index %d type veth peer name eth0 mtu %d netns %s", mtu, vethIndex, mtu, end.c.Netns()),
			fmt.Sprintf("addr add %s/24 dev c0", end.here.gateway),
			"link set c0 up",
			fmt.Sprintf("link set %s mtu %d up", device, mtu),
			fmt.Sprintf("route replace %s dev %s", end.there.network, device))
		if err != nil {
			return err
		}
		err = ipAll(ctx, end.c.Place,
			fmt.Sprintf("addr add %s/24 dev eth0", end.here.container), "link set eth0 up",
			fmt.Sprintf("route add default via %s", end.here.gateway))
		if err != nil {
			return err
		}
	}
	return nil
}

// writeSysctl sets a setting of the calling thread's namespace.
func writeSysctl(path, value string) error {
	return os.WriteFile("/proc/sys/"+path, []byte(value), 0)
}

// folder makes a folder of a host in the rig's directory and returns its path.
func (r *rig) folder(host, name string) (string, error) {
	path := filepath.Join(r.lab.Dir(), host, "bench", name)
	return path, os.MkdirAll(path, 0o700)
}

// file writes a file of a host, below its folder, and returns its path.
func (r *rig) file(host, name, content string) (string, error) {
	dir, err := r.folder(host, filepath.Dir(name))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, filepath.Base(name))
	return path, os.WriteFile(path, []byte(content), 0o600)
}
