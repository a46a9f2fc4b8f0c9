package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// writeTimeout is for an answer over TCP.
const writeTimeout = 10 * time.Second

// ParseLoopback reads an address and a port on the loopback, such as 127.0.0.1:6782 or
// [::1]:0. Of another address than a loopback's the error is what elsewhere says.
func ParseLoopback(s string, elsewhere func(port uint16) error) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Addr().Zone() != "" {
		return netip.AddrPort{}, errors.New("it is a loopback address and a port, such as 127.0.0.1:6782 or [::1]:6782; port 0 takes any free one")
	}
	if !a.Addr().Unmap().IsLoopback() {
		return netip.AddrPort{}, elsewhere(a.Port())
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

// LoopbackConfig says where a LoopbackServer listens and what it answers.
type LoopbackConfig struct {
	Address     netip.AddrPort // required: a loopback address; port 0 = any free one
	Flag        string         // required: by which people choose it, for errors
	Connections int            // required: at once; further ones wait in the kernel
	Handler     http.Handler   // required
	Log         *slog.Logger   // required
}

// LoopbackServer answers HTTP over TCP to the programs of this host, and to no page of the
// web that their browsers show.
type LoopbackServer struct {
	listener net.Listener
	http     *http.Server
}

// ListenLoopback opens the port.
func ListenLoopback(cfg LoopbackConfig) (*LoopbackServer, error) {
	if !cfg.Address.Addr().IsLoopback() {
		return nil, fmt.Errorf("api: %v is no loopback address: check %s", cfg.Address, cfg.Flag)
	}
	l, err := net.Listen("tcp", cfg.Address.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("api: %w: another program has the port: choose another one by %s, or port 0 for any free one", err, cfg.Flag)
	case err != nil:
		return nil, fmt.Errorf("api: %w: check %s", err, cfg.Flag)
	}
	return &LoopbackServer{
		listener: netutil.LimitListener(l, cfg.Connections),
		http: &http.Server{
			Handler:                      onlyForLoopback(cfg.Handler),
			ReadHeaderTimeout:            headerTimeout,
			ReadTimeout:                  headerTimeout,
			WriteTimeout:                 writeTimeout,
			IdleTimeout:                  idleTimeout,
			MaxHeaderBytes:               16 << 10,
			DisableGeneralOptionsHandler: true,
			ErrorLog:                     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		},
	}, nil
}

// Addr is where it listens, with the port that was chosen.
func (s *LoopbackServer) Addr() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Run answers until ctx ends, gives running requests a second, and closes the port.
func (s *LoopbackServer) Run(ctx context.Context) error {
	if err := ServeHTTP(ctx, s.http, s.listener); err != nil {
		return fmt.Errorf("api: %v: %w", s.Addr(), err)
	}
	return nil
}

// Close gives the port up without having run; after Run it changes nothing.
func (s *LoopbackServer) Close() error { return s.listener.Close() }

// onlyForLoopback refuses requests that name another host than the loopback: a page of
// the web can have its own name resolved to 127.0.0.1 and then read what answers there
// (DNS rebinding), but its browser still sends the name.
func onlyForLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackHost(r.Host) {
			http.Error(w, "the request's Host is no loopback address: ask for localhost, 127.0.0.1 or [::1]; a reverse proxy has to send one of them", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopbackHost reports whether a Host header, with or without a port, means the loopback.
func isLoopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if inside, ok := strings.CutPrefix(host, "["); ok {
		host, _ = strings.CutSuffix(inside, "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
