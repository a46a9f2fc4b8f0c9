//go:build !linux

package dns

import (
	"errors"
	"syscall"
)

// bindControl refuses devices, which only Linux binds sockets to.
func bindControl(device string) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error {
		if device != "" {
			return errors.ErrUnsupported
		}
		return nil
	}
}
