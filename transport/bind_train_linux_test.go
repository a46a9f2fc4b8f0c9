package transport_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ripstop/transport"
)

// train is a message of count datagrams of segment bytes and one of last bytes.
func train(addr string, port uint16, segment, count, last int) transport.Message {
	b := make([]byte, segment*count+last)
	for i := range b {
		b[i] = byte(i/segment + 7*(i%segment))
	}
	return transport.Message{Buf: b, N: len(b), Segment: segment, Remote: netip.AddrPortFrom(netip.MustParseAddr(addr), port)}
}

// receiveBytes receives messages until they hold n bytes, and returns them.
func receiveBytes(t *testing.T, b *transport.LinuxBind, n int) (got []transport.Message) {
	t.Helper()
	watch(t, b)
	for n > 0 {
		msgs := make([]transport.Message, 4)
		for i := range msgs {
			msgs[i].Buf = make([]byte, 1<<16)
		}
		count, err := b.Receivers()[0](msgs)
		if err != nil {
			t.Fatalf("receive: %v, %d bytes are missing", err, n)
		}
		for _, m := range msgs[:count] {
			n -= m.N
		}
		got = append(got, msgs[:count]...)
	}
	return got
}

// counts are how many datagrams each message has.
func counts(msgs []transport.Message) (all []int) {
	for i := range msgs {
		n := 0
		for range msgs[i].Datagrams {
			n++
		}
		all = append(all, n)
	}
	return all
}

// TestTrainCut: a train leaves by as few calls as the kernel and MaxTrain allow, and
// comes as it left; without one of the offloads it comes datagram by datagram.
func TestTrainCut(t *testing.T) {
	to := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	from := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	most := from.MaxSegments()
	for _, n := range []int{most, most + 1} {
		if err := sendSegments(t, n); (err == nil) != (n == most) {
			t.Errorf("at most %d segments, but of %d: %v", most, n, err)
		}
	}
	// The kernel gathers up to 64 of what it cut up itself (net/ipv4/udp_offload.c), but
	// over loopback it cuts nothing.
	for _, test := range []struct {
		segment, count, last int
		want                 []int
	}{
		{100, most, 0, []int{most}},
		{100, most - 1, 1, []int{most}},
		{100, most, 1, []int{most, 1}},
		{100, 2*most + 2, 0, []int{most, most, 2}},
		{1400, 93, 10, []int{46, 46, 2}},
		{1300, 50, 0, []int{50}}, // 65000 bytes
		{1300, 50, 1, []int{50, 1}},
		{32500, 3, 0, []int{2, 1}},
		{32501, 3, 0, []int{1, 1, 1}},
		{500, 1, 0, []int{1}},
	} {
		m := train("127.0.0.1", to.Port(), test.segment, test.count, test.last)
		if from.Send([]transport.Message{m}) != 1 {
			t.Fatal("not sent")
		}
		got := receiveBytes(t, to, m.N)
		if !slices.Equal(counts(got), test.want) {
			t.Errorf("%d datagrams of %d bytes and one of %d: came as %v, want %v", test.count, test.segment, test.last, counts(got), test.want)
		}
		var all []byte
		for i := range got {
			all = append(all, got[i].Bytes()...)
		}
		if !bytes.Equal(all, m.Bytes()) {
			t.Errorf("%d datagrams of %d bytes came otherwise", test.count, test.segment)
		}
	}
	if st := from.Stats(); st.RefusedTrains != 0 || !st.Segmentation || !st.Gathering {
		t.Errorf("stats %+v", st)
	}
	for _, cfg := range []transport.BindConfig{{NoSegmentation: true}, {NoGathering: true}} {
		cfg.Addresses = []netip.Addr{loopback}
		from, to := bind(t, cfg), bind(t, cfg)
		m := train("127.0.0.1", to.Port(), 1000, 20, 1)
		if from.Send([]transport.Message{m}) != 1 {
			t.Fatal("not sent")
		}
		if got := counts(receiveBytes(t, to, m.N)); len(got) != 21 {
			t.Errorf("%+v: came as %v", cfg, got)
		}
		if st := from.Stats(); st.Segmentation == cfg.NoSegmentation || st.Gathering == cfg.NoGathering || (from.MaxSegments() == 1) != cfg.NoSegmentation {
			t.Errorf("%+v: stats %+v", cfg, st)
		}
	}
}

