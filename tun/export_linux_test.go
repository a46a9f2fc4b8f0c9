package tun

import (
	"testing"
	"time"
)

// What the tests outside the package need of its kernel helpers.

func InNamespace(t *testing.T) { inNamespace(t) }

type Wire struct{ w *wire }

func NewWire(t *testing.T, name string) Wire { return Wire{newWire(t, name)} }

func (w Wire) Send(frame []byte) error { return w.w.send(frame) }

func (w Wire) Receive(wait time.Duration, match func([]byte) bool) ([]byte, bool) {
	return w.w.receive(wait, match)
}
