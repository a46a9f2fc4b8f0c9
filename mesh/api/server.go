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
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// How long a caller may take, and how long an answer may.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 30 * time.Second
	idleTimeout    = 60 * time.Second
	closeTimeout   = time.Second
)

// maxSocketPath is what sockaddr_un holds, without its terminating zero (unix(7)).
const maxSocketPath = 107

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
	if len(cfg.Socket) > maxSocketPath-len(newSuffix) {
		return nil, fmt.Errorf("api: socket %s: the path has %d bytes, %d are the most: choose a shorter one by --socket",
			cfg.Socket, len(cfg.Socket), maxSocketPath-len(newSuffix))
	}
	gid, err := groupID(cfg.Group)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("api: socket %s: %w", cfg.Socket, err)
	}
	if conn, err := net.Dial("unix", cfg.Socket); err == nil {
		conn.Close()
		return nil, fmt.Errorf("api: socket %s: another daemon answers there: stop it, or choose another socket by --socket", cfg.Socket)
	}
	if info, err := os.Lstat(cfg.Socket); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("api: socket %s: there is a file that is no socket: remove it, or choose another path by --socket", cfg.Socket)
	}
	listener, err := listenPrivately(cfg.Socket, gid)
	if err != nil {
		return nil, fmt.Errorf("api: socket %s: %w", cfg.Socket, err)
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

// newSuffix is put behind the socket's path while its mode is not set yet.
const newSuffix = ".new"

// listenPrivately binds beside path and renames, so that nobody finds the
// socket before its group and mode are right.
func listenPrivately(path string, gid int) (*net.UnixListener, error) {
	fresh := path + newSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o660)
	if err == nil && gid >= 0 {
		err = os.Chown(fresh, -1, gid)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		l.Close()
		os.Remove(fresh)
		return nil, err
	}
	return l, nil
}

// groupID finds a group by name or number; -1 for none asked for.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("api: socket group %q: there is no such group on this host", group)
	}
	return strconv.Atoi(g.Gid)
}

// Run answers until ctx ends, gives running requests a second, and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	err := serveHTTP(ctx, s.http, s.listener)
	os.Remove(s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("api: socket %s: %w", s.cfg.Socket, err)
	}
	return nil
}

// serveHTTP answers on l until ctx ends, gives running requests a second, and closes l.
func serveHTTP(ctx context.Context, server *http.Server, l net.Listener) error {
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-stopped:
			return
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(late) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	close(stopped)
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
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
