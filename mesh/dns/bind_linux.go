package dns

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindControl binds a socket to a device; "" = to none.
func bindControl(device string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if device == "" {
			return nil
		}
		if control := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); control != nil {
			return control
		}
		return err
	}
}
