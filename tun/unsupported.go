//go:build !linux

package tun

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

var errPlatform = fmt.Errorf("tun: ripstop's devices need Linux: %w", errors.ErrUnsupported)

// OpenTAP is there on Linux only.
func OpenTAP(Config) (Device, error) { return nil, errPlatform }

// OpenTUN is there on Linux only.
func OpenTUN(RoutedConfig) (Device, error) { return nil, errPlatform }

// ForwardingHazard is there on Linux only.
func ForwardingHazard(string) (string, bool) { return "", false }

// RoutingHazard is there on Linux only.
func RoutingHazard(string) (string, bool) { return "", false }

// Overlap is there on Linux only.
func Overlap(netip.Prefix, ...string) (string, error) { return "", errPlatform }

// InterfaceAddrs is there on Linux only.
func InterfaceAddrs() ([]InterfaceAddr, error) { return nil, errPlatform }

// Bridge is there on Linux only.
type Bridge struct{}

// SetUpBridge is there on Linux only.
func SetUpBridge(BridgeConfig) (*Bridge, error) { return nil, errPlatform }

// Name is empty.
func (*Bridge) Name() string { return "" }

// Index is 0.
func (*Bridge) Index() int { return 0 }

// Made is false.
func (*Bridge) Made() bool { return false }

// Ports are unknown.
func (*Bridge) Ports() ([]Port, error) { return nil, errPlatform }

// RemoveIfUnused has nothing to remove.
func (*Bridge) RemoveIfUnused() error { return nil }

// Watch is there on Linux only.
func (*Bridge) Watch() (*Watcher, error) { return nil, errPlatform }

// Watcher is there on Linux only.
type Watcher struct{}

// Watch is there on Linux only.
func Watch(...string) (*Watcher, error) { return nil, errPlatform }

// Run has nothing to tell.
func (*Watcher) Run(context.Context, func(LinkEvent)) error { return errPlatform }

// Close has nothing to close.
func (*Watcher) Close() error { return nil }

// Changes is there on Linux only.
type Changes struct{}

// WatchInterfaces is there on Linux only.
func WatchInterfaces() (*Changes, error) { return nil, errPlatform }

// WatchRules is there on Linux only.
func WatchRules() (*Changes, error) { return nil, errPlatform }

// Run has nothing to tell.
func (*Changes) Run(context.Context, func()) error { return errPlatform }

// Close has nothing to close.
func (*Changes) Close() error { return nil }
