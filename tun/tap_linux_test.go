package tun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestOpenTAP(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs%d", MAC: hereMAC, Queues: 3})
	if tap.Name() != "rs0" || len(tap.Queues()) != 3 {
		t.Errorf("%s with %d queues", tap.Name(), len(tap.Queues()))
	}
	attrs := attrsOf(t, "rs0")
	if attrs.MTU != MaxMTU || attrs.HardwareAddr.String() != net.HardwareAddr(hereMAC[:]).String() ||
		attrs.Flags&net.FlagUp == 0 || attrs.Alias != Alias {
		t.Errorf("attributes %+v", attrs)
	}
	for key, want := range map[string]string{"accept_ra": "0", "disable_ipv6": "1", "addr_gen_mode": "1"} {
		if got := sysctl(t, "/proc/sys/net/ipv6/conf/rs0/"+key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	if got, want := tap.Capabilities(), (Capabilities{VirtioHeader: 10}); got != want {
		t.Errorf("capabilities %+v, want %+v", got, want)
	}
	tap.Close()
	if _, err := netlink.LinkByName("rs0"); err == nil {
		t.Error("the device outlives Close")
	}
}

// TestOffloads: what this kernel agrees to comes from asking for less and less.
func TestOffloads(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1, Offloads: OffloadAll})
	c := tap.Capabilities()
	if !c.Checksum || !c.TCP {
		t.Errorf("every kernel since 2.6.27 has these: %+v", c)
	}
	if c.Tunnel != (c.VirtioHeader == virtioTunnelHeader) {
		t.Errorf("tunnels and their header go together: %+v", c)
	}
	t.Logf("this kernel: %+v", c)
	tap.Close()
	tap = mustTAP(t, Config{Name: "rs0", Queues: 1, Offloads: OffloadChecksum | OffloadUSO4})
	if got, want := tap.Capabilities(), (Capabilities{VirtioHeader: 10, Checksum: true}); got != want {
		t.Errorf("capabilities %+v, want %+v", got, want)
	}
}

// TestOpenTAPPersistent: a persistent TAP that nobody has open is taken over, and
// its header size and offloads, which persist, are set anew.
func TestOpenTAPPersistent(t *testing.T) {
	inNamespace(t)
	first := mustTAP(t, Config{Name: "rs0", Queues: 1, Offloads: OffloadAll})
	var err error
	first.queues[0].raw.Control(func(fd uintptr) { err = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 1) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openTAP(Config{Name: "rs0"}); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a TAP in use was opened a second time: %v", err)
	}
	first.Close()
	second := mustTAP(t, Config{Name: "rs0", Queues: 2})
	if got := second.Capabilities().VirtioHeader; got != virtioHeader {
		t.Errorf("header of %d bytes", got)
	}
	w := newWire(t, "rs0")
	if err := w.send(make([]byte, 60)); err != nil {
		t.Fatal(err)
	}
}

// TestOpenErrors: each error is a sentence with cause and remedy, and leaves
// nothing behind.
func TestOpenErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T)
		tap     Config
		is      error
		says    []string
	}{
		{"mtu", nil, Config{Name: "rs0", MTU: 65522}, ErrMTU, []string{"65522", "from 68 to 65521"}},
		{"mtu negative", nil, Config{Name: "rs0", MTU: -1}, ErrMTU, []string{"-1"}},
		{"no name", nil, Config{}, nil, []string{"no interface name"}},
		{"long name", nil, Config{Name: "sixteen-bytes-xx"}, nil, []string{"longer than 15 bytes"}},
		{"bad name", nil, Config{Name: "a/b"}, nil, []string{"not an interface name"}},
		{"queues", nil, Config{Name: "rs0", Queues: 257}, nil, []string{"257 queues", "1 to 256"}},
		{"bridge", func(t *testing.T) { command(t, "ip", "link", "add", "rs0", "type", "bridge") },
			Config{Name: "rs0"}, ErrNameTaken, []string{"by a bridge device", "ip link delete rs0"}},
		{"tun", func(t *testing.T) { command(t, "ip", "tuntap", "add", "rs0", "mode", "tun") },
			Config{Name: "rs0"}, ErrNameTaken, []string{"persistent TUN", "--device"}},
		{"tap in use", func(t *testing.T) { mustTAP(t, Config{Name: "rs0"}) },
			Config{Name: "rs0"}, ErrNameTaken, []string{"TAP that a running program has open"}},
		{"no device", hideTunnelDevice, Config{Name: "rs0"}, ErrNoTunnelDevice, []string{"modprobe tun", "--device /dev/net/tun"}},
		{"no capability", dropNetAdmin, Config{Name: "rs0"}, ErrPrivilege, []string{"run as root", "cap_net_admin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inNamespace(t)
			if c.prepare != nil {
				c.prepare(t)
			}
			before := len(openDescriptors(t))
			_, err := OpenTAP(c.tap)
			check(t, err, c.is, c.says)
			if after := len(openDescriptors(t)); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
			if c.prepare == nil {
				if _, err := netlink.LinkByName("rs0"); err == nil {
					t.Error("a device was left behind")
				}
			}
		})
	}
}

