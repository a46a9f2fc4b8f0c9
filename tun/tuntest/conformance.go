package tuntest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"ripstop/tun"
)

// patience is how long the suite waits for what must come.
const patience = 5 * time.Second

// End is the kernel's side of a device under test.
type End struct {
	// Send lets a frame leave the kernel toward the device's readers.
	Send func(frame []byte) error
	// Receive is the next frame of the suite's that the kernel got from the device's
	// writers: the suite's frames are IPv4 with protocol TestProtocol, and anything
	// else is passed over. It is false after the time given.
	Receive func(wait time.Duration) ([]byte, bool)
	// Here and There are the addresses the suite's frames carry: of the kernel's
	// side, and of somebody on the overlay.
	Here, There Address
	// MaxFrame is the longest frame, in bytes, that both directions can carry.
	MaxFrame int
}

// Address is one station.
type Address struct {
	MAC [6]byte
	IP  netip.Addr // IPv4
}

// TestProtocol is the IP protocol number of the suite's packets (RFC 3692 leaves
// it for experiments).
const TestProtocol = 253

// Conformance holds what every tun.Device promises. open makes a device and says
// how its other side is reached; it registers its own clean-up.
func Conformance(t *testing.T, open func(t *testing.T) (tun.Device, End)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, tun.Device, End)
	}{
		{"Name", testName},
		{"Read", testRead},
		{"ReadDrains", testReadDrains},
		{"ReadSizes", testReadSizes},
		{"ReadShortBuffer", testReadShortBuffer},
		{"Write", testWrite},
		{"WriteInPlace", testWriteInPlace},
		{"WritePieces", testWritePieces},
		{"WriteRefused", testWriteRefused},
		{"WriteTogether", testWriteTogether},
		{"CloseWakes", testCloseWakes},
		{"CloseTwice", testCloseTwice},
	} {
		t.Run(c.name, func(t *testing.T) {
			device, end := open(t)
			c.test(t, device, end)
		})
	}
}

