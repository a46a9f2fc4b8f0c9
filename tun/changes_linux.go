package tun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Changes hears from the kernel that something has changed, and not how: who hears of it
// looks anew.
type Changes struct {
	socket *os.File
	raw    syscall.RawConn
	what   string
	closed atomic.Bool
}

// WatchInterfaces begins to watch interfaces and their addresses, in the network namespace
// of the calling thread (rtnetlink(7)). Nothing that happens after it is missed.
func WatchInterfaces() (*Changes, error) {
	return watchGroups("interfaces", unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
}

// WatchRules does the same with all nftables (include/uapi/linux/netfilter/nfnetlink.h).
func WatchRules() (*Changes, error) {
	return watchGroups("nftables", unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
}

// watchGroups listens to multicast groups, numbered from 1 to 32, of a netlink protocol.
func watchGroups(what string, protocol int, groups ...int) (*Changes, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("tun: watch %s: %w", what, err)
	}
	address := unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, group := range groups {
		address.Groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, &address); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tun: watch %s: %w", what, err)
	}
	c := &Changes{socket: os.NewFile(uintptr(fd), "netlink"), what: what}
	if c.raw, err = c.socket.SyscallConn(); err != nil {
		c.Close()
		return nil, fmt.Errorf("tun: watch %s: %w", what, err)
	}
	return c, nil
}

// Run calls changed after each change, once for several that come together, until ctx ends
// or Close is called, and then returns nil. It is called once.
func (c *Changes) Run(ctx context.Context, changed func()) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for {
		var failed error
		err := c.raw.Read(func(fd uintptr) (told bool) {
			told, failed = drain(int(fd))
			return told || failed != nil
		})
		switch {
		case c.closed.Load():
			return nil
		case err != nil || failed != nil:
			return fmt.Errorf("tun: watch %s: %w", c.what, errors.Join(err, failed))
		}
		changed()
	}
}

// drain throws away the messages there are, or many of them, and reports whether there was
// one. More than the socket holds the kernel has thrown away itself, and says so.
func drain(fd int) (told bool, err error) {
	var b [1]byte // the rest of a message is cut off
	for range 1000 {
		switch _, err := unix.Read(fd, b[:]); err {
		case nil, unix.ENOBUFS:
			told = true
		case unix.EINTR:
		case unix.EAGAIN:
			return told, nil
		default:
			return told, err
		}
	}
	return told, nil
}

// Close ends Run. It may be called more than once.
func (c *Changes) Close() error {
	if !c.closed.Swap(true) {
		return c.socket.Close()
	}
	return nil
}
