package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"ripstop/integration/lab"
)

// Nebula's addresses in its overlay; the containers' networks are behind them.
const nebulaA, nebulaB = "10.42.0.1", "10.42.0.2"

// nebulaSystem is Nebula as Debian has it, with AES and an MTU that just fits; the
// rest are its defaults.
func nebulaSystem() *system {
	const overhead = 60 // IPv4 20, UDP 8, header 16, tag 16
	return &system{
		name: nebula, title: "Nebula", layer: "3", cipher: "AES-256-GCM",
		needs:   []need{{"nebula", "nebula"}, {"nebula-cert", "nebula"}},
		version: []string{"nebula", "-version"},
		lay: func(ctx context.Context, r *rig) error {
			a, b := r.lab.Host(hostA), r.lab.Host(hostB)
			dir, err := r.folder(hostA, "nebula")
			if err != nil {
				return err
			}
			if _, err := run(ctx, a.Place, "nebula-cert", "ca", "-name", "bench", "-duration", "24h",
				"-out-crt", filepath.Join(dir, "ca.crt"), "-out-key", filepath.Join(dir, "ca.key")); err != nil {
				return err
			}
			for _, end := range []struct {
				here, there          *lab.Host
				addr, peer           string
				network, peerNetwork string
			}{
				{a, b, nebulaA, nebulaB, routedA.network, routedB.network},
				{b, a, nebulaB, nebulaA, routedB.network, routedA.network},
			} {
				name := end.here.Name()
				if _, err := run(ctx, a.Place, "nebula-cert", "sign", "-name", name, "-ip", end.addr+"/24", "-subnets", end.network, "-duration", "23h",
					"-ca-crt", filepath.Join(dir, "ca.crt"), "-ca-key", filepath.Join(dir, "ca.key"),
					"-out-crt", filepath.Join(dir, name+".crt"), "-out-key", filepath.Join(dir, name+".key")); err != nil {
					return err
				}
				there, _ := end.here.Addr(end.there)
				config, err := r.file(name, "nebula.yml", nebulaConfig(dir, name, end.peer, there.String(), end.peerNetwork, r.opt.MTU-overhead))
				if err != nil {
					return err
				}
				err = r.daemon(ctx, processConfig{Place: end.here.Place, Program: "nebula", Args: []string{"-config", config}, Ready: "interface is active"})
				if err != nil {
					return err
				}
			}
			return r.routed(ctx, "nebula", r.opt.MTU-overhead)
		},
	}
}

