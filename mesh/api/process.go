package api

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Process opens the process that listens on the socket: its number as this process
// sees it, and a descriptor of it (pidfd_open(2)) for the caller to close. The kernel
// says who it is (SO_PEERCRED, unix(7)), so neither what the daemon says of itself nor a
// number in another PID namespace counts. An error other than ErrUnreachable: the
// process cannot be seen from here, or has ended.
func (c *Client) Process(ctx context.Context) (pid, pidfd int, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return 0, -1, fmt.Errorf("api: socket %s: %w (%w)", c.socket, ErrUnreachable, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, -1, fmt.Errorf("api: socket %s: %w", c.socket, err)
	}
	controlErr := raw.Control(func(fd uintptr) {
		var who *unix.Ucred
		if who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		pid = int(who.Pid)
		// The descriptor of the listener itself (Linux 6.5); before that one by number,
		// which is another's only if the daemon has ended: what it is asked next fails.
		if pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err != nil {
			pidfd, err = unix.PidfdOpen(pid, 0)
		}
	})
	if controlErr != nil {
		err = controlErr
	}
	if err != nil {
		return 0, -1, fmt.Errorf("api: socket %s: its process: %w", c.socket, err)
	}
	return pid, pidfd, nil
}
