package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// PingReply is what came back for one echo request.
type PingReply struct {
	Answered bool
	RTT      time.Duration
	TTL      int // of the answer; 0 for IPv6
}

// PingConfig says how often and how large.
type PingConfig struct {
	Count    int           // 0 = 1
	Interval time.Duration // between the start of one and the next, 0 = 50 ms; an answered one ends earlier
	Timeout  time.Duration // for each answer, 0 = 1 s
	Size     int           // payload bytes, 0 = 56, at most 65000
	Payload  []byte        // repeated to Size; nil = zeros
}

// ICMP types (RFC 792, RFC 4443) and lengths.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	icmpHeader               = 8
	maxPing                  = 65000
)

// Ping sends echo requests from the place and returns one reply for each. Unanswered
// requests are no error. A link-local address needs the place's interface as its zone,
// fe80::1%rip0.
func (p *Place) Ping(ctx context.Context, to netip.Addr, cfg PingConfig) ([]PingReply, error) {
	cfg.Count = max(cfg.Count, 1)
	if cfg.Interval == 0 {
		cfg.Interval = 50 * time.Millisecond
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	if cfg.Size == 0 {
		cfg.Size = 56
	}
	s, zone, err := p.pingSocket(to, cfg.Size)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: ping %s: %w", p.name, to, err)
	}
	defer s.close()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	payload := make([]byte, cfg.Size)
	for i := range payload {
		if len(cfg.Payload) > 0 {
			payload[i] = cfg.Payload[i%len(cfg.Payload)]
		}
	}
	id := uint16(rand.Uint32())
	replies := make([]PingReply, cfg.Count)
	for i := range replies {
		started := time.Now()
		replies[i], err = s.pingOnce(to, zone, id, uint16(i+1), payload, cfg.Timeout)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("lab: %s: ping %s: %w", p.name, to, ctx.Err())
		}
		if err != nil {
			return nil, fmt.Errorf("lab: %s: ping %s: %w", p.name, to, err)
		}
		if rest := cfg.Interval - time.Since(started); rest > 0 && i+1 < len(replies) {
			select {
			case <-time.After(rest):
			case <-ctx.Done():
			}
		}
	}
	return replies, nil
}

// pingSocket opens a raw ICMP socket in the place, and finds the number of the
// interface that a link-local address names behind its %.
func (p *Place) pingSocket(to netip.Addr, size int) (s *socketFile, zone uint32, err error) {
	if size > maxPing {
		return nil, 0, fmt.Errorf("%d bytes are more than %d", size, maxPing)
	}
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if to.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	err = p.Do(func() error {
		if to.Zone() != "" {
			dev, err := net.InterfaceByName(to.Zone())
			if err != nil {
				return err
			}
			zone = uint32(dev.Index)
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		if err != nil {
			return err
		}
		s, err = newSocketFile(fd)
		return err
	})
	return s, zone, err
}

// pingOnce sends one request and waits for its answer.
func (s *socketFile) pingOnce(to netip.Addr, zone uint32, id, seq uint16, payload []byte, timeout time.Duration) (PingReply, error) {
	sent := time.Now()
	if err := s.sendEcho(to, zone, id, seq, payload); err != nil {
		switch {
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENETDOWN):
			return PingReply{}, nil // as good as unanswered
		}
		return PingReply{}, err
	}
	s.setReadDeadline(sent.Add(timeout))
	buf := make([]byte, 1<<16)
	for {
		answer, _, ttl, err := s.receiveEcho(to, id, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return PingReply{}, nil
		}
		if err != nil {
			return PingReply{}, err
		}
		if answer == seq {
			return PingReply{Answered: true, RTT: time.Since(sent), TTL: ttl}, nil
		}
	}
}

// sendEcho sends an echo request.
func (s *socketFile) sendEcho(to netip.Addr, zone uint32, id, seq uint16, payload []byte) error {
	request := byte(echoRequest4)
	var addr unix.Sockaddr = &unix.SockaddrInet4{Addr: last4(to)}
	if to.Is6() {
		request = echoRequest6
		addr = &unix.SockaddrInet6{Addr: to.As16(), ZoneId: zone}
	}
	b := make([]byte, icmpHeader, icmpHeader+len(payload))
	b[0] = request
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	b = append(b, payload...)
	if to.Is4() { // the kernel does it for ICMPv6 (RFC 3542 section 3.1)
		binary.BigEndian.PutUint16(b[2:], internetChecksum(b))
	}
	return s.send(b, addr)
}

// receiveEcho waits for an answer to a request with the id. What it returns of it lies
// in buf.
func (s *socketFile) receiveEcho(to netip.Addr, id uint16, buf []byte) (seq uint16, payload []byte, ttl int, err error) {
	reply := byte(echoReply4)
	if to.Is6() {
		reply = echoReply6
	}
	for {
		n, _, _, err := s.receive(buf, nil)
		if err != nil {
			return 0, nil, 0, err
		}
		message, ttl := buf[:n], 0
		if to.Is4() { // raw IPv4 sockets give the IP header too
			if n < 20 || n < int(buf[0]&15)*4 {
				continue
			}
			message, ttl = buf[int(buf[0]&15)*4:n], int(buf[8])
		}
		if len(message) >= icmpHeader && message[0] == reply && binary.BigEndian.Uint16(message[4:]) == id {
			return binary.BigEndian.Uint16(message[6:]), message[icmpHeader:], ttl, nil
		}
	}
}

// internetChecksum is that of RFC 1071.
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

// last4 is an IPv4 address's four bytes; of an IPv6 address, which has another
// socket address, the last four.
func last4(a netip.Addr) [4]byte {
	b := a.As16()
	return [4]byte(b[12:])
}
