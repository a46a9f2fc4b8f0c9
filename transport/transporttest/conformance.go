package transporttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"ripstop/transport"
)

// patience is how long the suite waits for what must come.
const patience = 5 * time.Second

// Kit is one implementation of transport.Socket, for Conformance.
type Kit struct {
	// Open makes one more socket on the same network, and says at which address the
	// others reach it. The suite closes it.
	Open func(t *testing.T) (transport.Socket, netip.AddrPort)
	// Second is another address at which every socket of Open is reached. The zero
	// value: not known, and pinning is not tested.
	Second netip.Addr
	// MTU is that of the interface in between, in bytes of IP packet, at most 9000.
	// 0: not known, and don't-fragment is not tested.
	MTU int
	// NoLocal: the socket does not know its own addresses; Local stays zero.
	NoLocal bool
	// NoDF: the socket cannot set don't-fragment and says so with errors.ErrUnsupported.
	NoDF bool
	// NoBufferSizes: kernel buffer sizes are not known to the socket.
	NoBufferSizes bool
}

// Conformance holds every transport.Socket to what its comments promise.
func Conformance(t *testing.T, kit Kit) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, kit Kit)
	}{
		{"one datagram arrives whole with its addresses", testOne},
		{"a batch goes to many peers in order", testMany},
		{"a receive takes no more than it is given", testSmallReceive},
		{"a message's own error stops no other", testOwnError},
		{"a full size datagram passes without don't-fragment", testLarge},
		{"don't-fragment makes size a result", testDF},
		{"a datagram longer than the buffer is counted", testTruncated},
		{"the source address is told and can be pinned", testPin},
		{"buffers are the caller's again after Send", testBuffers},
		{"several goroutines may send at once", testConcurrent},
		{"counters count", testStats},
		{"a train arrives as its datagrams", testTrain},
		{"a batch of trains and datagrams goes to many peers in order", testTrainBatch},
		{"a train of datagrams that the interface does not carry whole arrives", testTrainLarge},
		{"don't-fragment holds for each datagram of a train", testTrainDF},
		{"a train's errors are those of its datagrams", testTrainErrors},
		{"a train longer than the buffer leaves what is whole", testTrainTruncated},
		{"a train's source address can be pinned", testTrainPin},
		{"trains of several goroutines stay whole", testTrainConcurrent},
		{"trains are counted by their datagrams", testTrainStats},
		{"close ends everything", testClose},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, kit) })
	}
}

// end is a socket with what it has received.
type end struct {
	transport.Socket
	addr netip.AddrPort
	got  chan transport.Message // datagrams, those of a train one by one
}

// errStale stands in messages that a receive is to fill.
var errStale = errors.New("of an earlier use")

// open makes a socket whose receivers run until the test ends, with buffers of size bytes
// and up to batch messages a call.
func open(t *testing.T, kit Kit, size, batch int) *end {
	t.Helper()
	socket, addr := kit.Open(t)
	e := &end{Socket: socket, addr: addr, got: make(chan transport.Message, 4096)}
	var receivers sync.WaitGroup
	for _, receive := range socket.Receivers() {
		receivers.Go(func() {
			msgs := make([]transport.Message, batch)
			for i := range msgs {
				msgs[i].Buf = make([]byte, size)
			}
			for {
				for i := range msgs {
					msgs[i].Segment, msgs[i].Err = 1, errStale
				}
				n, err := receive(msgs)
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("receive: %v", err)
					}
					return
				}
				if n < 1 || n > batch {
					t.Errorf("receive returned %d of %d messages", n, batch)
					return
				}
				for i := range msgs[:n] {
					e.take(t, &msgs[i])
				}
			}
		})
	}
	t.Cleanup(func() {
		socket.Close()
		receivers.Wait()
	})
	return e
}

// take puts the datagrams of m, as it was received, into got.
func (e *end) take(t *testing.T, m *transport.Message) {
	if m.N > len(m.Buf) || m.Segment < 0 || m.Segment > 0 && m.Segment >= m.N {
		t.Errorf("received %d bytes of %d, segments of %d", m.N, len(m.Buf), m.Segment)
		return
	}
	one := *m
	one.Segment, one.Buf = 0, nil
	if m.N == 0 {
		e.got <- one
	}
	for b := range m.Datagrams {
		one.Buf, one.N = bytes.Clone(b), len(b)
		e.got <- one
	}
}

