//go:build !linux

package transport

import "net"

// setSocketOptions makes a control connection quick and mortal, as far as can be
// said without system calls.
func setSocketOptions(nc net.Conn) {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	t.SetNoDelay(true)
	t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: int(stuck / keepAlive)})
}
