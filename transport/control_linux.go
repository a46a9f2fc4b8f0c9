package transport

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unsentLimit is how many bytes the kernel holds beyond what it has sent, so that
// what is late waits in our own queue, where the oldest datagram is dropped
// (TCP_NOTSENT_LOWAT, tcp(7)).
const unsentLimit = 128 << 10

// setSocketOptions makes a control connection quick and mortal: small records leave
// at once, and what is not acknowledged for 15 s ends it. Connections that are not
// TCP are left as they are; so is an option that the kernel does not know.
func setSocketOptions(nc net.Conn) {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	t.SetNoDelay(true)
	t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: int(stuck / keepAlive)})
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stuck/time.Millisecond))
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
	})
}
