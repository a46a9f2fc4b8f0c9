package tun

import "syscall"

// Room that every frame buffer keeps around the frame, so that headers and seal
// are put on in place: Headroom holds the relay header (48), the datagram header
// (16) and the record header (12), or the kernel's virtio header (10 or 24);
// Tailroom holds the seal's tag.
const (
	Headroom = 128
	Tailroom = 32
	// MaxFrame is the largest frame the kernel hands over: 64 KiB of packet behind
	// an Ethernet header and one VLAN tag.
	MaxFrame = 65536 + 18
	// BufferSize is what one frame buffer takes.
	BufferSize = Headroom + MaxFrame + Tailroom
)

// Frame is one Ethernet frame, or one super-frame, in a buffer with room around it.
// A Frame has one owner at a time; passing it on ends the passer's right to it.
type Frame struct {
	Buf     []byte // the whole buffer
	Off     int    // where the Ethernet destination address stands, at least Headroom on a read
	Len     int    // bytes of the frame from Off on
	Offload Offload
	// More are further pieces of the same frame, gathered behind the first on a
	// write; nil after a read.
	More [][]byte
}

// Bytes are the frame's bytes, from the Ethernet destination address on.
func (f *Frame) Bytes() []byte { return f.Buf[f.Off : f.Off+f.Len] }

// Offload is what the virtio header says of a frame (include/uapi/linux/virtio_net.h).
// The zero value is a plain, finished frame.
type Offload struct {
	NeedsChecksum  bool    // the sum from ChecksumStart on is to be put at ChecksumStart+ChecksumOffset
	Type           GSOType // what a super-frame is to be cut into
	ECN            bool    // CWR belongs on the first segment only
	HeaderLen      uint16  // bytes before the payload, from the start of the frame
	SegmentSize    uint16  // payload bytes of each segment
	ChecksumStart  uint16  // from the start of the frame
	ChecksumOffset uint16  // from ChecksumStart
	OuterL4        uint16  // offset of the outer UDP header of a tunnelled super-frame, else 0
	InnerL3        uint16  // offset of the inner IP header of a tunnelled super-frame, else 0
}

// GSOType is a VIRTIO_NET_HDR_GSO_ value without its flag bits.
type GSOType uint8

// The segmentation types a TAP of this kernel hands over or takes.
const (
	GSONone  GSOType = 0
	GSOTCPv4 GSOType = 1
	GSOTCPv6 GSOType = 4
	GSOUDP   GSOType = 5
)

// Capabilities are what the kernel agreed to when the device was opened, probed
// once and carried as a value.
type Capabilities struct {
	VirtioHeader   int  // bytes of the virtio header: 0, 10, 12 or 24
	Checksum       bool // unfinished checksums may be read and written
	TCP            bool // TCP super-frames, IPv4 and IPv6
	UDP            bool // UDP super-frames, IPv4 and IPv6
	Tunnel         bool // super-frames of a UDP tunnel
	TunnelChecksum bool // the same with an outer checksum
}

// Device is the kernel's end of the overlay: Ethernet frames in and out, in batches.
// The TAP (bridge mode), the TUN behind an Ethernet shim (routed mode) and
// tuntest's in-memory device implement it; tuntest.Conformance holds what all
// three promise.
type Device interface {
	// Name is the interface's name, which may differ from the one asked for.
	Name() string
	// Queues are the device's queues, the same for the device's whole life. A flow
	// is always written to one queue: the writing queue decides where the kernel
	// lets the flow's other direction be read (tun_flow_update in drivers/net/tun.c).
	Queues() []Queue
	Capabilities() Capabilities
	// Close ends all reads and writes with an error for which
	// errors.Is(err, os.ErrClosed) holds. It may be called more than once.
	Close() error
}

// Queue is one queue of a Device. One goroutine may read while another writes;
// two may write at once.
type Queue interface {
	// ReadBatch waits until there is at least one frame, takes what else is there
	// without waiting, and returns how many of frames it filled. Each Buf must
	// have BufferSize bytes. It fills Off (Headroom), Len and Offload.
	ReadBatch(frames []Frame) (int, error)
	// WriteBatch writes the frames in order and returns how many the kernel took.
	// A frame that is refused is skipped and the rest still written; the error is
	// the first refusal. Off must be at least Capabilities.VirtioHeader: so many bytes
	// before Off are the device's during the call, and afterwards what they were, so
	// that frames may stand close together.
	WriteBatch(frames []Frame) (int, error)
}

// Polled is a Queue whose reader may wait for other things besides. The TAP's queues
// are.
type Polled interface {
	Queue
	// Descriptor is what to wait for with poll(2) or epoll(7): readable when there is a
	// frame, in error (POLLERR) without one when the device was deleted. Nobody else
	// waits for it.
	Descriptor() syscall.RawConn
	// TryReadBatch is ReadBatch without waiting: 0 and no error when there is no frame.
	TryReadBatch(frames []Frame) (int, error)
}
