package transport_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ripstop/transport"
)

var (
	loopback  = netip.MustParseAddr("127.0.0.1")
	loopback2 = netip.MustParseAddr("127.0.0.2")
)

// receiveOne receives one message, whatever receiver it comes by.
func receiveOne(t *testing.T, b transport.Socket) transport.Message {
	t.Helper()
	got := make(chan transport.Message, 1)
	for _, receive := range b.Receivers() {
		go func() {
			msgs := []transport.Message{{Buf: make([]byte, 2048)}}
			if _, err := receive(msgs); err == nil {
				got <- msgs[0]
			}
		}()
	}
	select {
	case m := <-got:
		return m
	case <-time.After(5 * time.Second):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

// text is a message to port at addr.
func text(addr string, port uint16, s string) transport.Message {
	return transport.Message{Buf: []byte(s), N: len(s), Remote: netip.AddrPortFrom(netip.MustParseAddr(addr), port)}
}

func TestBindConfig(t *testing.T) {
	for _, cfg := range []transport.BindConfig{{Batch: -1}, {Batch: 1025}, {Sockets: -1}, {ReceiveBuffer: -1}, {SendBuffer: -1},
		{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, // not this host's
	} {
		if b, err := transport.Bind(cfg); err == nil {
			b.Close()
			t.Errorf("%+v was taken", cfg)
		}
	}
}

// TestBindPortTaken: whoever has the port, in whatever way, the error says which.
func TestBindPortTaken(t *testing.T) {
	for _, cfg := range []transport.BindConfig{
		{Addresses: []netip.Addr{loopback}},
		{Addresses: []netip.Addr{loopback}, Sockets: 2},
	} {
		first := bind(t, cfg)
		cfg.Port = first.Port()
		b, err := transport.Bind(cfg)
		if err == nil {
			b.Close()
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%d sockets: %v", cfg.Sockets, err)
			continue
		}
		if want := fmt.Sprintf("transport: bind udp 127.0.0.1:%d: ", first.Port()); !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %q does not start with %q", err, want)
		}
	}
}

// TestBindLeavesNothing: what was opened before the socket that cannot be is closed, and so
// is everything when it is closed while it sends.
func TestBindLeavesNothing(t *testing.T) {
	bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}}) // Go's own poller is there from now on
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	if _, err := transport.Bind(transport.BindConfig{Addresses: []netip.Addr{loopback, netip.MustParseAddr("192.0.2.1")}, Sockets: 3}); err == nil {
		t.Error("an address that is not this host's was taken")
	}
	if after := open(); after != before {
		t.Errorf("after an error %d descriptors, %d before", after, before)
	}
	b, err := transport.Bind(transport.BindConfig{Addresses: []netip.Addr{loopback}, Sockets: 3})
	if err != nil {
		t.Fatal(err)
	}
	sending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		msgs := []transport.Message{text("127.0.0.1", b.Port(), "x")}
		b.Send(msgs)
		close(sending)
		for msgs[0].Err != error(net.ErrClosed) {
			b.Send(msgs)
		}
	}()
	<-sending
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	<-ended
	if after := open(); after != before {
		t.Errorf("after Close %d descriptors, %d before", after, before)
	}
}

// TestBindCommonPort: of four ports that the kernel may choose, one is free in both
// families; it is found.
func TestBindCommonPort(t *testing.T) {
	ns := newNamespace(t, 65536)
	ns.do(func() {
		ns.must(os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40003"), 0))
		for _, taken := range []string{"[::]:40000", "[::]:40001", "[::]:40003"} {
			conn, err := net.ListenPacket("udp6", taken)
			ns.must(err)
			if err == nil {
				t.Cleanup(func() { conn.Close() })
			}
		}
		b, err := transport.Bind(transport.BindConfig{})
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		if b.Port() != 40002 || len(b.Receivers()) != 2 {
			t.Errorf("port %d, %d receivers", b.Port(), len(b.Receivers()))
		}
	})
}

// TestBindOneFamily: where the kernel has no IPv6, IPv4 does; where it is asked for by
// address, its absence is an error. The filter is of the thread that dies with it.
func TestBindOneFamily(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := denySockets(unix.AF_INET6); err != nil {
			t.Errorf("deny IPv6 sockets: %v", err)
			return
		}
		b, err := transport.Bind(transport.BindConfig{})
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		if addrs := b.Addresses(); len(addrs) != 1 || !addrs[0].Is4() {
			t.Errorf("sockets at %v", addrs)
		}
		msgs := []transport.Message{text("::1", 9, "six"), text("127.0.0.1", b.Port(), "four")}
		if sent := b.Send(msgs); sent != 1 || !errors.Is(msgs[0].Err, unix.EAFNOSUPPORT) {
			t.Errorf("sent %d, errors %v, %v", sent, msgs[0].Err, msgs[1].Err)
		}
		if got := receiveOne(t, b); string(got.Bytes()) != "four" {
			t.Errorf("got %q", got.Bytes())
		}
		if b, err := transport.Bind(transport.BindConfig{Addresses: []netip.Addr{loopback, netip.IPv6Loopback()}}); err == nil {
			b.Close()
			t.Error("an address of the missing family was taken")
		}
	}()
	<-done
}

