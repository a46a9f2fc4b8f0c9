package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// pathMetrics is where metrics are, on the unix socket as over TCP.
const pathMetrics = "/metrics"

// Bounds of what readers of metrics may take. A Status of 4096 peers makes some 6 MB of text.
const (
	maxScrapes     = 4                // that are being made at once, of each server
	maxConnections = 16               // over TCP; further ones wait in the kernel
	writeTimeout   = 10 * time.Second // for an answer over TCP
)

// scraper answers GET /metrics.
type scraper struct {
	status func(context.Context) (Status, error)
	slots  chan struct{}
}

func newScraper(b Backend) *scraper {
	return &scraper{status: b.Status, slots: make(chan struct{}, maxScrapes)}
}

// ServeHTTP writes the metrics, or says in plain text why there are none now.
func (s *scraper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := s.scrape(r.Context())
	if err != nil {
		status := http.StatusInternalServerError
		if refusal := (*Error)(nil); errors.As(err, &refusal) {
			status = refusal.Code.httpStatus()
		}
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", expositionType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// scrape makes one answer, unless as many are being made as may be.
func (s *scraper) scrape(ctx context.Context) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
	default:
		return nil, Errorf(CodeUnavailable, "%d scrapes are being made already: ask again", maxScrapes)
	}
	defer func() { <-s.slots }()
	status, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	return (&scrape{status, readUsage()}).exposition(), nil
}

// MetricsConfig says where a MetricsServer listens and whom it asks.
type MetricsConfig struct {
	Address netip.AddrPort // required: a loopback address; port 0 = any free one
	Backend Backend        // required
	Log     *slog.Logger   // required
}

// MetricsServer answers GET /metrics over TCP on the host's loopback, and nothing else.
// Every program on the host may read it.
type MetricsServer struct {
	listener net.Listener
	http     *http.Server
}

// ParseMetricsAddress reads the address of a MetricsServer, such as 127.0.0.1:6782 or
// [::1]:0, and refuses one that is not on the loopback.
func ParseMetricsAddress(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Addr().Zone() != "" {
		return netip.AddrPort{}, errors.New("it is a loopback address and a port, such as 127.0.0.1:6782 or [::1]:6782; port 0 takes any free one")
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	return a, checkLoopback(a)
}

// checkLoopback refuses an address that others than this host's programs can reach.
func checkLoopback(a netip.AddrPort) error {
	if a.Addr().IsLoopback() {
		return nil
	}
	return fmt.Errorf("metrics are answered without asking who reads them, so on a loopback address only: give 127.0.0.1:%d and put a reverse proxy that asks in front of it, or read GET %s of the daemon's socket", a.Port(), pathMetrics)
}

// ListenMetrics opens the port.
func ListenMetrics(cfg MetricsConfig) (*MetricsServer, error) {
	if err := checkLoopback(cfg.Address); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	l, err := net.Listen("tcp", cfg.Address.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("api: metrics: %w: another program has the port: choose another one by --metrics, or port 0 for any free one", err)
	case err != nil:
		return nil, fmt.Errorf("api: metrics: %w: check --metrics", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+pathMetrics, newScraper(cfg.Backend)) // HEAD too
	return &MetricsServer{
		listener: netutil.LimitListener(l, maxConnections),
		http: &http.Server{
			Handler:                      onlyForLoopback(mux),
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
func (s *MetricsServer) Addr() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Run answers until ctx ends, gives running requests a second, and closes the port.
func (s *MetricsServer) Run(ctx context.Context) error {
	if err := ServeHTTP(ctx, s.http, s.listener); err != nil {
		return fmt.Errorf("api: metrics: %w", err)
	}
	return nil
}

// Close gives the port up without having run; after Run it changes nothing.
func (s *MetricsServer) Close() error { return s.listener.Close() }

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
