//go:build !linux

package plane

import (
	"errors"
	"syscall"
)

// poller is made of epoll(7); no device or socket of this system asks for it.
type poller struct{ train bool }

type readiness struct {
	source int
	broken bool
}

func newPoller(int) (*poller, error)             { return nil, errors.ErrUnsupported }
func (p *poller) add(syscall.RawConn, int) error { return errors.ErrUnsupported }
func (p *poller) wait() ([]readiness, error)     { return nil, errors.ErrUnsupported }
func (p *poller) stop()                          {}
func (p *poller) close()                         {}