// denySockets lets socket(2) of a family fail with EAFNOSUPPORT in the calling thread.
func denySockets(family uint32) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	// struct seccomp_data: the number at 0, the first argument's low half at 16.
	low := uint32(16)
	if one := 1; *(*byte)(unsafe.Pointer(&one)) == 0 {
		low += 4
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: low},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: family, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// TestBindIPv6Disabled: with IPv6 turned off by sysctl its sends fail one by one.
func TestBindIPv6Disabled(t *testing.T) {
	ns := newNamespace(t, 65536)
	ns.do(func() {
		ns.must(os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0))
		b, err := transport.Bind(transport.BindConfig{})
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		msgs := []transport.Message{text("fd00:9::1", b.Port(), "six"), text("10.9.0.1", b.Port(), "four")}
		if sent := b.Send(msgs); sent != 1 || msgs[0].Err == nil || msgs[1].Err != nil {
			t.Errorf("sent %d, errors %v, %v", sent, msgs[0].Err, msgs[1].Err)
		}
		if st := b.Stats(); st.Unreachable != 1 {
			t.Errorf("%v counted as %+v", msgs[0].Err, st)
		}
	})
}

// TestSendErrors: each way in which the kernel refuses a datagram is a result of that
// datagram, counted by reason, and the others of the batch arrive.
func TestSendErrors(t *testing.T) {
	ns := newNamespace(t, 1500)
	var b *transport.LinuxBind
	ns.do(func() {
		ns.addRoute("10.20.0.0/24", unix.RTN_UNREACHABLE)
		ns.addRoute("10.21.0.0/24", unix.RTN_PROHIBIT)
		ns.addRoute("fd00:20::/64", unix.RTN_UNREACHABLE)
		ns.addRoute("fd00:21::/64", unix.RTN_PROHIBIT)
		var err error
		b, err = transport.Bind(transport.BindConfig{})
		ns.must(err)
	})
	if b == nil {
		return
	}
	t.Cleanup(func() { b.Close() })
	watch(t, b)
	port := b.Port()
	for _, test := range []struct {
		bad   transport.Message
		want  unix.Errno
		count func(transport.SocketStats) uint64
	}{
		{text("10.20.0.1", 9, "x"), unix.EHOSTUNREACH, func(s transport.SocketStats) uint64 { return s.Unreachable }},
		{text("10.21.0.1", 9, "x"), unix.EACCES, func(s transport.SocketStats) uint64 { return s.Refused }},
		{text("192.0.2.1", 9, "x"), unix.ENETUNREACH, func(s transport.SocketStats) uint64 { return s.Unreachable }},
		{text("fd00:20::1", 9, "x"), unix.EHOSTUNREACH, func(s transport.SocketStats) uint64 { return s.Unreachable }},
		{text("fd00:21::1", 9, "x"), unix.EACCES, func(s transport.SocketStats) uint64 { return s.Refused }},
		{text("2001:db8::1", 9, "x"), unix.ENETUNREACH, func(s transport.SocketStats) uint64 { return s.Unreachable }},
		{text("fe80::1%none0", 9, "x"), unix.EADDRNOTAVAIL, func(s transport.SocketStats) uint64 { return s.Unreachable }},
		{text("10.9.0.1", port, strings.Repeat("x", 65508)), unix.EMSGSIZE, func(s transport.SocketStats) uint64 { return s.TooBig }},
		{text("10.9.0.1", 0, "x"), unix.EINVAL, func(s transport.SocketStats) uint64 { return s.SendErrors }},
	} {
		msgs := []transport.Message{text("10.9.0.1", port, "four"), test.bad, text("fd00:9::1", port, "six"), test.bad, text("10.9.0.2", port, "four")}
		before := test.count(b.Stats())
		if sent := b.Send(msgs); sent != 3 {
			t.Errorf("%v: sent %d of 3", test.bad.Remote, sent)
		}
		for i, m := range msgs {
			if i%2 == 1 && m.Err != test.want || i%2 == 0 && m.Err != nil {
				t.Errorf("%v: message %d: %v", test.bad.Remote, i, m.Err)
			}
		}
		if counted := test.count(b.Stats()) - before; counted != 2 {
			t.Errorf("%v: %d counted", test.bad.Remote, counted)
		}
		for k, want := range []int{2, 1} {
			msgs := make([]transport.Message, 8)
			for i := range msgs {
				msgs[i].Buf = make([]byte, 10)
			}
			for got := 0; got < want; {
				n, err := b.Receivers()[k](msgs)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		}
	}
}

// TestPeerWithoutSocket: the ICMP that a closed port answers with is no error of ours.
func TestPeerWithoutSocket(t *testing.T) {
	gone := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	port := gone.Port()
	gone.Close()
	b := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	for range 5 {
		if sent := b.Send([]transport.Message{text("127.0.0.1", port, "anybody")}); sent != 1 {
			t.Error("a closed port at the peer failed a send")
		}
	}
	b.Send([]transport.Message{text("127.0.0.1", b.Port(), "self")})
	if got := receiveOne(t, b); string(got.Bytes()) != "self" {
		t.Errorf("got %q", got.Bytes())
	}
}

// TestBindAddresses: with several addresses a datagram leaves from the one wanted, else
// from the one most like its destination.
func TestBindAddresses(t *testing.T) {
	b := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback, loopback2, netip.IPv6Loopback()}})
	peer := bind(t, transport.BindConfig{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.3")}})
	for _, test := range []struct{ local, want netip.Addr }{
		{netip.Addr{}, loopback2}, // 127.0.0.3 is 127.0.0.2 but for its last bit
		{loopback, loopback},
		{loopback2, loopback2},
		{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.9")}, // this host's, but no socket's
	} {
		m := text("127.0.0.3", peer.Port(), "x")
		m.Local = test.local
		if b.Send([]transport.Message{m}) != 1 {
			t.Errorf("local %v: not sent", test.local)
			continue
		}
		if got := receiveOne(t, peer); got.Remote != netip.AddrPortFrom(test.want, b.Port()) {
			t.Errorf("local %v: came from %v, want %v", test.local, got.Remote, test.want)
		}
	}
	m := text("127.0.0.3", peer.Port(), "x")
	m.Local = netip.IPv6Loopback()
	msgs := []transport.Message{m}
	if b.Send(msgs) != 0 || msgs[0].Err != error(unix.EINVAL) {
		t.Errorf("source of the other family: %v", msgs[0].Err)
	}
}

// TestBindSockets: several kernel sockets share a port; each peer meets one of them, and
// many peers more than one.
func TestBindSockets(t *testing.T) {
	b := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}, Sockets: 4})
	if len(b.Receivers()) != 4 {
		t.Fatalf("%d receivers", len(b.Receivers()))
	}
	type arrival struct {
		socket int
		from   netip.AddrPort
	}
	arrivals := make(chan arrival, 256)
	for i, receive := range b.Receivers() {
		go func() {
			msgs := []transport.Message{{Buf: make([]byte, 64)}}
			for {
				if _, err := receive(msgs); err != nil {
					return
				}
				arrivals <- arrival{i, msgs[0].Remote}
			}
		}()
	}
	const peers, each = 32, 4
	for range peers {
		peer := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
		for range each {
			peer.Send([]transport.Message{text("127.0.0.1", b.Port(), "x")})
		}
	}
	of := make(map[netip.AddrPort]int)
	used := make(map[int]bool)
	for range peers * each {
		select {
		case a := <-arrivals:
			if s, known := of[a.from]; known && s != a.socket {
				t.Errorf("%v met sockets %d and %d", a.from, s, a.socket)
			}
			of[a.from], used[a.socket] = a.socket, true
		case <-time.After(5 * time.Second):
			t.Fatal("datagrams are missing")
		}
	}
	if len(used) < 2 {
		t.Errorf("%d peers used %d sockets", peers, len(used))
	}
}

