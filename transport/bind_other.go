//go:build !linux

package transport

import (
	"errors"
	"fmt"
)

// LinuxBind is the Socket over recvmmsg and sendmmsg; there is none on this system.
type LinuxBind struct{ Socket }

// Bind opens a LinuxBind, which this system lacks: StdSocket works here.
func Bind(BindConfig) (*LinuxBind, error) {
	return nil, fmt.Errorf("transport: bind: %w", errors.ErrUnsupported)
}
