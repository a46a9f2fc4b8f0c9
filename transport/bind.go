package transport

import "net/netip"

// Defaults of a BindConfig.
const (
	DefaultBatch         = 128     // messages a system call
	DefaultReceiveBuffer = 8 << 20 // bytes
	DefaultSendBuffer    = 4 << 20 // bytes
)

// maxKernelBatch is the most that the kernel takes in one call (UIO_MAXIOV).
const maxKernelBatch = 1024

// BindConfig says what Bind opens. The zero value is every address of both families at
// any free port.
type BindConfig struct {
	// Addresses are those to listen on, one kernel socket each. None: every address,
	// one socket for IPv4 and one for IPv6; a family that the host lacks is left out.
	Addresses []netip.Addr
	// Port is the UDP port of all of them; 0 takes one that is free for all.
	Port uint16
	// Sockets is how many kernel sockets share each address by SO_REUSEPORT; 0 is 1. The
	// kernel spreads peers over them, and all datagrams of one peer meet the same one.
	// The port is still refused when somebody else has it.
	Sockets int
	// Batch is the most messages a system call takes; 0 is DefaultBatch.
	Batch int
	// ReceiveBuffer and SendBuffer are the sizes to ask for, in bytes; 0 is
	// DefaultReceiveBuffer and DefaultSendBuffer. With CAP_NET_ADMIN in the initial user
	// namespace they are granted, else up to net.core.rmem_max and wmem_max;
	// SocketStats tells.
	ReceiveBuffer int
	SendBuffer    int
	// NoSegmentation has trains leave one datagram a message (MaxSegments is 1),
	// NoGathering has the kernel hand over each datagram by itself.
	NoSegmentation bool
	NoGathering    bool
	// NoLocal leaves Message.Local empty in what is received: the kernel need not tell it.
	NoLocal bool
}
