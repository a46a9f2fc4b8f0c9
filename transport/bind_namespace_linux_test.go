package transport_test

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/transport"
)

// veth makes a pair of interfaces in the namespace, both up.
func (ns *namespace) veth(a, b string) (netlink.Link, netlink.Link) {
	ns.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b}))
	var ends [2]netlink.Link
	for i, name := range []string{a, b} {
		link, err := netlink.LinkByName(name)
		ns.must(err)
		ns.must(netlink.LinkSetUp(link))
		ends[i] = link
	}
	return ends[0], ends[1]
}

// Settings of a device (ETHTOOL_STXCSUM, ETHTOOL_SSG, ETHTOOL_SGSO in linux/ethtool.h).
const (
	ethtoolSetTxChecksum    = 0x17
	ethtoolSetScatterGather = 0x19
	ethtoolSetGSO           = 0x24
)

// join connects two namespaces by a pair of interfaces: 10.40.0.1 and fd00:40::1 at the
// left end, 10.40.0.2 and fd00:40::2 at the right one, with the settings off turned off.
func join(left, right *namespace, off []uint32) {
	var target *os.File
	right.do(func() {
		var err error
		target, err = os.Open("/proc/thread-self/ns/net")
		right.must(err)
	})
	defer target.Close()
	left.do(func() {
		left.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire"}, PeerName: "wire",
			PeerNamespace: netlink.NsFd(target.Fd())}))
	})
	for i, ns := range []*namespace{left, right} {
		ns.do(func() {
			for _, setting := range off {
				ns.must(turnOff("wire", setting))
			}
			link, err := netlink.LinkByName("wire")
			ns.must(err)
			ns.must(netlink.LinkSetUp(link))
			ns.addAddress(link, []string{"10.40.0.1/24", "10.40.0.2/24"}[i])
			ns.addAddress(link, []string{"fd00:40::1/64", "fd00:40::2/64"}[i])
		})
	}
}