// TestNoLocal: what nobody asks for is not told, and all else is.
func TestNoLocal(t *testing.T) {
	for _, addr := range []netip.Addr{loopback, netip.IPv6Loopback()} {
		for _, without := range []bool{false, true} {
			b := bind(t, transport.BindConfig{Addresses: []netip.Addr{addr}, NoLocal: without})
			m := train(addr.String(), b.Port(), 1000, 5, 1)
			if b.Send([]transport.Message{m}) != 1 {
				t.Fatal("not sent")
			}
			got := receiveBytes(t, b, m.N)
			if len(got) != 1 || got[0].Segment != 1000 || got[0].Remote != m.Remote || !bytes.Equal(got[0].Bytes(), m.Bytes()) {
				t.Fatalf("%v: came as %v", addr, counts(got))
			}
			if got[0].Local.IsValid() == without {
				t.Errorf("%v: NoLocal is %v, and it came to %v", addr, without, got[0].Local)
			}
		}
	}
}

// sendSegments sends one train of n segments over a plain socket to itself.
func sendSegments(t *testing.T, n int) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const size = 100
	control := make([]byte, unix.CmsgSpace(2))
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	hdr.Level, hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	hdr.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&control[unix.CmsgLen(0)])) = size
	_, _, err = conn.WriteMsgUDP(make([]byte, n*size), control, conn.LocalAddr().(*net.UDPAddr))
	return err
}

// TestTrainRefused: where a way refuses trains with EIO, their datagrams leave one by
// one in their place, that way is remembered, and others keep their trains. The kernel
// at hand may have no such way: a filter of this thread refuses each sendmmsg of one
// message, which a lone train is.
func TestTrainRefused(t *testing.T) {
	to := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	other := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback2}})
	from := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	done := make(chan struct{})
	send := func(want int, msgs ...transport.Message) {
		if sent := from.Send(msgs); sent != want {
			t.Errorf("sent %d of %d, error %v", sent, want, msgs[0].Err)
		}
	}
	lone := train("127.0.0.1", to.Port(), 1000, 10, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := refuseLoneMessages(unix.EIO); err != nil {
			t.Errorf("refuse lone messages: %v", err)
			return
		}
		send(0, text("127.0.0.1", to.Port(), "proves the filter"))
		send(1, lone)
		send(1, lone)
		send(2, lone, train("127.0.0.2", other.Port(), 1000, 10, 1))
	}()
	<-done
	got := receiveBytes(t, to, 3*lone.N)
	if len(got) != 33 {
		t.Errorf("came as %v", counts(got))
	}
	for i, m := range got {
		want := lone.Buf[i%11*1000 : min(i%11*1000+1000, lone.N)]
		if !bytes.Equal(m.Bytes(), want) {
			t.Fatalf("datagram %d is not what was sent", i)
		}
	}
	if got := counts(receiveBytes(t, other, lone.N)); !slices.Equal(got, []int{11}) {
		t.Errorf("to the other address: came as %v", got)
	}
	if st := from.Stats(); st.RefusedTrains != 1 || st.Unsegmented != 1 || !st.Segmentation || st.Sent != 44 || st.SendErrors != 1 {
		t.Errorf("stats %+v", st)
	}
}

// refuseLoneMessages lets sendmmsg(2) of one message fail in the calling thread.
func refuseLoneMessages(errno unix.Errno) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	// struct seccomp_data: the number at 0, the third argument's low half at 32.
	low := uint32(32)
	if one := 1; *(*byte)(unsafe.Pointer(&one)) == 0 {
		low += 4
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SENDMMSG, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: low},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 1, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// TestTrainTruncated: of a gathered train longer than the buffer the whole datagrams
// come, and those that had no room are counted one by one.
func TestTrainTruncated(t *testing.T) {
	for _, test := range []struct{ buffer, bytes, segment, lost int }{
		{4000, 3100, 300, 0}, // 10 of 300 and one of 100
		{3100, 3100, 300, 0},
		{3099, 3000, 300, 1},
		{1000, 900, 300, 8},
		{900, 900, 300, 8},
		{599, 300, 0, 10},
		{299, 0, 0, 11},
	} {
		from := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
		to := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
		watch(t, to)
		m := train("127.0.0.1", to.Port(), 300, 10, 100)
		from.Send([]transport.Message{m})
		got := []transport.Message{{Buf: make([]byte, test.buffer)}}
		if n, err := to.Receivers()[0](got); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if got[0].N != test.bytes || got[0].Segment != test.segment || !bytes.Equal(got[0].Bytes(), m.Buf[:test.bytes]) {
			t.Errorf("buffer of %d: %d bytes in segments of %d, want %d in %d", test.buffer, got[0].N, got[0].Segment, test.bytes, test.segment)
		}
		if st := to.Stats(); st.Truncated != uint64(test.lost) || st.Received != uint64(11-test.lost) {
			t.Errorf("buffer of %d: stats %+v, %d are lost", test.buffer, st, test.lost)
		}
	}
}