// next is the next datagram that arrives.
func (e *end) next(t *testing.T) transport.Message {
	t.Helper()
	select {
	case m := <-e.got:
		return m
	case <-time.After(patience):
		t.Fatalf("nothing arrived at %v within %v", e.addr, patience)
		panic("unreachable")
	}
}

// none fails if anything is there. The caller makes sure that all that could come has.
func (e *end) none(t *testing.T) {
	t.Helper()
	select {
	case m := <-e.got:
		t.Errorf("%d bytes too many at %v from %v", m.N, e.addr, m.Remote)
	default:
	}
}

// message is a message to e that holds b.
func (e *end) message(b []byte) transport.Message {
	return transport.Message{Buf: b, N: len(b), Remote: e.addr}
}

// send sends msgs and expects all to leave.
func (e *end) send(t *testing.T, msgs ...transport.Message) {
	t.Helper()
	if sent := e.Send(msgs); sent != len(msgs) {
		t.Errorf("sent %d of %d", sent, len(msgs))
	}
	for i := range msgs {
		if msgs[i].Err != nil {
			t.Errorf("message %d: %v", i, msgs[i].Err)
		}
	}
}

func testOne(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 2048, 8)
	if a.Port() != a.addr.Port() || a.Port() == 0 {
		t.Errorf("port %d, reached at %v", a.Port(), a.addr)
	}
	text := []byte("one datagram")
	m := b.message(append(bytes.Clone(text), "not sent"...))
	m.N = len(text)
	m.Err = errStale
	a.send(t, m)
	local := b.addr.Addr()
	if kit.NoLocal {
		local = netip.Addr{}
	}
	got := b.next(t)
	if !bytes.Equal(got.Buf, text) || got.Remote != a.addr || got.Local != local || got.Err != nil {
		t.Errorf("got %q from %v to %v, error %v; want %q from %v to %v", got.Buf, got.Remote, got.Local, got.Err, text, a.addr, local)
	}
}

func testMany(t *testing.T, kit Kit) {
	from := open(t, kit, 2048, 8)
	to := []*end{open(t, kit, 2048, 128), open(t, kit, 2048, 128), open(t, kit, 2048, 128)}
	const each = 100
	var msgs []transport.Message
	for i := range each * len(to) {
		b := binary.BigEndian.AppendUint32(nil, uint32(i/len(to)))
		msgs = append(msgs, to[i%len(to)].message(append(b, make([]byte, i)...)))
	}
	from.send(t, msgs...)
	for k, e := range to {
		for i := range each {
			m := e.next(t)
			if n := binary.BigEndian.Uint32(m.Buf); n != uint32(i) || m.N != 4+i*len(to)+k {
				t.Fatalf("peer %d: datagram %d of %d bytes in place of %d of %d", k, n, m.N, i, 4+i*len(to)+k)
			}
		}
		e.none(t)
	}
}

func testSmallReceive(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 2048, 1)
	var msgs []transport.Message
	for i := range 20 {
		msgs = append(msgs, b.message([]byte{byte(i)}))
	}
	a.send(t, msgs...)
	for i := range 20 {
		if m := b.next(t); m.Buf[0] != byte(i) {
			t.Fatalf("datagram %d in place of %d", m.Buf[0], i)
		}
	}
}

func testOwnError(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 2048, 8)
	long := make([]byte, 70000)
	msgs := []transport.Message{
		b.message(long),
		b.message([]byte("first")),
		b.message(nil),
		b.message(long),
		b.message(long),
		b.message([]byte("second")),
		{Buf: []byte("beyond"), N: 7, Remote: b.addr},
		{Buf: []byte("nowhere"), N: 7},
		b.message([]byte("third")),
		b.message(long),
	}
	for round := range 3 {
		if sent := a.Send(msgs); sent != 3 {
			t.Errorf("round %d: sent %d of 3", round, sent)
		}
		for i, want := range []error{syscall.EMSGSIZE, nil, syscall.EINVAL, syscall.EMSGSIZE, syscall.EMSGSIZE, nil,
			syscall.EINVAL, syscall.EAFNOSUPPORT, nil, syscall.EMSGSIZE} {
			if !errors.Is(msgs[i].Err, want) {
				t.Errorf("round %d: message %d: error %v, want %v", round, i, msgs[i].Err, want)
			}
		}
		for _, want := range []string{"first", "second", "third"} {
			if m := b.next(t); string(m.Buf) != want {
				t.Errorf("round %d: got %q, want %q", round, m.Buf, want)
			}
		}
		b.none(t)
	}
	if st := a.Stats(); st.TooBig != 12 || st.Unreachable != 3 || st.SendErrors != 6 || st.Sent != 9 {
		t.Errorf("stats %+v", st)
	}
}

