package tun

import (
	"context"
	"errors"
)

func OpenTAP(cfg Config) (Device, error)       { return nil, errors.ErrUnsupported }
func OpenTUN(cfg RoutedConfig) (Device, error) { return nil, errors.ErrUnsupported }

type Bridge struct{}

func SetUpBridge(cfg BridgeConfig) (*Bridge, error) { return nil, errors.ErrUnsupported }
func (b *Bridge) Name() string                      { return "" }
func (b *Bridge) Made() bool                        { return false }
func (b *Bridge) Ports() ([]Port, error)            { return nil, errors.ErrUnsupported }
func (b *Bridge) RemoveIfUnused() error             { return errors.ErrUnsupported }
func (b *Bridge) Watch() (*Watcher, error)          { return nil, errors.ErrUnsupported }

// ForwardingHazard …
func ForwardingHazard(bridge string) (string, bool) { return "", false }

// LinkState …
type LinkState uint8

const (
	LinkUp LinkState = iota + 1
	LinkDown
	LinkGone
)

// LinkEvent …
type LinkEvent struct {
	Name   string
	State  LinkState
	Master int
	MTU    int
}

// Watcher …
type Watcher struct{}

func Watch(names ...string) (*Watcher, error) { return nil, errors.ErrUnsupported }
func (w *Watcher) Run(ctx context.Context, changed func(LinkEvent)) error {
	return errors.ErrUnsupported
}
func (w *Watcher) Close() error { return nil }
