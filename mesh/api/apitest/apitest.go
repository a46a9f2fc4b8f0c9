// Package apitest runs a daemon that is only a Backend behind a socket of the local API,
// for tests of what asks one.
package apitest

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"ripstop/mesh/api"
)

// Serve answers for b behind a socket of the test's own, until the test ends, and returns
// its path.
func Serve(t testing.TB, b api.Backend) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	ServeAt(t, socket, b)
	return socket
}

// ServeAt answers for b behind the socket at that path, until stop is called, which may be
// more than once, or the test ends.
func ServeAt(t testing.TB, socket string, b api.Backend) (stop func()) {
	t.Helper()
	server, err := api.Listen(api.ServerConfig{Socket: socket, Backend: b, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return cancel
}
