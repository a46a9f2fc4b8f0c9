package transport

import (
	"errors"
	"sync/atomic"
	"syscall"
)

// sendErrorCounts count datagrams that were not sent, by reason, as SocketStats names
// the reasons.
type sendErrorCounts struct {
	tooBig, noBuffers, refused, unreachable, other atomic.Uint64
}

// count counts n datagrams that failed with err.
func (c *sendErrorCounts) count(err error, n int) {
	errno, ok := err.(syscall.Errno) // what errors.AsType finds too, at the cost of an allocation
	if !ok {
		errno, _ = errors.AsType[syscall.Errno](err)
	}
	switch errno {
	case syscall.EMSGSIZE:
		c.tooBig.Add(uint64(n))
	case syscall.ENOBUFS, syscall.EAGAIN, syscall.ENOMEM:
		c.noBuffers.Add(uint64(n))
	case syscall.EPERM, syscall.EACCES:
		c.refused.Add(uint64(n))
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ECONNREFUSED,
		syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.ENETDOWN:
		c.unreachable.Add(uint64(n))
	default:
		c.other.Add(uint64(n))
	}
}

// fill puts the counts into st.
func (c *sendErrorCounts) fill(st *SocketStats) {
	st.TooBig = c.tooBig.Load()
	st.NoBuffers = c.noBuffers.Load()
	st.Refused = c.refused.Load()
	st.Unreachable = c.unreachable.Load()
	st.SendErrors = c.other.Load()
}