// turnOff sets one of ethtool's settings of a device to 0 (ioctl SIOCETHTOOL).
func turnOff(device string, setting uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{setting, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of struct ifreq
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// TestLinkLocal: IPv6 link-local peers are reached by the interface's name or number,
// and told by its name.
func TestLinkLocal(t *testing.T) {
	ns := newNamespace(t, 65536)
	ns.do(func() {
		a, b := ns.veth("left", "right")
		ns.addAddress(a, "fe80::a/64")
		ns.addAddress(b, "fe80::b/64")
		from, err := transport.Bind(transport.BindConfig{})
		ns.must(err)
		to, err := transport.Bind(transport.BindConfig{Addresses: []netip.Addr{netip.MustParseAddr("fe80::b%right")}})
		ns.must(err)
		if t.Failed() {
			return
		}
		defer from.Close()
		defer to.Close()
		watch(t, to)
		number, err := net.InterfaceByName("left")
		ns.must(err)
		msgs := []transport.Message{
			text("fe80::b%left", to.Port(), "by name"),
			text("fe80::b", to.Port(), "by number"),
		}
		msgs[1].Remote = netip.AddrPortFrom(msgs[1].Remote.Addr().WithZone(strconv.Itoa(number.Index)), to.Port())
		if sent := from.Send(msgs); sent != 2 {
			t.Errorf("sent %d, errors %v, %v", sent, msgs[0].Err, msgs[1].Err)
		}
		in := []transport.Message{{Buf: make([]byte, 100)}}
		for range 2 {
			// The receive looks the interface up in this thread's namespace.
			if _, err := to.Receivers()[0](in); err != nil {
				t.Error(err)
				return
			}
			want := netip.AddrPortFrom(netip.MustParseAddr("fe80::a%right"), from.Port())
			if in[0].Remote != want || in[0].Local != netip.MustParseAddr("fe80::b") {
				t.Errorf("from %v to %v, want from %v", in[0].Remote, in[0].Local, want)
			}
		}
		answer := []transport.Message{{Buf: []byte("answer"), N: 6, Remote: in[0].Remote, Local: in[0].Local}}
		if to.Send(answer) != 1 {
			t.Errorf("answer: %v", answer[0].Err)
		}
	})
}

// TestRenamedInterface: the name that is told for an interface is its new one, once a send
// to the old name has failed.
func TestRenamedInterface(t *testing.T) {
	ns := newNamespace(t, 65536)
	ns.do(func() {
		a, b := ns.veth("left", "right")
		ns.addAddress(a, "fe80::a/64")
		ns.addAddress(b, "fe80::b/64")
		from, err := transport.Bind(transport.BindConfig{})
		ns.must(err)
		to, err := transport.Bind(transport.BindConfig{})
		ns.must(err)
		if t.Failed() {
			return
		}
		defer from.Close()
		defer to.Close()
		watch(t, to)
		heardFrom := func() netip.AddrPort {
			msgs := []transport.Message{text("fe80::b%left", to.Port(), "hello")}
			if from.Send(msgs) != 1 {
				t.Error(msgs[0].Err)
			}
			in := []transport.Message{{Buf: make([]byte, 100)}}
			if _, err := to.Receivers()[1](in); err != nil { // the one of IPv6
				t.Error(err)
			}
			return in[0].Remote
		}
		old := heardFrom()
		ns.must(netlink.LinkSetDown(b))
		ns.must(netlink.LinkSetName(b, "moved"))
		ns.must(netlink.LinkSetUp(b))
		ns.addAddress(b, "fe80::b/64")
		answer := []transport.Message{{Buf: []byte("answer"), N: 6, Remote: old}}
		if to.Send(answer) != 0 || answer[0].Err != error(unix.EADDRNOTAVAIL) {
			t.Errorf("to an interface that is not there: %v", answer[0].Err)
		}
		if got, want := heardFrom(), netip.MustParseAddr("fe80::a%moved"); got.Addr() != want || t.Failed() {
			t.Errorf("from %v, want %v", got, want)
			return
		}
	})
}

// TestSlowInterface: when an interface does not keep up, a Send waits a little, then
// fails what has no room with EAGAIN, and what goes elsewhere still leaves.
func TestSlowInterface(t *testing.T) {
	ns := newNamespace(t, 65536)
	ns.do(func() {
		slow, _ := ns.veth("slow", "far")
		ns.addAddress(slow, "10.30.0.1/24")
		ns.must(netlink.NeighAdd(&netlink.Neigh{LinkIndex: slow.Attrs().Index, IP: net.ParseIP("10.30.0.2"),
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}, State: netlink.NUD_PERMANENT}))
		ns.must(netlink.QdiscReplace(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: slow.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       1000, Limit: 10 << 20, Buffer: 100000000,
		}))
		b, err := transport.Bind(transport.BindConfig{SendBuffer: 50000})
		ns.must(err)
		if t.Failed() {
			return
		}
		defer b.Close()
		var msgs []transport.Message
		for range 100 {
			msgs = append(msgs, text("10.30.0.2", 9, strings.Repeat("x", 1400)))
		}
		msgs = append(msgs, text("::1", b.Port(), "elsewhere"))
		start := time.Now()
		sent := b.Send(msgs)
		took := time.Since(start)
		refused := 0
		for _, m := range msgs[:100] {
			if m.Err == error(unix.EAGAIN) {
				refused++
			} else if m.Err != nil {
				t.Errorf("refused with %v", m.Err)
			}
		}
		if refused == 0 || sent != 101-refused || msgs[100].Err != nil {
			t.Errorf("sent %d, refused %d, elsewhere %v", sent, refused, msgs[100].Err)
		}
		if st := b.Stats(); st.NoBuffers != uint64(refused) {
			t.Errorf("%d counted, %d refused", st.NoBuffers, refused)
		}
		if took > 2*time.Second {
			t.Errorf("the send took %v", took)
		}
		if got := receiveOne(t, b); string(got.Bytes()) != "elsewhere" {
			t.Errorf("got %q", got.Bytes())
		}
		// Closing ends a Send that waits.
		done := make(chan struct{})
		go func() {
			defer close(done)
			for b.Send(msgs[:1]); msgs[0].Err != error(net.ErrClosed); b.Send(msgs[:1]) {
			}
		}()
		b.Close()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Error("a send survived the close")
		}
	})
}
