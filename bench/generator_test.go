package main

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	start := time.Now()
	p := pace{rate: 1000, startedAt: start}
	at := func(ms int, sent uint64, want int) {
		t.Helper()
		if got := p.due(start.Add(time.Duration(ms)*time.Millisecond), sent); got != want {
			t.Errorf("after %d ms with %d sent: %d due, want %d", ms, sent, got, want)
		}
	}
	at(0, 0, 0)
	at(3, 0, 3)
	at(3, 3, 0)
	at(7, 3, 4)
	// A stall of 93 ms is forgiven but for the last 5 ms.
	at(100, 7, 6)
	at(100, 13, 0)
	at(102, 13, 2)

	p = pace{rate: 1e6, startedAt: start}
	at(4, 0, sendBatch)
	p = pace{startedAt: start}
	at(0, 1<<40, sendBatch)
}

// TestPaceKeepsTheRate: whatever the steps, what is due adds up to the rate.
func TestPaceKeepsTheRate(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	start := time.Now()
	p := pace{rate: 12_345, startedAt: start}
	var sent uint64
	for now := start; now.Before(start.Add(time.Second)); now = now.Add(time.Duration(random.Int64N(int64(maxDebt)))) {
		for n := p.due(now, sent); n > 0; n = p.due(now, sent) {
			sent += uint64(n)
		}
	}
	if sent < 12_200 || sent > 12_345 {
		t.Errorf("%d sent in a second", sent)
	}
}

func TestBitmap(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	var m bitmap
	seen := make(map[uint64]bool)
	for range 10_000 {
		n := random.Uint64N(1 << uint(1+random.IntN(20)))
		if got := m.add(n); got == seen[n] {
			t.Fatalf("%d: new %v, want %v", n, got, !seen[n])
		}
		seen[n] = true
	}
	if m.add(1 << 63) {
		t.Error("a number beyond every run was taken")
	}
}

