package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"time"

	"ripstop/integration/lab"
)

// wireguardModule is the module of wireguard-go, at the version that go.mod pins.
const wireguardModule = "golang.zx2c4.com/wireguard"

// wireguardSystem is wireguard-go from the module that ripstop uses as a library.
func wireguardSystem() *system {
	const (
		overhead = 80 // IPv6 40, UDP 8, WireGuard 32: what its tools leave by default
		port     = 51820
	)
	return &system{
		name: wireguardGo, title: "wireguard-go", layer: "3", cipher: "ChaCha20-Poly1305",
		lay: func(ctx context.Context, r *rig) error {
			a, b := r.lab.Host(hostA), r.lab.Host(hostB)
			keyA, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			keyB, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			for _, end := range []struct {
				here, there *lab.Host
				key, peer   *ecdh.PrivateKey
				network     string // behind the peer
			}{{a, b, keyA, keyB, routedB.network}, {b, a, keyB, keyA, routedA.network}} {
				// Both daemons' sockets lie in one directory, named by their devices.
				device := "wg" + end.here.Name()
				err := r.daemon(ctx, processConfig{
					Place: end.here.Place, Program: r.programs.wireguard, Args: []string{"-f", device},
					Env: []string{"LOG_LEVEL=verbose"}, Ready: "UAPI listener started",
				})
				if err != nil {
					return err
				}
				addr, _ := end.here.Addr(end.there)
				err = configureWireguard(ctx, device, wireguardConfig{
					Key: end.key, Peer: end.peer.PublicKey(), Port: port,
					Endpoint: netip.AddrPortFrom(addr, port), Allowed: end.network,
				})
				if err != nil {
					return err
				}
			}
			return r.routed(ctx, "wg", r.opt.MTU-overhead)
		},
	}
}

// wireguardConfig is one end's configuration.
type wireguardConfig struct {
	Key      *ecdh.PrivateKey
	Peer     *ecdh.PublicKey
	Port     int
	Endpoint netip.AddrPort
	Allowed  string // prefix behind the peer
}

// set is the configuration as the userspace protocol has it
// (https://www.wireguard.com/xplatform/).
func (c wireguardConfig) set() string {
	return fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\nreplace_peers=true\npublic_key=%s\nendpoint=%s\nreplace_allowed_ips=true\nallowed_ip=%s\n\n",
		hex.EncodeToString(c.Key.Bytes()), c.Port, hex.EncodeToString(c.Peer.Bytes()), c.Endpoint, c.Allowed)
}

// wireguardSockets is where wireguard-go has its sockets; it can't be told otherwise,
// so the isolated process has a file system of its own there.
const wireguardSockets = "/var/run/wireguard/"

// configureWireguard tells a running wireguard-go its configuration.
func configureWireguard(ctx context.Context, device string, cfg wireguardConfig) error {
	deadline := time.Now().Add(readyTimeout)
	var conn net.Conn
	for {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, "unix", wireguardSockets+device+".sock")
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			return fmt.Errorf("wireguard-go %s: %w", device, err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte(cfg.set())); err != nil {
		return fmt.Errorf("wireguard-go %s: configure: %w", device, err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "errno=0" {
		return fmt.Errorf("wireguard-go %s: configure: answer %q (%v)", device, answer, err)
	}
	return nil
}
