package lab

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketFile is a raw socket on the runtime's poller, so that reads wait without a
// thread each and end when the socket is closed.
type socketFile struct {
	file *os.File
	conn syscall.RawConn
}

// newSocketFile takes a non-blocking socket over.
func newSocketFile(fd int) (*socketFile, error) {
	f := os.NewFile(uintptr(fd), "socket")
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &socketFile{file: f, conn: conn}, nil
}

func (s *socketFile) receive(b, control []byte) (n, controlLen int, from unix.Sockaddr, err error) {
	waitErr := s.conn.Read(func(fd uintptr) bool {
		n, controlLen, _, from, err = unix.Recvmsg(int(fd), b, control, 0)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if waitErr != nil {
		err = waitErr
	}
	return n, controlLen, from, err
}

func (s *socketFile) send(b []byte, to unix.Sockaddr) (err error) {
	waitErr := s.conn.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, to)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if waitErr != nil {
		return waitErr
	}
	return err
}

// drops asks a packet socket how many frames it had no room for.
func (s *socketFile) drops() (n uint32, err error) {
	controlErr := s.conn.Control(func(fd uintptr) {
		var stats *unix.TpacketStats
		if stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = stats.Drops
		}
	})
	if controlErr != nil {
		return 0, controlErr
	}
	return n, err
}

func (s *socketFile) setReadDeadline(t time.Time) { s.file.SetReadDeadline(t) }

func (s *socketFile) close() { s.file.Close() }
