// Package page serves a read-only page that shows the network live.
//
//	browser ── GET /KEY/ ──────────► files/      index.html, page.css, page.js: as they are here
//	        ── GET /KEY/view.json ─► poller ──── view ── Status, Topology, Names ──► api.Client
//	           every two seconds      one poll of the daemon at a time for all who look,
//	           while it is looked at  one a second at most, none while nobody asks
//
// Who may read it: programs of this host (api.LoopbackServer) that know KEY, which is random
// and new at each start. Without it everything is 404. Nothing can be changed by it: GET is
// the only method, and no other question is asked of the daemon.
//
// What hosts tell of themselves is untrusted. The view has it as JSON, the script puts it
// into the page as text only, and the policy in the headers lets no other script run and
// nothing be fetched from elsewhere.
//
// Read page.go, then view.go and poller.go; files/page.js begins with how the page is drawn.
package page

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"ripstop/mesh/api"
)

// maxConnections is how many connections there are at once; a browser opens up to six.
const maxConnections = 48

// keyLen is how long the key in the path is, bytes.
const keyLen = 16

// headers are those of every answer. The policy lets a page load this server's style and
// script and ask this server, and nothing else.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cache-Control":                "no-store",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Referrer-Policy":              "no-referrer",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
}

//go:embed files
var files embed.FS

// types are the files, by the end of the path, with what they are.
var types = map[string]struct{ file, contentType string }{
	"":         {"index.html", "text/html; charset=utf-8"},
	"page.css": {"page.css", "text/css; charset=utf-8"},
	"page.js":  {"page.js", "text/javascript; charset=utf-8"},
}

// viewPath is where the view is.
const viewPath = "view.json"

// Config says where a Server listens and whom it asks.
type Config struct {
	Address netip.AddrPort // required: a loopback address; port 0 = any free one
	Daemon  Daemon         // required
	Log     *slog.Logger   // required
}

// Server answers for the page.
type Server struct {
	*api.LoopbackServer
	key string
}

// ParseAddress reads where a Server is to listen, such as 127.0.0.1:8080, and refuses what is
// not on the loopback.
func ParseAddress(s string) (netip.AddrPort, error) {
	return api.ParseLoopback(s, func(port uint16) error {
		return fmt.Errorf("the page is sent in the clear, so on a loopback address only: give 127.0.0.1:%d, and carry the port by `ssh -L` to look from another machine", port)
	})
}

// Listen opens the port and chooses the key.
func Listen(cfg Config) (*Server, error) {
	key := make([]byte, keyLen)
	rand.Read(key)
	s := &Server{key: hex.EncodeToString(key)}
	var err error
	s.LoopbackServer, err = api.ListenLoopback(api.LoopbackConfig{Address: cfg.Address, Flag: "--listen", Connections: maxConnections,
		Handler: newHandler(s.key, newPoller(cfg.Daemon)), Log: cfg.Log})
	return s, err
}

// URL is where the page is.
func (s *Server) URL() string { return fmt.Sprintf("http://%v/%s/", s.Addr(), s.key) }

// handler answers what is asked under the key.
type handler struct {
	key    string
	poller *poller
}

func newHandler(key string, p *poller) http.Handler { return &handler{key, p} }

// ServeHTTP answers with a file or the view.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range headers {
		w.Header().Set(name, value)
	}
	key, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	file, known := types[rest]
	switch {
	case subtle.ConstantTimeCompare([]byte(key), []byte(h.key)) != 1, !known && rest != viewPath, !strings.HasPrefix(r.URL.Path, "/"+key+"/"):
		http.Error(w, "there is nothing: the URL is what `ripstop web` printed, all of it", http.StatusNotFound)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "this page is only read", http.StatusMethodNotAllowed)
	case rest == viewPath:
		h.view(r.Context(), w)
	default:
		body, err := files.ReadFile("files/" + file.file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		send(w, file.contentType, body)
	}
}

// view answers with what the daemon tells, as it was a second ago at most.
func (h *handler) view(ctx context.Context, w http.ResponseWriter) {
	body, err := h.poller.view(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	send(w, "application/json", body)
}

func send(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}