// TestTrainLargeRefused: trains of datagrams that the device does not carry whole are
// refused by the kernel each time, and nothing is remembered: it is the path's MTU that
// will be.
func TestTrainLargeRefused(t *testing.T) {
	ns := newNamespace(t, 1500)
	var b *transport.LinuxBind
	var err error
	ns.do(func() {
		b, err = transport.Bind(transport.BindConfig{Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1")}})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	large, fits := train("10.9.0.1", b.Port(), 1473, 5, 0), train("10.9.0.1", b.Port(), 1472, 5, 0)
	if sent := b.Send([]transport.Message{large, fits, large}); sent != 3 {
		t.Errorf("sent %d", sent)
	}
	if got := counts(receiveBytes(t, b, 2*large.N+fits.N)); !slices.Equal(got, []int{1, 1, 1, 1, 1, 5, 1, 1, 1, 1, 1}) {
		t.Errorf("came as %v", got)
	}
	if st := b.Stats(); st.RefusedTrains != 2 || st.Unsegmented != 0 || st.TooBig != 0 || st.Sent != 15 {
		t.Errorf("stats %+v", st)
	}
}

// TestTrainAllocations: trains allocate nothing, neither sent whole, nor refused and
// sent one by one, nor cut up, nor received.
func TestTrainAllocations(t *testing.T) {
	ns := newNamespace(t, 1500)
	for _, cfg := range []transport.BindConfig{{}, {NoSegmentation: true}} {
		cfg.Addresses = []netip.Addr{netip.MustParseAddr("10.9.0.1")}
		var b *transport.LinuxBind
		var err error
		ns.do(func() { b, err = transport.Bind(cfg) })
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		watch(t, b)
		addr, port := "10.9.0.1", b.Port()
		out := []transport.Message{train(addr, port, 1400, 45, 3), train(addr, port, 1600, 20, 1), text(addr, port, "single"),
			train(addr, port, 1000, 100, 0), train(addr, port, 66000, 1, 10)}
		for i := range out {
			out[i].Local = netip.MustParseAddr("10.9.0.2")
		}
		in := make([]transport.Message, 16)
		for i := range in {
			in[i].Buf = make([]byte, 1<<16)
		}
		round := func() {
			if sent := b.Send(out); sent != 4 || !errors.Is(out[4].Err, unix.EMSGSIZE) {
				t.Fatalf("sent %d, %v", sent, out[4].Err)
			}
			for got := 0; got < 45*1400+3+20*1600+1+6+100000+10; {
				n, err := b.Receivers()[0](in)
				if err != nil {
					t.Fatal(err)
				}
				for i := range in[:n] {
					got += in[i].N
				}
			}
		}
		round()
		if n := testing.AllocsPerRun(50, round); n != 0 {
			t.Errorf("%+v: %v allocations a batch", cfg, n)
		}
		if refused := b.Stats().RefusedTrains; (refused > 0) == cfg.NoSegmentation {
			t.Errorf("%+v: %d refused", cfg, refused)
		}
	}
}

// BenchmarkTrain is 45 datagrams of 1400 bytes from one socket to another over loopback,
// as one message and as 45.
func BenchmarkTrain(b *testing.B) {
	const count, size = 45, 1400
	for _, kind := range []struct {
		name  string
		train bool
		cfg   transport.BindConfig
	}{
		{"train", true, transport.BindConfig{}},
		{"train/no-gathering", true, transport.BindConfig{NoGathering: true}},
		{"train/no-segmentation", true, transport.BindConfig{NoSegmentation: true}},
		{"singly", false, transport.BindConfig{}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			from, to := bind(b, kind.cfg), bind(b, kind.cfg)
			receive := to.Receivers()[0]
			out := []transport.Message{train("127.0.0.1", to.Port(), size, count, 0)}
			if !kind.train {
				whole := out[0]
				out = nil
				for d := range whole.Datagrams {
					out = append(out, transport.Message{Buf: d, N: len(d), Remote: whole.Remote})
				}
			}
			in := make([]transport.Message, 64)
			for i := range in {
				in[i].Buf = make([]byte, 1<<16)
			}
			b.ReportAllocs()
			b.SetBytes(count * size)
			for b.Loop() {
				if sent := from.Send(out); sent != len(out) {
					b.Fatalf("sent %d: %v", sent, out[0].Err)
				}
				for got := 0; got < count*size; {
					n, err := receive(in)
					if err != nil {
						b.Fatal(err)
					}
					for i := range in[:n] {
						got += in[i].N
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/datagram")
		})
	}
}
