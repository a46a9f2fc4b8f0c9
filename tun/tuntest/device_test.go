package tuntest

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/tun"
)

func memoryEnd(d *Device) End {
	return End{
		Send: func(frame []byte) error {
			if !d.Inject(frame) {
				return errors.New("dropped")
			}
			return nil
		},
		Receive: func(wait time.Duration) ([]byte, bool) {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			w, ok := d.Take(ctx)
			return w.Bytes, ok
		},
		Here:     Address{MAC: [6]byte{2, 0, 0, 0, 0, 1}, IP: netip.MustParseAddr("10.32.0.1")},
		There:    Address{MAC: [6]byte{2, 0, 0, 0, 0, 2}, IP: netip.MustParseAddr("10.32.0.2")},
		MaxFrame: 65535,
	}
}

func TestConformance(t *testing.T) {
	for name, cfg := range map[string]Config{
		"plain":  {},
		"queues": {Queues: 3},
		"header": {Name: "tap9", Capabilities: tun.Capabilities{VirtioHeader: 24, Checksum: true}},
	} {
		t.Run(name, func(t *testing.T) {
			Conformance(t, func(t *testing.T) (tun.Device, End) {
				d := NewDevice(cfg)
				t.Cleanup(func() { d.Close() })
				return d, memoryEnd(d)
			})
		})
	}
}

// TestInBubble: a reader that waits is durably blocked, so time passes at once.
func TestInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDevice(Config{})
		done := make(chan error)
		go func() {
			frames := Buffers(2)
			_, err := d.Queues()[0].ReadBatch(frames)
			if err == nil {
				_, err = d.Queues()[0].ReadBatch(frames)
			}
			done <- err
		}()
		<-time.After(time.Hour)
		if !d.Inject(Frame(Address{IP: netip.MustParseAddr("10.0.0.1")}, Address{IP: netip.MustParseAddr("10.0.0.2")}, 1, 64)) {
			t.Error("a frame was dropped")
		}
		synctest.Wait()
		d.Close()
		if err := <-done; !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestBounded(t *testing.T) {
	d := NewDevice(Config{Depth: 2})
	frame := Frame(memoryEnd(d).Here, memoryEnd(d).There, 0, 64)
	for i, want := range []bool{true, true, false} {
		if got := d.Inject(frame); got != want {
			t.Errorf("Inject %d: %v", i, got)
		}
	}
	n, err := d.Queues()[0].WriteBatch([]tun.Frame{Place(frame, 0), Place(frame, 0), Place(frame, 0)})
	if n != 2 || err == nil {
		t.Errorf("WriteBatch into a full device: %d, %v", n, err)
	}
	if got := d.Lost(); got != 2 {
		t.Errorf("lost %d, want 2", got)
	}
}
