package transport_test

import (
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace of one thread, which ends with the test. Sockets
// opened by do stay in it.
type namespace struct {
	t    *testing.T
	work chan func()
}

// newNamespace makes a namespace whose loopback is up with the given MTU and the
// addresses 10.9.0.1, 10.9.0.2, fd00:9::1 and fd00:9::2 beside its own.
func newNamespace(t *testing.T, mtu int) *namespace {
	t.Helper()
	needRoot(t)
	ns := &namespace{t: t, work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range ns.work {
			f()
		}
	}()
	t.Cleanup(func() { close(ns.work) })
	if err := <-ready; err != nil {
		t.Fatalf("unshare: %v", err)
	}
	ns.do(func() {
		lo, err := netlink.LinkByName("lo")
		ns.must(err)
		ns.must(netlink.LinkSetMTU(lo, mtu))
		ns.must(netlink.LinkSetUp(lo))
		for _, addr := range []string{"10.9.0.1/24", "10.9.0.2/24", "fd00:9::1/64", "fd00:9::2/64"} {
			ns.addAddress(lo, addr)
		}
	})
	return ns
}

// do runs f on the namespace's thread.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.work <- func() { defer close(done); f() }
	<-done
}

// must is for what do runs, where Fatal is not allowed.
func (ns *namespace) must(err error) {
	if err != nil {
		ns.t.Errorf("set up namespace: %v", err)
	}
}

// addAddress puts an address on a link and waits until the kernel takes what is sent to
// it: for IPv6 that is done by a worker, behind the call (addrconf_dad_work in
// net/ipv6/addrconf.c), and until then datagrams vanish.
func (ns *namespace) addAddress(link netlink.Link, cidr string) {
	addr, err := netlink.ParseAddr(cidr)
	ns.must(err)
	addr.Flags = unix.IFA_F_NODAD
	ns.must(netlink.AddrAdd(link, addr))
	const localTable = 255
	filter := &netlink.Route{Table: localTable, LinkIndex: link.Attrs().Index, Type: unix.RTN_LOCAL}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TYPE)
		for _, route := range routes {
			if route.Dst != nil && route.Dst.IP.Equal(addr.IP) {
				return
			}
		}
		if time.Now().After(deadline) {
			ns.t.Errorf("set up namespace: %s never became a local address (%v)", cidr, err)
			return
		}
	}
}

// watch closes s when the test has run for too long, so that a receive that waits for
// what was lost fails instead of hanging.
func watch(t *testing.T, s io.Closer) {
	timer := time.AfterFunc(10*time.Second, func() { s.Close() })
	t.Cleanup(func() { timer.Stop() })
}

// addRoute makes the kernel refuse, by a route of the given type, what goes to cidr.
func (ns *namespace) addRoute(cidr string, kind int) {
	_, dst, err := net.ParseCIDR(cidr)
	ns.must(err)
	ns.must(netlink.RouteAdd(&netlink.Route{Dst: dst, Type: kind}))
}

// needRoot skips a test that needs privilege; where the environment says that the
// tests run in CI, missing privilege is a failure.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("RIPSTOP_CI") != "" {
		t.Fatal("needs root for a network namespace of its own")
	}
	t.Skip("needs root for a network namespace of its own")
}