func testLarge(t *testing.T, kit Kit) {
	a, b := open(t, kit, 65536, 4), open(t, kit, 65536, 4)
	for _, size := range []int{1, 1472, 1473, 9000, 65487} {
		text := bytes.Repeat([]byte{byte(size)}, size)
		a.send(t, b.message(text))
		if m := b.next(t); !bytes.Equal(m.Buf, text) {
			t.Errorf("%d bytes arrived as %d", size, m.N)
		}
	}
}

func testDF(t *testing.T, kit Kit) {
	a, b := open(t, kit, 65536, 4), open(t, kit, 65536, 4)
	if kit.NoDF {
		if err := a.SetDF(true); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("SetDF(true): %v", err)
		}
		if err := a.SetDF(false); err != nil {
			t.Errorf("SetDF(false): %v", err)
		}
		return
	}
	if kit.MTU == 0 {
		t.Skip("no interface of known MTU")
	}
	fits := kit.MTU - overhead4
	if b.addr.Addr().Is6() {
		fits = kit.MTU - overhead6
	}
	for _, on := range []bool{true, false, true} {
		if err := a.SetDF(on); err != nil {
			t.Fatal(err)
		}
		msgs := []transport.Message{
			b.message(make([]byte, fits)), b.message(make([]byte, fits+1)), b.message([]byte("behind")),
		}
		want := 3
		if on {
			want = 2
		}
		sent := a.Send(msgs)
		if sent != want || errors.Is(msgs[1].Err, syscall.EMSGSIZE) != on || msgs[0].Err != nil || msgs[2].Err != nil {
			t.Errorf("df %v: sent %d, errors %v, %v, %v", on, sent, msgs[0].Err, msgs[1].Err, msgs[2].Err)
		}
		var sizes []int
		for range sent {
			sizes = append(sizes, b.next(t).N)
		}
		if on && fmt.Sprint(sizes) != fmt.Sprint([]int{fits, 6}) || !on && fmt.Sprint(sizes) != fmt.Sprint([]int{fits, fits + 1, 6}) {
			t.Errorf("df %v: arrived %v", on, sizes)
		}
	}
}

func testTruncated(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 4), open(t, kit, 100, 4)
	a.send(t, b.message(make([]byte, 100)), b.message(make([]byte, 101)), b.message([]byte("next")))
	for _, want := range []int{100, 0, 4} {
		if m := b.next(t); m.N != want {
			t.Errorf("%d bytes, want %d", m.N, want)
		}
	}
	if st := b.Stats(); st.Truncated != 1 {
		t.Errorf("%d truncated, want 1", st.Truncated)
	}
}

func testPin(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 4), open(t, kit, 2048, 4)
	if kit.NoLocal {
		msgs := []transport.Message{b.message([]byte("pinned")), b.message([]byte("free"))}
		msgs[0].Local = a.addr.Addr()
		if sent := a.Send(msgs); sent != 1 || !errors.Is(msgs[0].Err, syscall.EADDRNOTAVAIL) {
			t.Errorf("sent %d, error %v", sent, msgs[0].Err)
		}
		if m := b.next(t); string(m.Buf) != "free" {
			t.Errorf("got %q", m.Buf)
		}
		return
	}
	if !kit.Second.IsValid() {
		t.Skip("no second address")
	}
	second := netip.AddrPortFrom(kit.Second, b.Port())
	hello := b.message([]byte("hello"))
	hello.Remote = second
	a.send(t, hello)
	got := b.next(t)
	if got.Local != kit.Second {
		t.Fatalf("came to %v, want %v", got.Local, kit.Second)
	}
	answer := transport.Message{Buf: []byte("answer"), N: 6, Remote: got.Remote, Local: got.Local}
	b.send(t, answer)
	if m := a.next(t); m.Remote != second || m.N != 6 {
		t.Errorf("answer from %v, want %v", m.Remote, second)
	}
	foreign := answer
	foreign.Local = netip.MustParseAddr("192.0.2.77")
	if answer.Remote.Addr().Is6() {
		foreign.Local = netip.MustParseAddr("2001:db8::77")
	}
	msgs := []transport.Message{foreign, answer}
	if sent := b.Send(msgs); sent != 1 || msgs[0].Err == nil || msgs[1].Err != nil {
		t.Errorf("foreign source: sent %d, errors %v, %v", sent, msgs[0].Err, msgs[1].Err)
	}
	if !errors.Is(msgs[0].Err, syscall.EINVAL) && !errors.Is(msgs[0].Err, syscall.ENETUNREACH) {
		t.Errorf("foreign source: %v", msgs[0].Err)
	}
	if m := a.next(t); m.Remote != second {
		t.Errorf("answer from %v, want %v", m.Remote, second)
	}
}

