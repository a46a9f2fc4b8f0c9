// Package docker is ripstop as a network and an address (IPAM) driver of Docker, by
// Docker's protocol for plug-ins outside its process.
//
//	dockerd ── HTTP+JSON over a unix socket ──► Server ──► api.Client ──► ripstop's daemon
//
//	network create      RequestPool, CreateNetwork     a part of ripstop's range; nothing is kept of it
//	container start     RequestAddress                 an address, allocated to "docker:MAC"
//	                    CreateEndpoint                 runtimes.Lend: a pair with that MAC and address, whose
//	                                                   inner end waits in the host's namespace
//	                    Join                           its name, and routes: Docker moves it in and sets it up
//	container stop      Leave                          nothing: Docker brings the inner end back
//	                    DeleteEndpoint                 runtimes.Detach
//	                    ReleaseAddress                 the address of "docker:MAC" is free again
//	network rm          ReleasePool                    nothing
//	                    DeleteNetwork                  what is left of its endpoints goes
//
// The plug-in keeps nothing that must not be lost: what stands is known by the daemon, which
// keeps it over restarts of its own, and is found by an endpoint's owner
// "docker:NETWORK/ENDPOINT" and an address's "docker:MAC". So every call may come twice, and
// before or after a restart of Docker, of the plug-in or of the daemon. An address is Docker's
// from RequestAddress to ReleaseAddress, whatever becomes of the endpoint in between. What
// Docker has lost, because nobody answered or it died, is found by Server.sweep.
//
// All networks of this driver are one Ethernet, ripstop's. They have no gateway. Docker's
// firewall is told to let it pass, see firewall.PassDocker.
//
// Read docker.go and serve.go first, then ipam.go, network.go, endpoint.go, sandbox.go,
// sweep.go. What Docker sends and wants to hear is in message.go.
package docker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"ripstop/mesh/api"
	"ripstop/tun/firewall"
)

// DefaultSocket is where Docker looks for a driver called ripstop.
const DefaultSocket = "/run/docker/plugins/ripstop.sock"

// How long a call may take to come, to be answered, and to be sent for the next time.
// Docker itself waits for an answer without end. A daemon that is started again, or at boot
// after Docker, is waited for.
const (
	readTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second
	idleTimeout   = time.Minute
	daemonTimeout = 10 * time.Second
)

// Config says where a Server listens and whom it asks.
type Config struct {
	Socket string       // required: path; its directory is made when missing
	Client *api.Client  // required: of the daemon, which need not run yet
	Log    *slog.Logger // required

	// KeepFirewall leaves Docker's firewall as it is, which as Docker makes it drops what
	// goes from one port of ripstop's bridge to another.
	KeepFirewall bool
}

// Server answers Docker.
type Server struct {
	cfg      Config
	listener *net.UnixListener
	http     *http.Server
	patience time.Duration                               // with a daemon that does not answer
	pass     func(bridge string) (added bool, err error) // Docker's firewall; nil: leave that
	inside   sandboxes

	// attaching lets one endpoint at a time be made or removed: Docker may ask again for
	// what it gave up waiting for.
	attaching sync.Mutex
}

// Listen makes the socket. One that a living plug-in answers on is an error.
func Listen(cfg Config) (*Server, error) {
	listener, err := api.ListenSocket(cfg.Socket, "", "--plugin-socket")
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	s := &Server{cfg: cfg, listener: listener, patience: daemonTimeout}
	if !cfg.KeepFirewall {
		s.pass = firewall.PassDocker
	}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      readTimeout + answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Run answers until ctx ends, gives running calls a second, and removes the socket:
// Docker waits long for a plug-in whose socket is there and does not answer.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.sweepNowAndThen(ctx) })
	err := api.ServeHTTP(ctx, s.http, s.listener)
	os.Remove(s.cfg.Socket)
	cancel()
	wg.Wait()
	if err != nil {
		return fmt.Errorf("docker: socket %s: %w", s.cfg.Socket, err)
	}
	return nil
}
