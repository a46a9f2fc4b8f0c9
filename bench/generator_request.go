package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ICMP echo (RFC 792).
const (
	icmpEchoRequest, icmpEchoReply = 8, 0
	icmpHeader                     = 8
	ipv4Header                     = 20
)

// answerTimeout is after which a request counts as lost.
const answerTimeout = 500 * time.Millisecond

// requests is a stream of numbered requests and what became of them.
type requests struct {
	cfg    generatorConfig
	fd     int
	icmp   bool
	id     uint16      // of ICMP requests
	sentAt []time.Time // by number, taken away when answered
	result generatorResult
	buffer [icmpHeader + maxDatagram]byte // of what is sent
	receiver
}

// request sends requests to an echo and measures round trips, each from just before
// the sending: of ICMP to when the kernel had the answer, as ping(8) does, so that this
// program's own waking up, which takes as long as a bare round trip, is no part of it; of
// UDP to just after the receiving. With EveryNs they leave at fixed times, without it each
// when the last was answered or given up.
func request(cfg generatorConfig) (generatorResult, error) {
	q := &requests{cfg: cfg, icmp: cfg.Job == jobPing, id: uint16(os.Getpid())}
	var err error
	if q.icmp {
		q.fd, err = icmpSocket(cfg.Addr.Addr())
	} else {
		q.fd, err = udpSocket(cfg.Addr, false)
	}
	if err != nil {
		return generatorResult{}, err
	}
	defer unix.Close(q.fd)
	start := time.Now()
	if cfg.EveryNs > 0 {
		err = q.atFixedTimes(start)
	} else {
		err = q.oneByOne(start)
	}
	q.result.Seconds = time.Since(start).Seconds()
	return q.result, err
}

func icmpSocket(addr netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return -1, fmt.Errorf("ICMP socket: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.As4()})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ICMP socket for %s: %w", addr, err)
	}
	return fd, nil
}

// arrived is the time of day at which the kernel had a packet, told in its control data
// (socket(7), SO_TIMESTAMPNS); now if it is not told.
func arrived(control []byte, now time.Time) time.Time {
	for len(control) >= unix.SizeofCmsghdr {
		c, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return now
		}
		var at unix.Timespec
		if c.Level == unix.SOL_SOCKET && c.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(at)) {
			at = *(*unix.Timespec)(unsafe.Pointer(&data[0]))
			return time.Unix(at.Unix())
		}
		control = rest
	}
	return now
}

// atFixedTimes sends Count requests, one every EveryNs, and waits for the last answers.
func (q *requests) atFixedTimes(start time.Time) error {
	every := time.Duration(q.cfg.EveryNs)
	for n := range q.cfg.Count {
		if err := q.receiveUntil(start.Add(time.Duration(n)*every), false); err != nil {
			return err
		}
		if err := q.send(); err != nil {
			return err
		}
	}
	return q.receiveUntil(time.Now().Add(answerTimeout), true)
}

// oneByOne sends a request whenever the last was answered.
func (q *requests) oneByOne(start time.Time) error {
	end := start.Add(time.Duration(q.cfg.Seconds * float64(time.Second)))
	for len(q.sentAt) < maxSamples && time.Now().Before(end) {
		if err := q.send(); err != nil {
			return err
		}
		if err := q.receiveUntil(time.Now().Add(answerTimeout), true); err != nil {
			return err
		}
	}
	return nil
}

// send sends the next request.
func (q *requests) send() error {
	number := uint64(len(q.sentAt))
	b := q.buffer[:q.cfg.Size]
	if q.icmp {
		b = q.buffer[:icmpHeader+q.cfg.Size]
		clear(b[:icmpHeader])
		b[0] = icmpEchoRequest
		binary.BigEndian.PutUint16(b[4:], q.id)
		putHeader(b[icmpHeader:], q.cfg.Run, number)
		binary.BigEndian.PutUint16(b[2:], internetChecksum(b))
	} else {
		putHeader(b, q.cfg.Run, number)
	}
	q.sentAt = append(q.sentAt, time.Now())
	err := sendOn(q.fd, b)
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ECONNREFUSED) {
		q.result.Refused++ // it stays unanswered
		err = nil
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	q.result.Sent++
	return nil
}

// receiveUntil takes answers until the deadline; with all, only until none is awaited.
func (q *requests) receiveUntil(deadline time.Time, all bool) error {
	for !all || q.result.Received < uint64(len(q.sentAt)) && (q.cfg.EveryNs > 0 || !q.answered()) {
		rest := time.Until(deadline)
		if rest <= 0 {
			return nil
		}
		if ready, err := readable(q.fd, rest); err != nil {
			return fmt.Errorf("wait: %w", err)
		} else if !ready {
			continue
		}
		packet, control, err := q.receive(q.fd, unix.MSG_DONTWAIT)
		now := time.Now()
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNREFUSED):
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		default:
			q.took(packet, arrived(control, now))
		}
	}
	return nil
}

// answered reports whether the latest request was.
func (q *requests) answered() bool { return q.sentAt[len(q.sentAt)-1].IsZero() }

// took takes one packet that came.
func (q *requests) took(b []byte, now time.Time) {
	if q.icmp {
		if len(b) < ipv4Header || len(b) < int(b[0]&15)*4+icmpHeader {
			return
		}
		b = b[int(b[0]&15)*4:]
		if b[0] != icmpEchoReply || binary.BigEndian.Uint16(b[4:]) != q.id {
			return
		}
		b = b[icmpHeader:]
	}
	if len(b) < headerSize || binary.BigEndian.Uint64(b) != q.cfg.Run {
		return
	}
	number := binary.BigEndian.Uint64(b[8:])
	if number >= uint64(len(q.sentAt)) || q.sentAt[number].IsZero() {
		return // never sent, or answered already
	}
	q.result.Received++
	trip := now.Sub(q.sentAt[number]).Nanoseconds()
	q.result.Samples = append(q.result.Samples, uint32(min(max(trip, 0), math.MaxUint32)))
	q.sentAt[number] = time.Time{}
}

// internetChecksum is that of RFC 1071, of an even number of bytes or an odd one.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
