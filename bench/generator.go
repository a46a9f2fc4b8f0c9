package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/integration/lab"
)

// generatorMode is the argument by which this program runs as a load generator in a
// namespace; the next argument is a generatorConfig in JSON. Its result goes to the
// standard output, as one line of JSON.
const generatorMode = "generate"

// The jobs of a generator.
const (
	jobSend    = "send"    // UDP datagrams at a rate
	jobReceive = "receive" // counts them, until its standard input ends
	jobEcho    = "echo"    // sends every datagram back, until its standard input ends
	jobRequest = "request" // request/response with an echo
	jobPing    = "ping"    // ICMP echo
)

// generatorConfig is a generator's job.
type generatorConfig struct {
	Job     string         `json:"job"`
	Addr    netip.AddrPort `json:"addr"` // of the receiving end
	Run     uint64         `json:"run"`  // told apart by it: datagrams of different runs
	Size    int            `json:"size"` // payload of a datagram, bytes
	Rate    float64        `json:"rate"` // datagrams a second; 0 = as many as go
	Seconds float64        `json:"seconds"`
	Count   int            `json:"count"`    // of echo requests; 0 = for Seconds
	EveryNs int64          `json:"every_ns"` // between echo requests; 0 = one after the answer to the other
}

// generatorResult is what a generator found.
type generatorResult struct {
	Sent     uint64   `json:"sent,omitempty"`
	Refused  uint64   `json:"refused,omitempty"` // by the kernel's send call
	Received uint64   `json:"received,omitempty"`
	Seconds  float64  `json:"seconds,omitempty"`
	Samples  []uint32 `json:"samples,omitempty"` // round trips in nanoseconds
}

// Limits of a generator.
const (
	maxRate     = 10_000_000 // datagrams a second
	maxSamples  = 1 << 20
	maxDatagram = 9000
	headerSize  = 16 // run and number
)

// generatorPort is the UDP port of receivers and echoes.
const generatorPort = 7007

// drain is how long after the last datagram was sent others still count.
const drain = 20 * time.Millisecond

// generatorReady is what receivers and echoes say once they listen.
const generatorReady = "listening"

func sayListening() { fmt.Println(generatorReady) }

func generatorMain(config string) int {
	var cfg generatorConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, "generator:", err)
		return 2
	}
	result, err := generate(cfg)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "generator: %s: %v\n", cfg.Job, err)
		return 1
	}
	return 0
}

func generate(cfg generatorConfig) (generatorResult, error) {
	if cfg.Size < headerSize || cfg.Size > maxDatagram {
		return generatorResult{}, fmt.Errorf("%d bytes: %d to %d", cfg.Size, headerSize, maxDatagram)
	}
	switch cfg.Job {
	case jobSend:
		return send(cfg)
	case jobReceive:
		return receive(cfg, inputEnded(drain), sayListening)
	case jobEcho:
		return generatorResult{}, echo(cfg, inputEnded(0), sayListening)
	case jobRequest, jobPing:
		return request(cfg)
	}
	return generatorResult{}, fmt.Errorf("no such job")
}

// inputEnded is set some time after the standard input has ended.
func inputEnded(after time.Duration) *atomic.Bool {
	var ended atomic.Bool
	go func() { // ends with the process
		io.Copy(io.Discard, os.Stdin)
		time.Sleep(after)
		ended.Store(true)
	}()
	return &ended
}

// The socket buffers of the generators, bytes; forced where that is permitted, so
// that the generator is not what loses.
const generatorBuffer = 4 << 20

// receiveWait is how often a waiting receiver looks whether it is to end.
var receiveWait = unix.Timeval{Usec: 5000}

// udpSocket opens a blocking UDP socket: connected to addr, or bound to it.
func udpSocket(addr netip.AddrPort, bind bool) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	for _, option := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], generatorBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], generatorBuffer)
		}
	}
	to := &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	if bind {
		err = unix.Bind(fd, to)
	} else {
		err = unix.Connect(fd, to)
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &receiveWait)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("socket for %s: %w", addr, err)
	}
	return fd, nil
}

// putHeader writes what tells a datagram from others.
func putHeader(b []byte, run, number uint64) {
	binary.BigEndian.PutUint64(b, run)
	binary.BigEndian.PutUint64(b[8:], number)
}

// pace says how many datagrams are due, without ever making up for a stall of more
// than maxDebt: a burst would be another load.
type pace struct {
	rate      float64 // a second; 0 = always a batch
	forgiven  float64
	startedAt time.Time
}

const maxDebt = 5 * time.Millisecond

