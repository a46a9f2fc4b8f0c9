package tuntest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"ripstop/tun"
)

// Config says what the device in memory is like; the zero value is a device
// "memory0" with one queue that takes plain frames.
type Config struct {
	Name         string
	Queues       int // zero: 1
	Depth        int // frames each queue holds, and frames waiting to be taken; zero: 1024
	Capabilities tun.Capabilities
}

// Written is a frame that the device's writer handed to the kernel's side.
type Written struct {
	Queue   int // it was written on
	Bytes   []byte
	Offload tun.Offload
}

// Device is a tun.Device in memory.
type Device struct {
	name         string
	capabilities tun.Capabilities
	queues       []*queue
	written      chan Written
	closing      chan struct{}
	closeOnce    sync.Once
	seed         maphash.Seed
	lost         atomic.Uint64 // injected or written frames for which there was no room
}

type queue struct {
	device *Device
	number int
	frames chan Written // to be read
}

// NewDevice makes a device.
func NewDevice(cfg Config) *Device {
	if cfg.Name == "" {
		cfg.Name = "memory0"
	}
	if cfg.Queues == 0 {
		cfg.Queues = 1
	}
	if cfg.Depth == 0 {
		cfg.Depth = 1024
	}
	d := &Device{name: cfg.Name, capabilities: cfg.Capabilities, seed: maphash.MakeSeed(),
		written: make(chan Written, cfg.Depth), closing: make(chan struct{})}
	for i := range cfg.Queues {
		d.queues = append(d.queues, &queue{device: d, number: i, frames: make(chan Written, cfg.Depth)})
	}
	return d
}

// Name implements tun.Device.
func (d *Device) Name() string { return d.name }

// Queues implements tun.Device.
func (d *Device) Queues() []tun.Queue {
	queues := make([]tun.Queue, len(d.queues))
	for i, q := range d.queues {
		queues[i] = q
	}
	return queues
}

// Capabilities implements tun.Device.
func (d *Device) Capabilities() tun.Capabilities { return d.capabilities }

// Close implements tun.Device.
func (d *Device) Close() error {
	d.closeOnce.Do(func() { close(d.closing) })
	return nil
}

// Inject lets the kernel's side send a plain frame, which is copied. The queue is
// chosen by the frame's two MAC addresses. It is false when the frame was dropped.
func (d *Device) Inject(frame []byte) bool {
	hash := maphash.Bytes(d.seed, frame[:min(12, len(frame))])
	return d.InjectOffload(int(hash%uint64(len(d.queues))), frame, tun.Offload{})
}

// InjectOffload lets the kernel's side send a frame with offload metadata, to be
// read on the queue given.
func (d *Device) InjectOffload(queue int, frame []byte, offload tun.Offload) bool {
	if d.isClosed() || len(frame) > tun.MaxFrame {
		d.lost.Add(1)
		return false
	}
	select {
	case d.queues[queue].frames <- Written{Queue: queue, Bytes: slices.Clone(frame), Offload: offload}:
		return true
	default:
		d.lost.Add(1)
		return false
	}
}

// Take waits for the next frame that was written; it is false when ctx or the
// device ended.
func (d *Device) Take(ctx context.Context) (Written, bool) {
	select {
	case w := <-d.written:
		return w, true
	default:
	}
	select {
	case w := <-d.written:
		return w, true
	case <-ctx.Done():
	case <-d.closing:
	}
	return Written{}, false
}

// Taken is the next frame that was written, if there is one now.
func (d *Device) Taken() (Written, bool) {
	select {
	case w := <-d.written:
		return w, true
	default:
		return Written{}, false
	}
}

// Lost counts frames for which there was no room, in both directions.
func (d *Device) Lost() uint64 { return d.lost.Load() }

func (d *Device) isClosed() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

func (d *Device) closed(operation string) error {
	return fmt.Errorf("tuntest: %s %s: %w", operation, d.name, os.ErrClosed)
}

// ReadBatch implements tun.Queue.
func (q *queue) ReadBatch(frames []tun.Frame) (int, error) {
	for i := range frames {
		if len(frames[i].Buf) < tun.BufferSize {
			return 0, fmt.Errorf("tuntest: read %s: frame buffer of %d bytes", q.device.name, len(frames[i].Buf))
		}
	}
	if len(frames) == 0 {
		return 0, nil
	}
	if q.device.isClosed() {
		return 0, q.device.closed("read")
	}
	var w Written
	select {
	case w = <-q.frames:
	case <-q.device.closing:
		return 0, q.device.closed("read")
	}
	for n := 0; ; {
		f := &frames[n]
		f.Off, f.Len, f.Offload, f.More = tun.Headroom, copy(f.Buf[tun.Headroom:], w.Bytes), w.Offload, nil
		if n++; n == len(frames) {
			return n, nil
		}
		select {
		case w = <-q.frames:
		default:
			return n, nil
		}
	}
}

// The refusals of a kernel.
var (
	errShort  = errors.New("frame shorter than an Ethernet header")
	errLong   = errors.New("frame too long")
	errBounds = errors.New("frame outside its buffer, or without room for the header in front of it")
	errFull   = errors.New("nobody takes what is written")
)

// WriteBatch implements tun.Queue.
func (q *queue) WriteBatch(frames []tun.Frame) (int, error) {
	if q.device.isClosed() {
		return 0, q.device.closed("write")
	}
	var first error
	n := 0
	for i := range frames {
		if err := q.write(&frames[i]); err == nil {
			n++
		} else if first == nil {
			first = fmt.Errorf("tuntest: write %s: %w", q.device.name, err)
		}
	}
	return n, first
}

func (q *queue) write(f *tun.Frame) error {
	header := q.device.capabilities.VirtioHeader
	if f.Off < header || f.Len <= 0 || f.Off+f.Len > len(f.Buf) {
		return errBounds
	}
	room := f.Buf[f.Off-header : f.Off]
	before := slices.Clone(room)
	clear(room)
	frame := slices.Clone(f.Bytes())
	for _, piece := range f.More {
		frame = append(frame, piece...)
	}
	copy(room, before)
	switch {
	case len(frame) < 14:
		return errShort
	case len(frame) > tun.MaxFrame:
		return errLong
	}
	select {
	case q.device.written <- Written{Queue: q.number, Bytes: frame, Offload: f.Offload}:
		return nil
	default:
		q.device.lost.Add(1)
		return errFull
	}
}