func testBuffers(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 2048, 8)
	// The messages lie in one slab, each with the next behind it as spare capacity.
	slab := make([]byte, 40)
	msgs := make([]transport.Message, 4)
	for i := range msgs {
		msgs[i] = transport.Message{Buf: slab[i*10:], N: 10, Remote: b.addr}
		copy(slab[i*10:(i+1)*10], bytes.Repeat([]byte{byte('a' + i)}, 10))
	}
	before := bytes.Clone(slab)
	a.send(t, msgs...)
	if !bytes.Equal(slab, before) {
		t.Errorf("Send wrote to the buffers: %q", slab)
	}
	clear(slab)
	for i := range msgs {
		if m := b.next(t); !bytes.Equal(m.Buf, before[i*10:(i+1)*10]) {
			t.Errorf("message %d arrived as %q", i, m.Buf)
		}
	}
}

func testConcurrent(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 2048, 64)
	const senders, each = 4, 50
	var done sync.WaitGroup
	for s := range senders {
		done.Go(func() {
			for i := range each {
				a.send(t, b.message([]byte{byte(s), byte(i)}), b.message([]byte{byte(s), byte(i)}))
			}
		})
	}
	done.Wait()
	var next [senders]int
	for range senders * each * 2 {
		m := b.next(t)
		if want := next[m.Buf[0]] / 2; int(m.Buf[1]) != want {
			t.Fatalf("sender %d: datagram %d in place of %d", m.Buf[0], m.Buf[1], want)
		}
		next[m.Buf[0]]++
	}
	b.none(t)
}

func testStats(t *testing.T, kit Kit) {
	a, b := open(t, kit, 2048, 8), open(t, kit, 2048, 8)
	for range 3 {
		a.send(t, b.message([]byte("x")), b.message([]byte("y")))
	}
	for range 6 {
		b.next(t)
	}
	sa, sb := a.Stats(), b.Stats()
	if sa.Sent != 6 || sb.Received != 6 || sa.Received != 0 || sb.Sent != 0 || sb.KernelDrops != 0 || sa.SendErrors != 0 {
		t.Errorf("sender %+v, receiver %+v", sa, sb)
	}
	if (sa.ReceiveBuffer > 0 && sa.SendBuffer > 0) == kit.NoBufferSizes {
		t.Errorf("buffers of %d and %d bytes", sa.ReceiveBuffer, sa.SendBuffer)
	}
}

func testClose(t *testing.T, kit Kit) {
	socket, addr := kit.Open(t)
	ended := make(chan error)
	for _, receive := range socket.Receivers() {
		go func() {
			msgs := []transport.Message{{Buf: make([]byte, 2048)}}
			_, err := receive(msgs)
			for err == nil {
				_, err = receive(msgs)
			}
			if _, again := receive(msgs); !errors.Is(again, net.ErrClosed) {
				err = fmt.Errorf("the second time: %w", again)
			}
			ended <- err
		}()
	}
	if err := socket.Close(); err != nil {
		t.Error(err)
	}
	for range socket.Receivers() {
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("receive after close: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("a receive did not end")
		}
	}
	msgs := []transport.Message{{Buf: []byte("x"), N: 1, Remote: addr}, {Buf: []byte("yz"), N: 2, Segment: 1, Remote: addr}}
	if sent := socket.Send(msgs); sent != 0 || !errors.Is(msgs[0].Err, net.ErrClosed) || !errors.Is(msgs[1].Err, net.ErrClosed) {
		t.Errorf("send after close: %d sent, errors %v, %v", sent, msgs[0].Err, msgs[1].Err)
	}
	if err := socket.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	socket.Stats()
}