// TestKernelDrops: what the kernel drops for want of room is counted, all of it.
func TestKernelDrops(t *testing.T) {
	b := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}, ReceiveBuffer: 20000})
	from := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	watch(t, b)
	const sent = 500
	send := func(n int) {
		for range n {
			if from.Send([]transport.Message{text("127.0.0.1", b.Port(), strings.Repeat("x", 500))}) != 1 {
				t.Fatal("not sent")
			}
		}
	}
	send(sent)
	receive := b.Receivers()[0]
	msgs := make([]transport.Message, 16)
	for i := range msgs {
		msgs[i].Buf = make([]byte, 600)
	}
	// The number comes beside a datagram that is put in after the drops.
	if _, err := receive(msgs); err != nil {
		t.Fatal(err)
	}
	send(1)
	deadline := time.Now().Add(5 * time.Second)
	for st := b.Stats(); st.Received+st.KernelDrops != sent+1; st = b.Stats() {
		if time.Now().After(deadline) {
			t.Fatalf("%d received and %d dropped of %d", st.Received, st.KernelDrops, sent+1)
		}
		if _, err := receive(msgs); err != nil {
			t.Fatal(err)
		}
	}
	if st := b.Stats(); st.KernelDrops == 0 {
		t.Error("nothing was dropped: the test shows nothing")
	}
}