// freePort is a UDP address on the loopback that nobody has.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestSendReceive: at a rate the loopback carries with ease everything arrives, and
// foreign and doubled datagrams are not counted.
func TestSendReceive(t *testing.T) {
	for _, size := range []int{headerSize, 100, 1200} {
		cfg := generatorConfig{Addr: freePort(t), Run: 7, Size: size, Rate: 2000, Seconds: 0.2}
		var ended atomic.Bool
		type outcome struct {
			result generatorResult
			err    error
		}
		listening, done := make(chan struct{}), make(chan outcome, 1)
		go func() {
			r, err := receive(cfg, &ended, func() { close(listening) })
			done <- outcome{r, err}
		}()
		select {
		case <-listening:
		case o := <-done:
			t.Fatal(o.err)
		}
		conn, err := net.Dial("udp", cfg.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		b := make([]byte, size)
		putHeader(b, 8, 1<<20) // another run's
		conn.Write(b)
		putHeader(b, 7, 0) // this run's first, which comes once more
		conn.Write(b)
		conn.Write(b[:headerSize-1])
		sent, err := send(cfg)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(drain)
		ended.Store(true)
		o := <-done
		if o.err != nil {
			t.Fatal(o.err)
		}
		if o.result.Received != sent.Sent {
			t.Errorf("%d bytes: %d of %d received", size, o.result.Received, sent.Sent)
		}
		if sent.Sent < 200 || sent.Sent > 400 {
			t.Errorf("%d bytes: %d sent in 0.2 s at 2000 a second", size, sent.Sent)
		}
	}
}

func TestRequestEcho(t *testing.T) {
	cfg := generatorConfig{Job: jobRequest, Addr: freePort(t), Run: 9, Size: requestSize, Seconds: 0.1}
	var ended atomic.Bool
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- echo(cfg, &ended, func() { close(listening) }) }()
	select {
	case <-listening:
	case err := <-done:
		t.Fatal(err)
	}
	oneByOne, err := request(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Count, cfg.EveryNs = 25, int64(time.Millisecond)
	timed, err := request(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if oneByOne.Received == 0 || oneByOne.Sent != oneByOne.Received || len(oneByOne.Samples) != int(oneByOne.Received) {
		t.Errorf("one by one: %d sent, %d answered, %d samples", oneByOne.Sent, oneByOne.Received, len(oneByOne.Samples))
	}
	if timed.Sent != 25 || timed.Received != 25 || timed.Seconds < 0.024 {
		t.Errorf("every millisecond: %d sent, %d answered in %.3f s", timed.Sent, timed.Received, timed.Seconds)
	}
}

func TestRequestWithoutAnswer(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cfg := generatorConfig{Job: jobRequest, Addr: silent.LocalAddr().(*net.UDPAddr).AddrPort(), Run: 9, Size: requestSize, Count: 3, EveryNs: int64(time.Millisecond)}
	r, err := request(cfg)
	if err != nil || r.Sent != 3 || r.Received != 0 || len(r.Samples) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPing(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("RIPSTOP_CI") != "" {
			t.Fatal("raw sockets need root")
		}
		t.Skip("raw sockets need root")
	}
	cfg := generatorConfig{Job: jobPing, Addr: netip.MustParseAddrPort("127.0.0.1:0"), Run: 11, Size: pingSize, Count: 20, EveryNs: int64(time.Millisecond)}
	r, err := request(cfg)
	if err != nil || r.Sent != 20 || r.Received != 20 || len(r.Samples) != 20 {
		t.Errorf("%d sent, %d answered, %v", r.Sent, r.Received, err)
	}
}

// TestTookChecksEverything: an answer counts once, and only one to a request.
func TestTookChecksEverything(t *testing.T) {
	now := time.Now()
	answer := func(run, number uint64, kind byte, id byte) []byte {
		b := make([]byte, ipv4Header+icmpHeader+headerSize)
		b[0], b[ipv4Header], b[ipv4Header+5] = 0x45, kind, id
		putHeader(b[ipv4Header+icmpHeader:], run, number)
		return b
	}
	q := &requests{cfg: generatorConfig{Run: 1}, icmp: true, id: 5, sentAt: []time.Time{now, now}}
	good := answer(1, 1, icmpEchoReply, 5)
	for n := range good {
		q.took(good[:n], now)
	}
	for _, bad := range [][]byte{
		answer(2, 1, icmpEchoReply, 5), answer(1, 2, icmpEchoReply, 5), answer(1, 1, icmpEchoRequest, 5), answer(1, 1, icmpEchoReply, 6), {0x4f, 30: 0},
	} {
		q.took(bad, now)
	}
	if q.result.Received != 0 {
		t.Fatalf("%d taken that were no answers", q.result.Received)
	}
	q.took(good, now.Add(3*time.Microsecond))
	q.took(good, now.Add(4*time.Microsecond))
	if q.result.Received != 1 || len(q.result.Samples) != 1 || q.result.Samples[0] != 3000 {
		t.Errorf("%+v", q.result)
	}
}

func TestGenerateRefuses(t *testing.T) {
	for _, cfg := range []generatorConfig{
		{Job: jobSend, Size: headerSize - 1}, {Job: jobSend, Size: maxDatagram + 1}, {Job: "dig", Size: 64},
	} {
		if _, err := generate(cfg); err == nil {
			t.Errorf("%+v was done", cfg)
		}
	}
	if code := generatorMain("{"); code != 2 {
		t.Errorf("no JSON: code %d", code)
	}
	if _, err := send(generatorConfig{Addr: netip.MustParseAddrPort("127.0.0.1:9"), Size: 64, Seconds: 0.01, Rate: 100}); err != nil {
		t.Errorf("a port where nobody listens: %v", err)
	}
}

func TestChecksum(t *testing.T) {
	// The example of RFC 1071 section 3: the sum of these is ddf2.
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}
	if got := internetChecksum(b); got != ^uint16(0xddf2) {
		t.Errorf("%04x", got)
	}
	if got := internetChecksum([]byte{1}); got != ^uint16(0x0100) {
		t.Errorf("odd: %04x", got)
	}
}
