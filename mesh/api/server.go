package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// How long a caller may take, and how long an answer may.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second
	idleTimeout    = 60 * time.Second
)

// ServerConfig says where a Server listens and whom it asks.
type ServerConfig struct {
	Socket  string       // required: path; its directory is made when missing
	Group   string       // group that may use the socket, name or number; empty = the process's own
	Backend Backend      // required
	Log     *slog.Logger // required
}

// Server answers on the unix socket.
type Server struct {
	cfg      ServerConfig
	listener *net.UnixListener
	http     *http.Server
}

// Listen makes the socket with mode 0660. A socket file that nobody answers on
// is replaced; one that somebody answers on is an error.
func Listen(cfg ServerConfig) (*Server, error) {
	listener, err := ListenSocket(cfg.Socket, cfg.Group, "--socket")
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, listener: listener}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout + headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Run answers until ctx ends, gives running requests a second, and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	err := ServeHTTP(ctx, s.http, s.listener)
	os.Remove(s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("api: socket %s: %w", s.cfg.Socket, err)
	}
	return nil
}

// Close gives the socket up without having run.
func (s *Server) Close() error {
	os.Remove(s.cfg.Socket)
	return s.listener.Close()
}

func (s *Server) routes() http.Handler {
	b := s.cfg.Backend
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, r *http.Request) {
		status, err := b.Status(r.Context())
		status.Version = Version
		status.noNulls()
		s.answer(w, status, err)
	})
	mux.HandleFunc("GET "+pathTopology, question(s, func(ctx context.Context, _ struct{}) (Topology, error) { return b.Topology(ctx) }, (*Topology).settle))
	mux.HandleFunc("POST "+pathExplain, question(s, b.Explain, (*Explanation).settle))
	mux.HandleFunc("POST "+pathPing, question(s, b.Ping, versionPong))
	mux.HandleFunc("POST "+pathInternals, question(s, b.Internals, (*Internals).settle))
	mux.HandleFunc("POST "+pathConnect, command(s, b.Connect))
	mux.HandleFunc("POST "+pathForget, command(s, b.Forget))
	mux.HandleFunc("POST "+pathReserve, question(s, b.Reserve, versionPlan))
	mux.HandleFunc("POST "+pathCommit, question(s, b.Commit, versionEndpoint))
	mux.HandleFunc("POST "+pathCancel, command(s, b.Cancel))
	mux.HandleFunc("POST "+pathDetach, question(s, b.Detach, versionPlan))
	mux.HandleFunc("POST "+pathExpose, question(s, b.Expose, versionEndpoint))
	mux.HandleFunc("POST "+pathHide, command(s, bare(b.Hide)))
	s.ipamRoutes(mux)
	mux.HandleFunc("GET "+pathDNS, question(s, func(ctx context.Context, _ struct{}) (Names, error) { return b.Names(ctx) }, (*Names).settle))
	mux.HandleFunc("POST "+pathDNSAdd, command(s, b.AddName))
	mux.HandleFunc("POST "+pathDNSRemove, command(s, b.RemoveName))
	mux.HandleFunc("POST "+pathDNSLookup, question(s, b.Lookup, (*LookupAnswer).settle))
	mux.HandleFunc("POST "+pathStop, command(s, bare(b.Stop)))
	mux.HandleFunc("POST "+pathReset, command(s, bare(b.Reset)))
	mux.Handle("GET "+pathMetrics, newScraper(b))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, nil, Errorf(CodeNotFound, "%s %s is not part of version %d of this interface", r.Method, r.URL.Path, Version))
	})
	return mux
}

func versionPlan(p *AttachPlan)   { p.Version = Version }
func versionEndpoint(e *Endpoint) { e.Version = Version }

// bare gives a method without a request the shape of one with an empty request.
func bare(f func(context.Context) error) func(context.Context, struct{}) error {
	return func(ctx context.Context, _ struct{}) error { return f(ctx) }
}

// command handles a request whose answer is only that it is done.
func command[Q any](s *Server, f func(context.Context, Q) error) http.HandlerFunc {
	return question(s, func(ctx context.Context, q Q) (done, error) { return done{}, f(ctx, q) },
		func(d *done) { d.Version = Version })
}

// question handles a request with an answer, which stamp marks with the version.
func question[Q, A any](s *Server, f func(context.Context, Q) (A, error), stamp func(*A)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := decode(http.MaxBytesReader(w, r.Body, MaxBody), &q); err != nil {
			s.answer(w, nil, Errorf(CodeInvalid, "request %s: %v", r.URL.Path, err))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		a, err := f(ctx, q)
		stamp(&a)
		s.answer(w, a, err)
	}
}

// decode reads one JSON object and nothing behind it. Nothing at all is an empty object.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one object")
	}
	return nil
}

// answer writes v, or err as a refusal.
func (s *Server) answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		var refusal *Error
		if !errors.As(err, &refusal) {
			refusal = &Error{Code: CodeInternal, Message: err.Error()}
		}
		status = refusal.Code.httpStatus()
		v = failure{Version: Version, Error: &Error{Code: refusal.Code, Message: err.Error()}}
	}
	body, err := json.Marshal(v)
	if err != nil {
		s.cfg.Log.Error("api: answer cannot be written as JSON", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
