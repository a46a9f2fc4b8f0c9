package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A capture keeps at most this many bytes of frames; what comes later is counted.
const maxCapture = 256 << 20

// captureBuffer is the socket's receive buffer in bytes, if the kernel gives it.
const captureBuffer = 32 << 20

// CapturedFrame is one frame that crossed an interface.
type CapturedFrame struct {
	Time time.Time
	Out  bool   // the place itself sent it
	Data []byte // from the Ethernet header on; the VLAN tag is in it when there was one
}

// Capture sees, and can inject, frames at one interface.
type Capture struct {
	device  string
	ifindex int
	file    *socketFile
	done    chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards the rest
	frames  []CapturedFrame
	bytes   int
	skipped int // frames beyond maxCapture
}

// Capture opens the named interface of the place for frames in both directions,
// until Stop.
func (p *Place) Capture(device string) (*Capture, error) {
	c := &Capture{device: device, done: make(chan struct{})}
	err := p.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		c.ifindex = dev.Index
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
		}
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
		if err == nil { // bound with the protocol only now, so that no other interface is heard
			all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: c.ifindex})
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		c.file, err = newSocketFile(fd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: %s: capture %s: %w", p.name, device, err)
	}
	go c.read() // ends at Stop
	return c, nil
}

// CaptureLink captures at the end's interface.
func (e *End) Capture() (*Capture, error) { return e.host.Capture(e.name) }

// read keeps what comes until the socket is closed.
func (c *Capture) read() {
	defer close(c.done)
	buf, control := make([]byte, 1<<17), make([]byte, 256)
	for {
		n, controlLen, from, err := c.file.receive(buf, control)
		if err != nil {
			return
		}
		f := CapturedFrame{Time: time.Now(), Data: withTag(buf[:n], control[:controlLen])}
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			f.Out = link.Pkttype == unix.PACKET_OUTGOING
		}
		c.mu.Lock()
		if c.bytes+len(f.Data) <= maxCapture {
			c.frames, c.bytes = append(c.frames, f), c.bytes+len(f.Data)
		} else {
			c.skipped++
		}
		c.mu.Unlock()
	}
}

// withTag copies a frame and puts the VLAN tag back that the kernel took out of it
// (struct tpacket_auxdata in include/uapi/linux/if_packet.h).
func withTag(frame, control []byte) []byte {
	const (
		auxLen, auxStatus, auxTCI, auxTPID = 20, 0, 16, 18
		tagAt                              = 12 // behind the two MAC addresses
	)
	messages, err := unix.ParseSocketControlMessage(control)
	if err == nil && len(frame) >= tagAt {
		for _, m := range messages {
			if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < auxLen {
				continue
			}
			if binary.NativeEndian.Uint32(m.Data[auxStatus:])&unix.TP_STATUS_VLAN_VALID == 0 {
				continue
			}
			tagged := make([]byte, 0, len(frame)+4)
			tagged = append(tagged, frame[:tagAt]...)
			tagged = binary.BigEndian.AppendUint16(tagged, binary.NativeEndian.Uint16(m.Data[auxTPID:]))
			tagged = binary.BigEndian.AppendUint16(tagged, binary.NativeEndian.Uint16(m.Data[auxTCI:]))
			return append(tagged, frame[tagAt:]...)
		}
	}
	return bytes.Clone(frame)
}

// Frames are the frames so far.
func (c *Capture) Frames() []CapturedFrame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames[:len(c.frames):len(c.frames)]
}

// Contains counts the frames that have marker in them, each once.
func (c *Capture) Contains(marker []byte) (n int) {
	for _, f := range c.Frames() {
		if bytes.Contains(f.Data, marker) {
			n++
		}
	}
	return n
}

// Inject sends a frame out of the interface, as it is.
func (c *Capture) Inject(frame []byte) error {
	if err := c.file.send(frame, &unix.SockaddrLinklayer{Ifindex: c.ifindex}); err != nil {
		return fmt.Errorf("lab: inject %d bytes into %s: %w", len(frame), c.device, err)
	}
	return nil
}

// Stop ends the capture. It is an error if the kernel or the capture had no room for
// some frames: then nothing can be concluded from a frame that is missing.
func (c *Capture) Stop() error {
	lost, statErr := c.file.drops()
	c.file.close()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if statErr != nil {
		return fmt.Errorf("lab: capture %s: ask for drops: %w", c.device, statErr)
	}
	if lost > 0 || c.skipped > 0 {
		return fmt.Errorf("lab: capture %s: %d frames were dropped by the kernel, %d more had no room", c.device, lost, c.skipped)
	}
	return nil
}

// WritePCAP writes the frames in the classic pcap format, for other programs to read
// (draft-ietf-opsawg-pcap).
func (c *Capture) WritePCAP(w io.Writer) error {
	const (
		magic, major, minor = 0xa1b23c4d, 2, 4 // nanosecond stamps
		linkEthernet        = 1
	)
	le := binary.LittleEndian
	b := le.AppendUint32(nil, magic)
	b = le.AppendUint16(b, major)
	b = le.AppendUint16(b, minor)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(b, 1<<18)
	b = le.AppendUint32(b, linkEthernet)
	for _, f := range c.Frames() {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("lab: write capture: %w", err)
		}
		b = le.AppendUint32(b[:0], uint32(f.Time.Unix()))
		b = le.AppendUint32(b, uint32(f.Time.Nanosecond()))
		b = le.AppendUint32(b, uint32(len(f.Data)))
		b = le.AppendUint32(b, uint32(len(f.Data)))
		b = append(b, f.Data...)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("lab: write capture: %w", err)
	}
	return nil
}