// Frame is a frame of the suite, of length bytes, numbered.
func Frame(from, to Address, number, length int) []byte {
	length = max(length, 14+20+4)
	b := make([]byte, length)
	copy(b, to.MAC[:])
	copy(b[6:], from.MAC[:])
	b[12], b[13] = 0x08, 0x00
	p := b[14:]
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, TestProtocol
	source, destination := from.IP.As4(), to.IP.As4()
	copy(p[12:], source[:])
	copy(p[16:], destination[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	binary.BigEndian.PutUint32(p[20:], uint32(number))
	for i := 24; i < len(p); i++ {
		p[i] = byte(i*7 + number)
	}
	return b
}

// Ours tells the suite's frames from whatever else a kernel says.
func Ours(frame []byte) bool {
	return len(frame) >= 38 && frame[12] == 0x08 && frame[13] == 0x00 && frame[14]>>4 == 4 && frame[23] == TestProtocol
}

// Buffers are n frames ready for a read.
func Buffers(n int) []tun.Frame {
	frames := make([]tun.Frame, n)
	for i := range frames {
		frames[i].Buf = make([]byte, tun.BufferSize)
	}
	return frames
}

// Place puts a frame into a buffer at off, as a writer would.
func Place(frame []byte, off int) tun.Frame {
	buf := make([]byte, off+len(frame)+tun.Tailroom)
	copy(buf[off:], frame)
	return tun.Frame{Buf: buf, Off: off, Len: len(frame)}
}

// reader reads all queues of a device until it is closed.
type reader struct {
	frames chan []byte
	wg     sync.WaitGroup
	errs   chan error
}

// read starts a goroutine a queue; batch is the frames a call.
func read(t *testing.T, device tun.Device, batch int) *reader {
	queues := device.Queues()
	r := &reader{frames: make(chan []byte, 4096), errs: make(chan error, len(queues))}
	for _, q := range queues {
		r.wg.Go(func() {
			frames := Buffers(batch)
			for {
				n, err := q.ReadBatch(frames)
				for i := range frames[:n] {
					f := &frames[i]
					switch {
					case f.Off != tun.Headroom:
						err = fmt.Errorf("frame at %d, want %d", f.Off, tun.Headroom)
					case f.More != nil:
						err = errors.New("a frame that was read has more pieces")
					case len(f.Buf) != tun.BufferSize:
						err = errors.New("the buffer changed its size")
					case Ours(f.Bytes()) && f.Offload != tun.Offload{}:
						err = fmt.Errorf("a plain frame came with %+v", f.Offload)
					case Ours(f.Bytes()):
						r.frames <- bytes.Clone(f.Bytes())
					}
				}
				if err != nil {
					r.errs <- err
					return
				}
			}
		})
	}
	t.Cleanup(func() {
		device.Close()
		r.wg.Wait()
	})
	return r
}

func (r *reader) next(t *testing.T) []byte {
	t.Helper()
	select {
	case frame := <-r.frames:
		return frame
	case err := <-r.errs:
		t.Fatalf("reader: %v", err)
	case <-time.After(patience):
		t.Fatal("no frame came")
	}
	return nil
}

func receive(t *testing.T, end End) []byte {
	t.Helper()
	frame, ok := end.Receive(patience)
	if !ok {
		t.Fatal("the kernel's side got no frame")
	}
	return frame
}

func testName(t *testing.T, device tun.Device, _ End) {
	if device.Name() == "" {
		t.Error("the device has no name")
	}
	first, second := device.Queues(), device.Queues()
	if len(first) == 0 || len(first) != len(second) {
		t.Fatalf("%d queues, then %d", len(first), len(second))
	}
	for i := range first {
		if first[i] != second[i] {
			t.Errorf("queue %d is not the same twice", i)
		}
	}
	if header := device.Capabilities().VirtioHeader; header > tun.Headroom {
		t.Errorf("virtio header of %d bytes does not fit the headroom", header)
	}
}

func testRead(t *testing.T, device tun.Device, end End) {
	r := read(t, device, 8)
	for i := range 20 {
		want := Frame(end.Here, end.There, i, 100)
		if err := end.Send(want); err != nil {
			t.Fatal(err)
		}
		if got := r.next(t); !bytes.Equal(got, want) {
			t.Fatalf("frame %d:\n got %x\nwant %x", i, got, want)
		}
	}
}

// testReadDrains: what is there is read without further frames coming, in order,
// also when it is more than a batch.
func testReadDrains(t *testing.T, device tun.Device, end End) {
	const count = 11
	for i := range count {
		if err := end.Send(Frame(end.Here, end.There, i, 200)); err != nil {
			t.Fatal(err)
		}
	}
	r := read(t, device, 4)
	for i := range count {
		if want, got := Frame(end.Here, end.There, i, 200), r.next(t); !bytes.Equal(got, want) {
			t.Fatalf("frame %d:\n got %x\nwant %x", i, got, want)
		}
	}
}

func testReadSizes(t *testing.T, device tun.Device, end End) {
	r := read(t, device, 2)
	for i, size := range []int{38, 60, 1354, 1514, 1515, 9014, 40001, end.MaxFrame} {
		if size > end.MaxFrame {
			continue
		}
		want := Frame(end.Here, end.There, i, size)
		if err := end.Send(want); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got := r.next(t); !bytes.Equal(got, want) {
			t.Fatalf("a frame of %d bytes came as one of %d, or changed", size, len(got))
		}
	}
}

func testReadShortBuffer(t *testing.T, device tun.Device, _ End) {
	frames := []tun.Frame{{Buf: make([]byte, tun.BufferSize-1)}}
	if n, err := device.Queues()[0].ReadBatch(frames); n != 0 || err == nil || errors.Is(err, os.ErrClosed) {
		t.Errorf("ReadBatch into a short buffer: %d, %v", n, err)
	}
	if n, err := device.Queues()[0].ReadBatch(nil); n != 0 || err != nil {
		t.Errorf("ReadBatch of nothing: %d, %v", n, err)
	}
}

func testWrite(t *testing.T, device tun.Device, end End) {
	for number, q := range device.Queues() {
		for _, size := range []int{38, 100, 1514, 9014, end.MaxFrame} {
			if size > end.MaxFrame {
				continue
			}
			frames := make([]tun.Frame, 5)
			for i := range frames {
				frames[i] = Place(Frame(end.There, end.Here, i, size), tun.Headroom)
			}
			if n, err := q.WriteBatch(frames); n != len(frames) || err != nil {
				t.Fatalf("queue %d: WriteBatch of %d bytes: %d, %v", number, size, n, err)
			}
			for i := range frames {
				if want, got := Frame(end.There, end.Here, i, size), receive(t, end); !bytes.Equal(got, want) {
					t.Fatalf("queue %d, frame %d of %d bytes:\n got %x\nwant %x", number, i, size, head(got), head(want))
				}
			}
		}
	}
	if n, err := device.Queues()[0].WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("WriteBatch of nothing: %d, %v", n, err)
	}
}

func head(b []byte) []byte { return b[:min(len(b), 64)] }

// testWriteInPlace: nothing before the frame and nothing behind it is changed, for
// other frames may stand there, and none of them is spoiled by its neighbours' headers.
func testWriteInPlace(t *testing.T, device tun.Device, end End) {
	header := device.Capabilities().VirtioHeader
	for _, off := range []int{header, header + 1, 77, tun.Headroom} {
		want := Frame(end.There, end.Here, off, 90)
		f := Place(want, off)
		for i := range f.Buf {
			if i < off || i >= off+len(want) {
				f.Buf[i] = 0xa5
			}
		}
		if n, err := device.Queues()[0].WriteBatch([]tun.Frame{f}); n != 1 || err != nil {
			t.Fatalf("offset %d: %d, %v", off, n, err)
		}
		if got := receive(t, end); !bytes.Equal(got, want) {
			t.Fatalf("offset %d:\n got %x\nwant %x", off, got, want)
		}
		for i, b := range f.Buf {
			if (i < off || i >= off+len(want)) && b != 0xa5 {
				t.Fatalf("offset %d: byte %d outside the frame was changed", off, i)
			}
		}
	}
	// Three without room between them, the last first.
	buf := make([]byte, tun.Headroom)
	var frames []tun.Frame
	for i := range 3 {
		frames = append(frames, tun.Frame{Off: len(buf), Len: 60 + i})
		buf = append(buf, Frame(end.There, end.Here, i, 60+i)...)
	}
	for i := range frames {
		frames[i].Buf = buf
	}
	slices.Reverse(frames)
	if n, err := device.Queues()[0].WriteBatch(frames); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	for i := 2; i >= 0; i-- {
		if want, got := Frame(end.There, end.Here, i, 60+i), receive(t, end); !bytes.Equal(got, want) {
			t.Fatalf("frame %d of three in a row:\n got %x\nwant %x", i, got, want)
		}
	}
}

func testWritePieces(t *testing.T, device tun.Device, end End) {
	for _, cuts := range [][]int{{400}, {54, 60, 200}, {38, 38, 39, 999}} {
		want := Frame(end.There, end.Here, len(cuts), 1000)
		f := Place(want[:cuts[0]], tun.Headroom)
		for i, cut := range cuts {
			next := len(want)
			if i+1 < len(cuts) {
				next = cuts[i+1]
			}
			f.More = append(f.More, want[cut:next])
		}
		plain := Place(Frame(end.There, end.Here, 99, 64), tun.Headroom)
		if n, err := device.Queues()[0].WriteBatch([]tun.Frame{f, plain}); n != 2 || err != nil {
			t.Fatalf("cut at %v: %d, %v", cuts, n, err)
		}
		if got := receive(t, end); !bytes.Equal(got, want) {
			t.Fatalf("cut at %v:\n got %x\nwant %x", cuts, head(got), head(want))
		}
		if got := receive(t, end); !bytes.Equal(got, Frame(end.There, end.Here, 99, 64)) {
			t.Fatalf("cut at %v: the frame behind it changed", cuts)
		}
	}
}

// testWriteRefused: what is refused is skipped, the rest is written, and the error
// is the first refusal.
func testWriteRefused(t *testing.T, device tun.Device, end End) {
	good := func(i int) tun.Frame { return Place(Frame(end.There, end.Here, i, 70), tun.Headroom) }
	short := Place([]byte{1, 2, 3}, tun.Headroom)
	outside := good(0)
	outside.Len = len(outside.Buf)
	long := tun.Frame{Buf: make([]byte, tun.BufferSize+100), Off: tun.Headroom, Len: tun.MaxFrame + 1}
	copy(long.Buf[tun.Headroom:], Frame(end.There, end.Here, 0, 60))
	n, err := device.Queues()[0].WriteBatch([]tun.Frame{good(1), short, good(2), outside, long, {}, good(3)})
	if n != 3 || err == nil || errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteBatch: %d, %v; want 3 and the refusal", n, err)
	}
	for i := 1; i <= 3; i++ {
		if want, got := Frame(end.There, end.Here, i, 70), receive(t, end); !bytes.Equal(got, want) {
			t.Fatalf("frame %d:\n got %x\nwant %x", i, got, want)
		}
	}
}