func check(t *testing.T, err, is error, says []string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("%v is not %v", err, is)
	}
	for _, words := range append(says, "tun: ") {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
}

func openDescriptors(t *testing.T) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// hideTunnelDevice covers /dev/net for this thread alone.
func hideTunnelDevice(t *testing.T) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		missing(t, err.Error())
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
}

// dropNetAdmin takes all capabilities from this thread alone.
func dropNetAdmin(t *testing.T) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
}

// TestDeleted: a reader that waits and a writer learn that the device is gone, and
// a writer that it is down.
func TestDeleted(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	w := newWire(t, "rs0")
	frame := func() []Frame {
		return []Frame{{Buf: make([]byte, 200), Off: 128, Len: 60}}
	}
	link, err := netlink.LinkByName("rs0")
	if err != nil {
		t.Fatal(err)
	}
	reading, ended := make(chan int, 10), make(chan error, 1)
	go func() {
		frames := []Frame{{Buf: make([]byte, BufferSize)}}
		for {
			n, err := tap.queues[0].ReadBatch(frames)
			if err != nil {
				ended <- err
				return
			}
			reading <- n
		}
	}()
	if err := w.send(experimental(broadcast, hereMAC, 60)); err != nil {
		t.Fatal(err)
	}
	<-reading // and then it waits, long before the kernel has taken the device apart
	if err := netlink.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	if n, err := tap.queues[0].WriteBatch(frame()); n != 0 || !errors.Is(err, ErrDown) {
		t.Errorf("write on a device that is down: %d, %v", n, err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrDeleted) {
			t.Errorf("a read that waited: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the reader still waits")
	}
	if n, err := tap.queues[0].ReadBatch([]Frame{{Buf: make([]byte, BufferSize)}}); n != 0 || !errors.Is(err, ErrDeleted) {
		t.Errorf("read: %d, %v", n, err)
	}
	if n, err := tap.queues[0].WriteBatch(frame()); n != 0 || !errors.Is(err, ErrDeleted) {
		t.Errorf("write: %d, %v", n, err)
	}
}

// TestDropped: what finds the queue full is counted, from the opening on.
func TestDropped(t *testing.T) {
	inNamespace(t)
	overfill := func(by int) {
		link, err := netlink.LinkByName("rs0")
		if err != nil {
			t.Fatal(err)
		}
		w := newWire(t, "rs0")
		for range link.Attrs().TxQLen + by {
			w.send(experimental(broadcast, hereMAC, 60)) // which is told of neither way
		}
	}
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	if full := tap.Dropped()["tap_queue_full"]; full != 0 {
		t.Errorf("%d before anything was sent", full)
	}
	overfill(7)
	if full := tap.Dropped()["tap_queue_full"]; full != 7 {
		t.Errorf("%d frames found the queue full, want 7", full)
	}
	if err := tap.queues[0].raw.Control(func(fd uintptr) {
		if err := unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	tap.Close()
	tap = mustTAP(t, Config{Name: "rs0", Queues: 1})
	if full := tap.Dropped()["tap_queue_full"]; full != 0 {
		t.Errorf("%d of another opening", full)
	}
	overfill(3)
	if full := tap.Dropped()["tap_queue_full"]; full != 3 {
		t.Errorf("%d after another opening, want 3", full)
	}
}

// TestNoAllocation: neither reading nor writing allocates, in plain form or in
// pieces.
func TestNoAllocation(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	w := newWire(t, "rs0")
	q := tap.Queues()[0]
	out := make([]byte, 100)
	out[12], out[13] = 0x88, 0xb5
	in := make([]Frame, 16)
	for i := range in {
		in[i].Buf = make([]byte, BufferSize)
	}
	if n := testing.AllocsPerRun(100, func() {
		for range 4 {
			w.send(out)
		}
		if n, err := q.ReadBatch(in); n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}); n > 4 { // the packet socket's address, once a send, is the test's own
		t.Errorf("ReadBatch of 4 frames: %v allocations", n-4)
	}
	frames := make([]Frame, 8)
	for i := range frames {
		frames[i] = Frame{Buf: make([]byte, 300), Off: Headroom, Len: 100}
	}
	frames[3].More = [][]byte{make([]byte, 50), make([]byte, 60)}
	if n := testing.AllocsPerRun(100, func() {
		if n, err := q.WriteBatch(frames); n != len(frames) || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("WriteBatch: %v allocations", n)
	}
}

// TestPiecesAreOneFrame: whether they are gathered here or by the kernel, and again after
// one of the other kind.
func TestPiecesAreOneFrame(t *testing.T) {
	inNamespace(t)
	tap := mustTAP(t, Config{Name: "rs0", Queues: 1})
	w := newWire(t, "rs0")
	header := tap.Capabilities().VirtioHeader
	for i, length := range []int{200, joinedBytes - header - 1, joinedBytes - header, joinedBytes - header + 1, 9000, 100} {
		want := make([]byte, length)
		for k := range want {
			want[k] = byte(i + k + k/251)
		}
		want[12], want[13] = 0x88, 0xb5
		f := Frame{Buf: append(make([]byte, Headroom, Headroom+60), want[:60]...), Off: Headroom, Len: 60}
		before := bytes.Clone(f.Buf)
		f.More = [][]byte{want[60:80], {}, want[80:]}
		if n, err := tap.Queues()[0].WriteBatch([]Frame{f}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		got, ok := w.receive(time.Second, func(b []byte) bool { return len(b) > 13 && b[12] == 0x88 && b[13] == 0xb5 })
		if !ok || !bytes.Equal(got, want) {
			t.Errorf("a frame of %d bytes in pieces came as one of %d, otherwise or not at all (%v)", length, len(got), ok)
		}
		if !bytes.Equal(f.Buf, before) {
			t.Errorf("the buffer of a frame of %d bytes is changed", length)
		}
	}
}

// tapOffloads are what the benchmarks are run with: the two lengths of virtio headers.
var tapOffloads = map[string]OffloadMask{"header10": OffloadAll &^ offloadTun, "header24": OffloadAll}

func BenchmarkRead100(b *testing.B) {
	for name, offloads := range tapOffloads {
		b.Run(name, func(b *testing.B) { benchmarkRead(b, offloads) })
	}
}

func benchmarkRead(b *testing.B, offloads OffloadMask) {
	tap, w := benchmarkTAP(b, offloads)
	q := tap.Queues()[0]
	in := make([]Frame, 64)
	for i := range in {
		in[i].Buf = make([]byte, BufferSize)
	}
	out := make([]byte, 100)
	out[12], out[13] = 0x88, 0xb5
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		b.StopTimer()
		for range len(in) {
			if err := w.send(out); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		for got := 0; got < len(in); {
			n, err := q.ReadBatch(in)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
		done += len(in)
	}
}

func BenchmarkWrite100(b *testing.B) {
	for name, offloads := range tapOffloads {
		b.Run(name, func(b *testing.B) { benchmarkWrite(b, offloads) })
	}
}

func benchmarkWrite(b *testing.B, offloads OffloadMask) {
	tap, _ := benchmarkTAP(b, offloads)
	q := tap.Queues()[0]
	frames := make([]Frame, 64)
	for i := range frames {
		frames[i] = Frame{Buf: make([]byte, 300), Off: Headroom, Len: 100}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(frames) {
		if _, err := q.WriteBatch(frames); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWritePieces writes four datagrams of one flow, whose payloads lie apart.
func BenchmarkWritePieces(b *testing.B) {
	for _, size := range []int{100, 400, 1200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			tap, _ := benchmarkTAP(b, OffloadAll)
			f := [1]Frame{{Buf: make([]byte, Headroom+42+size), Off: Headroom, Len: 42 + size}}
			for range 3 {
				f[0].More = append(f[0].More, make([]byte, size))
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tap.Queues()[0].WriteBatch(f[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchmarkTAP(b *testing.B, offloads OffloadMask) (*TAP, *wire) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skip(err)
	}
	tap, err := openTAP(Config{Name: "rs0", Queues: 1, Offloads: offloads})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { tap.Close() })
	link, err := netlink.LinkByName("rs0")
	if err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	return tap, &wire{fd: fd, index: link.Attrs().Index}
}
