package transport

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Trains that the kernel does not send where it sends their datagrams singly.
const (
	refusalTime = time.Minute // until a train is tried again
	maxRefusals = 64          // addresses remembered
)

// refusedTrain reports whether errno is what a kernel or a device says that cannot
// send a train, while it may well send the datagrams singly: EINVAL of too many
// segments, EMSGSIZE of segments longer than the device's MTU, and what is to be
// remembered.
func refusedTrain(errno syscall.Errno) bool {
	return errno == unix.EINVAL || errno == unix.EMSGSIZE || refusedTrains(errno)
}

// refusedTrains reports whether errno says that no train goes that way: EIO of a device
// without checksum offload (before Linux 6.11) or of an IPsec policy (net/ipv4/udp.c,
// udp_send_skb), EOPNOTSUPP of a device.
func refusedTrains(errno syscall.Errno) bool {
	return errno == unix.EIO || errno == unix.EOPNOTSUPP
}

// refusals are the addresses that trains do not go to, each for refusalTime: a way
// without segmentation must not cost those over other devices theirs. The zero value
// has none.
type refusals struct {
	until atomic.Pointer[map[netip.Addr]time.Time] // never changed, only replaced
	mu    sync.Mutex                               // held to replace it
}

// has reports whether trains to addr are not to be tried.
func (r *refusals) has(addr netip.Addr) bool {
	m := r.until.Load()
	if m == nil {
		return false
	}
	until, ok := (*m)[addr]
	return ok && time.Now().Before(until)
}

// add remembers addr. When there are too many, all others are forgotten: each costs one
// refused train to be found again.
func (r *refusals) add(addr netip.Addr, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[netip.Addr]time.Time{addr: now.Add(refusalTime)}
	if m := r.until.Load(); m != nil && r.count(now) < maxRefusals {
		for other, until := range *m {
			if other != addr && now.Before(until) {
				next[other] = until
			}
		}
	}
	r.until.Store(&next)
}

// count is how many are remembered.
func (r *refusals) count(now time.Time) (n int) {
	if m := r.until.Load(); m != nil {
		for _, until := range *m {
			if now.Before(until) {
				n++
			}
		}
	}
	return n
}

// probeSegments finds how many segments the kernel takes in one send: 128 since Linux
// 6.9, 64 before (UDP_MAX_SEGMENTS), one less where the UDP header counts as payload. It
// sends trains from a socket on loopback to itself. Where that is not possible it
// returns the least of these; 1 if the kernel has no UDP_SEGMENT (before 4.18).
func probeSegments() int {
	counts := [...]int{128, 127, 64, 63}
	const size, least = 64, 63
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return least
	}
	defer unix.Close(fd)
	if _, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
		return 1
	}
	if unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}) != nil {
		return least
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return least
	}
	var control sendControl
	length := putSegment(control.b[:], size)
	for _, n := range counts {
		_, err := unix.SendmsgN(fd, make([]byte, n*size), control.b[:length], self, unix.MSG_NOSIGNAL)
		switch err {
		case nil:
			return n
		case unix.EINVAL:
		default:
			return least
		}
	}
	return least
}