func testWriteTogether(t *testing.T, device tun.Device, end End) {
	const each = 50
	var wg sync.WaitGroup
	for writer := range 2 {
		wg.Go(func() {
			for i := range each {
				f := Place(Frame(end.There, end.Here, writer<<16|i, 80), tun.Headroom)
				if n, err := device.Queues()[0].WriteBatch([]tun.Frame{f}); n != 1 || err != nil {
					t.Errorf("writer %d: %d, %v", writer, n, err)
				}
			}
		})
	}
	wg.Wait()
	var next [2]int
	for range 2 * each {
		number := int(binary.BigEndian.Uint32(receive(t, end)[34:]))
		if i := number & 0xffff; next[number>>16] != i {
			t.Fatalf("writer %d: frame %d came, %d was next", number>>16, i, next[number>>16])
		}
		next[number>>16]++
	}
}

func testCloseWakes(t *testing.T, device tun.Device, end End) {
	r := read(t, device, 4)
	if err := end.Send(Frame(end.Here, end.There, 1, 100)); err != nil {
		t.Fatal(err)
	}
	r.next(t) // the readers are at work; all but one wait, and soon that one too
	if err := device.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for range device.Queues() {
		select {
		case err := <-r.errs:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("a read that Close ended: %v, want os.ErrClosed", err)
			}
		case <-time.After(patience):
			t.Fatal("Close did not wake a reader")
		}
	}
}

func testCloseTwice(t *testing.T, device tun.Device, end End) {
	queues := device.Queues()
	for range 2 {
		if err := device.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		for _, q := range queues {
			if n, err := q.ReadBatch(Buffers(1)); n != 0 || !errors.Is(err, os.ErrClosed) {
				t.Errorf("ReadBatch after Close: %d, %v", n, err)
			}
			f := Place(Frame(end.There, end.Here, 0, 80), tun.Headroom)
			if n, err := q.WriteBatch([]tun.Frame{f}); n != 0 || !errors.Is(err, os.ErrClosed) {
				t.Errorf("WriteBatch after Close: %d, %v", n, err)
			}
		}
	}
}
