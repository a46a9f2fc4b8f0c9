package tun

import "errors"

// Errors of reading and writing that a caller may want to tell apart.
var (
	// ErrDeleted: the interface was deleted by someone else; the device is of no
	// more use and is to be closed and opened again.
	ErrDeleted = errors.New("the interface was deleted")
	// ErrDown: the interface was set down; writes work again when it is set up.
	ErrDown = errors.New("the interface is down")

	errBounds  = errors.New("frame outside its buffer, or without room for the header in front of it")
	errTooLong = errors.New("frame is longer than 65554 bytes or has too many pieces")
)

// Errors of making devices, wrapped in a sentence that says what helps.
var (
	// ErrNoTunnelDevice: /dev/net/tun is missing or has no driver behind it.
	ErrNoTunnelDevice = errors.New("/dev/net/tun is not there")
	// ErrPrivilege: CAP_NET_ADMIN in the user namespace that owns this network
	// namespace is missing.
	ErrPrivilege = errors.New("no CAP_NET_ADMIN here")
	// ErrNameTaken: the name belongs to a device of another kind or of another
	// program.
	ErrNameTaken = errors.New("the name is taken")
	// ErrMTU: the MTU is out of range.
	ErrMTU = errors.New("MTU out of range")
)
