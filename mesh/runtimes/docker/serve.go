package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"ripstop/mesh/api"
)

// maxBody bounds a call's body in bytes; what Docker sends has some hundred.
const maxBody = 1 << 20

// contentType is the version of the protocol's frame. Docker checks none.
const contentType = "application/vnd.docker.plugins.v1.2+json"

// routes are all calls that Docker makes to a driver whose networks are each host's own.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for path, h := range map[string]http.HandlerFunc{
		"Plugin.Activate": call(s, s.activate),

		"IpamDriver.GetCapabilities":         call(s, s.addressCapabilities),
		"IpamDriver.GetDefaultAddressSpaces": call(s, s.addressSpaces),
		"IpamDriver.RequestPool":             call(s, s.requestPool),
		"IpamDriver.ReleasePool":             call(s, s.releasePool),
		"IpamDriver.RequestAddress":          call(s, s.requestAddress),
		"IpamDriver.ReleaseAddress":          call(s, s.releaseAddress),

		"NetworkDriver.GetCapabilities":  call(s, s.networkCapabilities),
		"NetworkDriver.GwAllocCheck":     call(s, s.checkGateway),
		"NetworkDriver.CreateNetwork":    call(s, s.createNetwork),
		"NetworkDriver.DeleteNetwork":    call(s, s.deleteNetwork),
		"NetworkDriver.CreateEndpoint":   call(s, s.createEndpoint),
		"NetworkDriver.EndpointOperInfo": call(s, s.endpointInfo),
		"NetworkDriver.Join":             call(s, s.join),
		"NetworkDriver.Leave":            call(s, s.leave),
		"NetworkDriver.DeleteEndpoint":   call(s, s.deleteEndpoint),
		"NetworkDriver.DiscoverNew":      call(s, s.discover),
		"NetworkDriver.DiscoverDelete":   call(s, s.discover),
	} {
		mux.HandleFunc("POST /"+path, h)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, http.StatusNotFound, fmt.Errorf("%.10s %.100s is nothing that this driver does", r.Method, r.URL.Path))
	})
	return mux
}

// call handles one of Docker's calls by f.
func call[Q, A any](s *Server, f func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := decode(http.MaxBytesReader(w, r.Body, maxBody), &q); err != nil {
			s.refuse(w, http.StatusBadRequest, fmt.Errorf("%s: the request cannot be read: %w", r.URL.Path[1:], err))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		a, err := f(ctx, q)
		if err != nil {
			s.cfg.Log.Warn("refused", "call", r.URL.Path[1:], "error", err)
			// Docker takes a refusal out of an answer of any status, and shows it with
			// the fewest words around it when that is this one.
			s.refuse(w, http.StatusOK, advise(err))
			return
		}
		s.cfg.Log.Debug("answered", "call", r.URL.Path[1:])
		s.answer(w, http.StatusOK, a)
	}
}

// decode reads one JSON object and nothing behind it. Nothing at all is an empty object;
// fields that are not known are a newer Docker's.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
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

// retryEvery is how often a daemon that does not answer is asked again.
const retryEvery = 200 * time.Millisecond

// patiently asks the daemon by f, which may be done twice, and asks again for s.patience
// while none answers or one is just stopping. Calls that undo something do not wait: what
// they cannot do is done later.
func patiently[A any](ctx context.Context, s *Server, f func(context.Context) (A, error)) (A, error) {
	for end := time.Now().Add(s.patience); ; {
		a, err := f(ctx)
		if !errors.Is(err, api.ErrUnreachable) && !api.IsCode(err, api.CodeStopping) || time.Now().After(end) {
			return a, err
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return a, err
		}
	}
}

// advise adds what helps.
func advise(err error) error {
	if errors.Is(err, api.ErrUnreachable) {
		return fmt.Errorf("%w: start one by `ripstop up`, or say by `ripstop docker --socket` where it listens", err)
	}
	return err
}

// refusal is the answer to what cannot be done. Docker looks into Err for the network
// driver's, and into Error for the IPAM driver's.
type refusal struct{ Err, Error string }

func (s *Server) refuse(w http.ResponseWriter, status int, err error) {
	s.answer(w, status, refusal{err.Error(), err.Error()})
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.cfg.Log.Error("answer cannot be written as JSON", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// activate says which drivers this is.
func (s *Server) activate(context.Context, nothing) (implements, error) {
	return implements{[]string{"NetworkDriver", "IpamDriver"}}, nil
}