func nebulaConfig(dir, name, peer, peerUnderlay, peerNetwork string, mtu int) string {
	return fmt.Sprintf(`pki: {ca: %[1]s/ca.crt, cert: %[1]s/%[2]s.crt, key: %[1]s/%[2]s.key}
static_host_map: {"%[3]s": ["%[4]s:4242"]}
lighthouse: {am_lighthouse: false, hosts: []}
listen: {host: 0.0.0.0, port: 4242}
cipher: aes
tun:
  dev: nebula%[2]s
  mtu: %[6]d
  unsafe_routes: [{route: %[5]s, via: %[3]s, mtu: %[6]d}]
logging: {level: info}
firewall:
  default_local_cidr_any: true
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, dir, name, peer, peerUnderlay, peerNetwork, mtu)
}

// What is left of an underlay packet for OpenVPN's and tinc's headers, Ethernet
// header and padding included: room for all, so that nothing is fragmented.
const tapOverhead = 120

// tapSystem lays out a daemon with a TAP device on the bridge of each host.
func tapSystem(start func(ctx context.Context, r *rig, here, there *lab.Host) error) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		a, b := r.lab.Host(hostA), r.lab.Host(hostB)
		for _, h := range []*lab.Host{a, b} {
			if err := ip(ctx, h.Place, "tuntap add dev tap0 mode tap"); err != nil {
				return err
			}
		}
		for _, pair := range [][2]*lab.Host{{a, b}, {b, a}} {
			if err := start(ctx, r, pair[0], pair[1]); err != nil {
				return err
			}
		}
		return r.bridged(ctx, "tap0", r.opt.MTU-tapOverhead)
	}
}

// openvpnSystem is OpenVPN as Debian has it, in user space, with TLS between two
// self-signed certificates.
func openvpnSystem() *system {
	var certificates map[string]certificate
	return &system{
		name: openvpn, title: "OpenVPN, TAP", layer: "2", cipher: "AES-256-GCM",
		needs:   []need{{"openvpn", "openvpn"}},
		version: []string{"openvpn", "--version"},
		lay: tapSystem(func(ctx context.Context, r *rig, here, there *lab.Host) error {
			if certificates == nil {
				made := make(map[string]certificate)
				for _, name := range []string{hostA, hostB} {
					c, err := newCertificate(name)
					if err != nil {
						return err
					}
					made[name] = c
				}
				certificates = made
			}
			mine := certificates[here.Name()]
			cert, err := r.file(here.Name(), "openvpn/cert.pem", mine.cert)
			if err != nil {
				return err
			}
			key, err := r.file(here.Name(), "openvpn/key.pem", mine.key)
			if err != nil {
				return err
			}
			local, _ := here.Addr(here)
			remote, _ := here.Addr(there)
			args := []string{
				"--dev", "tap0", "--dev-type", "tap", "--proto", "udp4", "--local", local.String(), "--remote", remote.String(), "--port", "1194",
				"--cert", cert, "--key", key, "--peer-fingerprint", certificates[there.Name()].fingerprint,
				"--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM", "--tun-mtu", fmt.Sprint(r.opt.MTU - tapOverhead), "--mssfix", "0",
				"--fast-io", "--txqueuelen", "1000", "--sndbuf", "4194304", "--rcvbuf", "4194304", "--disable-dco",
			}
			ready := ""
			if here.Name() == hostA {
				args = append(args, "--tls-server", "--dh", "none")
				ready = "UDPv4 link local"
			} else {
				args = append(args, "--tls-client")
				ready = "Initialization Sequence Completed"
			}
			return r.daemon(ctx, processConfig{Place: here.Place, Program: "openvpn", Args: args, Ready: ready})
		}),
	}
}

// certificate is a self-signed certificate with its key, in PEM.
type certificate struct{ cert, key, fingerprint string }

func newCertificate(name string) (certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certificate{}, err
	}
	sum := sha256.Sum256(der)
	return certificate{
		cert:        string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		fingerprint: strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":"),
	}, nil
}

// tincSystem is tinc 1.0 as Debian has it, in switch mode.
func tincSystem() *system {
	const keyBits = 2048
	keys := make(map[string]*rsa.PrivateKey)
	return &system{
		name: tinc, title: "tinc, switch", layer: "2", cipher: "AES-256-CBC + SHA-256",
		needs:   []need{{"tincd", "tinc"}},
		version: []string{"tincd", "--version"},
		lay: tapSystem(func(ctx context.Context, r *rig, here, there *lab.Host) error {
			for _, name := range []string{hostA, hostB} {
				if keys[name] != nil {
					continue
				}
				key, err := rsa.GenerateKey(rand.Reader, keyBits)
				if err != nil {
					return err
				}
				keys[name] = key
			}
			name := here.Name()
			private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(keys[name])})
			files := map[string]string{
				"tinc/tinc.conf":    fmt.Sprintf("Name = %s\nMode = switch\nDeviceType = tap\nInterface = tap0\nAddressFamily = ipv4\nConnectTo = %s\n", name, there.Name()),
				"tinc/rsa_key.priv": string(private),
			}
			for _, h := range []*lab.Host{here, there} {
				addr, _ := here.Addr(h)
				public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&keys[h.Name()].PublicKey)})
				files["tinc/hosts/"+h.Name()] = fmt.Sprintf("Address = %s\nCipher = aes-256-cbc\nDigest = sha256\n%s", addr, public)
			}
			dir, err := r.folder(name, "tinc")
			if err != nil {
				return err
			}
			for file, content := range files {
				if _, err := r.file(name, file, content); err != nil {
					return err
				}
			}
			return r.daemon(ctx, processConfig{
				Place: here.Place, Program: "tincd", Ready: "Ready",
				Args: []string{"-c", dir, "-D", "-d1", "--pidfile", filepath.Join(dir, "pid")},
			})
		}),
	}
}