func (p *pace) due(now time.Time, sent uint64) int {
	if p.rate == 0 {
		return sendBatch
	}
	due := now.Sub(p.startedAt).Seconds()*p.rate - p.forgiven - float64(sent)
	if most := p.rate*maxDebt.Seconds() + 1; due > most {
		p.forgiven += due - most
		due = most
	}
	return min(int(due), sendBatch)
}

// nap is how long a sender sleeps that has nothing due.
const nap = 100 * time.Microsecond

// send sends datagrams at the rate asked for.
func send(cfg generatorConfig) (generatorResult, error) {
	fd, err := udpSocket(cfg.Addr, false)
	if err != nil {
		return generatorResult{}, err
	}
	defer unix.Close(fd)
	batch := newBatch(cfg.Size)
	var r generatorResult
	start := time.Now()
	p := pace{rate: cfg.Rate, startedAt: start}
	end := start.Add(time.Duration(cfg.Seconds * float64(time.Second)))
	for now := start; now.Before(end); now = time.Now() {
		n := p.due(now, r.Sent+r.Refused)
		if n < 1 {
			ts := unix.NsecToTimespec(int64(nap))
			unix.Nanosleep(&ts, nil)
			continue
		}
		for i := range n {
			putHeader(batch.buffers[i], cfg.Run, r.Sent+uint64(i))
		}
		sent, err := batch.send(fd, n)
		switch {
		case err == nil:
			r.Sent += uint64(sent)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ECONNREFUSED):
			r.Refused++
		default:
			return r, fmt.Errorf("send: %w", err)
		}
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// receive counts the different datagrams of a run.
func receive(cfg generatorConfig, ended *atomic.Bool, listening func()) (generatorResult, error) {
	fd, err := udpSocket(cfg.Addr, true)
	if err != nil {
		return generatorResult{}, err
	}
	defer unix.Close(fd)
	listening()
	batch := newBatch(headerSize)
	var r generatorResult
	var seen bitmap
	for !ended.Load() {
		n, err := batch.receive(fd)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return r, fmt.Errorf("receive: %w", err)
		}
		for i := range n {
			b := batch.buffers[i]
			if batch.length(i) == headerSize && binary.BigEndian.Uint64(b) == cfg.Run && seen.add(binary.BigEndian.Uint64(b[8:])) {
				r.Received++
			}
		}
	}
	return r, nil
}

// bitmap is a set of numbers below maxRate × maxTime.
type bitmap []uint64

// add reports whether n is new in the set.
func (m *bitmap) add(n uint64) bool {
	if n >= maxRate*uint64(maxTime/time.Second) {
		return false
	}
	word, bit := int(n/64), uint64(1)<<(n%64)
	for word >= len(*m) {
		*m = append(*m, make([]uint64, 1<<12)...)
	}
	if (*m)[word]&bit != 0 {
		return false
	}
	(*m)[word] |= bit
	return true
}

// echo sends every datagram back to where it came from.
func echo(cfg generatorConfig, ended *atomic.Bool, listening func()) error {
	fd, err := udpSocket(cfg.Addr, true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	listening()
	r := new(receiver)
	for !ended.Load() {
		b, _, err := r.receive(fd, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if len(b) > 0 {
			r.sendBack(fd, b) // what can't be sent is lost, as any other
		}
	}
	return nil
}

// generatorArgs are the arguments that start a generator.
func generatorArgs(cfg generatorConfig) ([]string, error) {
	b, err := json.Marshal(cfg)
	return []string{generatorMode, string(b)}, err
}

// generatorRun runs a generator to its end in a place.
func generatorRun(ctx context.Context, place *lab.Place, cfg generatorConfig) (generatorResult, error) {
	var result generatorResult
	args, err := generatorArgs(cfg)
	if err != nil {
		return result, err
	}
	exe, err := os.Executable()
	if err != nil {
		return result, err
	}
	limit := time.Duration(cfg.Seconds*float64(time.Second)) + time.Duration(cfg.Count)*time.Duration(cfg.EveryNs) + readyTimeout
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := run(ctx, place, exe, args...)
	if err != nil {
		return result, fmt.Errorf("generator %s: %w", cfg.Job, err)
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return result, fmt.Errorf("generator %s: %w", cfg.Job, err)
	}
	return result, nil
}

// generatorStart starts a receiver or an echo in a place and waits until it listens.
func generatorStart(ctx context.Context, place *lab.Place, cfg generatorConfig) (*process, error) {
	args, err := generatorArgs(cfg)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, processConfig{Place: place, Program: exe, Args: args, Ready: generatorReady})
}
