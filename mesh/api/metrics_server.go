package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
)

// pathMetrics is where metrics are, on the unix socket as over TCP.
const pathMetrics = "/metrics"

// Bounds of what readers of metrics may take. A Status of 4096 peers makes some 6 MB of text.
const (
	maxScrapes     = 4  // that are being made at once, of each server
	maxConnections = 16 // over TCP; further ones wait in the kernel
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

// MetricsConfig says where metrics are read over TCP and whom they are asked of.
type MetricsConfig struct {
	Address netip.AddrPort // required: a loopback address; port 0 = any free one
	Backend Backend        // required
	Log     *slog.Logger   // required
}

// ParseMetricsAddress reads the address where metrics are read, such as 127.0.0.1:6782 or
// [::1]:0, and refuses one that is not on the loopback.
func ParseMetricsAddress(s string) (netip.AddrPort, error) {
	return ParseLoopback(s, func(port uint16) error {
		return fmt.Errorf("metrics are answered without asking who reads them, so on a loopback address only: give 127.0.0.1:%d and put a reverse proxy that asks in front of it, or read GET %s of the daemon's socket", port, pathMetrics)
	})
}

// ListenMetrics opens a port where GET /metrics is answered, and nothing else. Every program
// on the host may read it.
func ListenMetrics(cfg MetricsConfig) (*LoopbackServer, error) {
	mux := http.NewServeMux()
	mux.Handle("GET "+pathMetrics, newScraper(cfg.Backend)) // HEAD too
	return ListenLoopback(LoopbackConfig{Address: cfg.Address, Flag: "--metrics", Connections: maxConnections, Handler: mux, Log: cfg.Log})
}
