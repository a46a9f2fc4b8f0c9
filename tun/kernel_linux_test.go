package tun

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace moves the calling test into a network namespace of its own, for as
// long as it runs: its goroutine stays locked to a thread, which ends with it, and
// the namespace with that. Without the privilege the test is skipped; where
// RIPSTOP_CI is set that is a failure.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		missing(t, fmt.Sprintf("no network namespace for the test: %v", err))
	}
	if _, err := os.Stat(clonePath); err != nil {
		missing(t, err.Error())
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func missing(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("RIPSTOP_CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// wire is a packet socket on one interface: what passes there, and a way to send.
type wire struct {
	t     *testing.T
	fd    int
	index int
	ip    bool // the interface has no Ethernet header
}

func newWire(t *testing.T, name string) *wire {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	w := &wire{t: t, fd: fd, index: link.Attrs().Index, ip: len(link.Attrs().HardwareAddr) == 0}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.index}); err != nil {
		t.Fatal(err)
	}
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wire) send(frame []byte) error {
	to := &unix.SockaddrLinklayer{Ifindex: w.index, Protocol: htons(uint16(frame[12])<<8 | uint16(frame[13]))}
	if w.ip {
		frame = frame[etherHeader:]
	}
	return unix.Sendto(w.fd, frame, 0, to)
}

// receive is the next frame that came in by the interface and that match likes.
func (w *wire) receive(wait time.Duration, match func([]byte) bool) ([]byte, bool) {
	buf := make([]byte, MaxFrame)
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil, false
		}
		timeout := unix.NsecToTimeval(max(left.Nanoseconds(), 1e6))
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, false
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && match(buf[:n]) {
			return bytes.Clone(buf[:n]), true
		}
	}
}

// veth makes a pair: outer with the alias and on the bridge, inner beside it in
// the same namespace, standing for a container. Both are silent and up.
func veth(t *testing.T, bridge, outer, inner string, mtu int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = outer, mtu
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: inner}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{outer, inner} {
		if err := settle(name, linkSettings{mtu: mtu, noIPv6: true}); err != nil {
			t.Fatal(err)
		}
	}
	if bridge == "" {
		return
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		t.Fatal(err)
	}
	port, err := netlink.LinkByName(outer)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMaster(port, master); err != nil {
		t.Fatal(err)
	}
}

// command runs a program inside the test's namespace: a child of the locked
// thread is born there.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func mustTAP(t *testing.T, cfg Config) *TAP {
	t.Helper()
	tap, err := openTAP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

func mustBridge(t *testing.T, cfg BridgeConfig) *Bridge {
	t.Helper()
	b, err := SetUpBridge(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func attrsOf(t *testing.T, name string) *netlink.LinkAttrs {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs()
}

func sysctl(t *testing.T, path string) string {
	t.Helper()
	value, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}