// TestBufferSizes: with privilege the sizes asked for are granted beyond the system's
// limit, else up to it; either way Stats tells.
func TestBufferSizes(t *testing.T) {
	b := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}, ReceiveBuffer: 32 << 20, SendBuffer: 16 << 20})
	st := b.Stats()
	if st.ReceiveBuffer == 0 || st.SendBuffer == 0 {
		t.Fatalf("sizes %d and %d", st.ReceiveBuffer, st.SendBuffer)
	}
	needRoot(t)
	if st.ReceiveBuffer != 64<<20 || st.SendBuffer != 32<<20 {
		t.Errorf("sizes %d and %d, want twice what was asked for", st.ReceiveBuffer, st.SendBuffer)
	}
}

// TestAllocations: neither a batch to several peers of both families, with pinned
// sources and one message that is refused, nor its receiving allocates.
func TestAllocations(t *testing.T) {
	b := bind(t, transport.BindConfig{})
	watch(t, b)
	const count = 32
	out, in := make([]transport.Message, count), make([]transport.Message, count)
	for i := range out {
		in[i].Buf = make([]byte, 2048)
		out[i] = text("127.0.0.1", b.Port(), strings.Repeat("x", 1000))
		if i%2 == 1 {
			out[i] = text("::1", b.Port(), strings.Repeat("x", 1000))
		}
		if i%4 < 2 {
			out[i].Local = out[i].Remote.Addr()
		}
	}
	out[count-1].Buf, out[count-1].N = make([]byte, 70000), 70000
	round := func() {
		if sent := b.Send(out); sent != count-1 {
			t.Fatalf("sent %d", sent)
		}
		for k, want := range []int{count / 2, count/2 - 1} {
			for got := 0; got < want; {
				n, err := b.Receivers()[k](in)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		}
	}
	round()
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
	if in[0].N != 1000 || !in[0].Local.IsValid() {
		t.Errorf("received %+v", in[0])
	}
}

// BenchmarkBatch is 64 datagrams of 1400 bytes from one socket to another over loopback.
func BenchmarkBatch(b *testing.B) {
	const count, size = 64, 1400
	for _, kind := range []string{"linux", "std"} {
		b.Run(kind, func(b *testing.B) {
			open := func() (transport.Socket, error) {
				if kind == "std" {
					return transport.StdSocket(0)
				}
				return transport.Bind(transport.BindConfig{})
			}
			from, err := open()
			if err != nil {
				b.Fatal(err)
			}
			defer from.Close()
			to, err := open()
			if err != nil {
				b.Fatal(err)
			}
			defer to.Close()
			receive := to.Receivers()[0]
			out, in := make([]transport.Message, count), make([]transport.Message, count)
			for i := range out {
				in[i].Buf = make([]byte, 2048)
				out[i] = transport.Message{Buf: make([]byte, size), N: size, Remote: netip.AddrPortFrom(loopback, to.Port())}
				binary.BigEndian.PutUint32(out[i].Buf, uint32(i))
			}
			b.ReportAllocs()
			b.SetBytes(count * size)
			for b.Loop() {
				if sent := from.Send(out); sent != count {
					b.Fatalf("sent %d: %v", sent, out[0].Err)
				}
				for got := 0; got < count; {
					n, err := receive(in)
					if err != nil {
						b.Fatal(err)
					}
					got += n
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/datagram")
		})
	}
}
