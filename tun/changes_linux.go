package tun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Changes hears from the kernel that something has changed, and not how: who hears of it
// looks anew.
type Changes struct {
	socket *nl.NetlinkSocket
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

func watchGroups(what string, protocol int, groups ...uint) (*Changes, error) {
	socket, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return nil, fmt.Errorf("tun: watch %s: %w", what, err)
	}
	return &Changes{socket: socket, what: what}, nil
}

// Run calls changed after each change, for several at once where they come together, until
// ctx ends or Close is called, and then returns nil. It is called once.
func (c *Changes) Run(ctx context.Context, changed func()) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for {
		_, _, err := c.socket.Receive()
		switch {
		case c.closed.Load(), errors.Is(err, os.ErrClosed):
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS): // more of them than the socket holds
			changed()
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		default:
			return fmt.Errorf("tun: watch %s: %w", c.what, err)
		}
	}
}

// Close ends Run. It may be called more than once.
func (c *Changes) Close() error {
	if !c.closed.Swap(true) {
		c.socket.Close()
	}
	return nil
}
