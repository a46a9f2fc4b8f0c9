package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Backend is the daemon behind the server. Methods may be called at once from
// several goroutines; ctx ends when the caller hangs up or the request's time is over.
// A refusal the caller can do something about is an *Error.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	// Topology tells who links with whom, as all hosts' records have it.
	Topology(ctx context.Context) (Topology, error)
	// Explain says how a frame gets from here to a place on the network, or why it does not.
	Explain(ctx context.Context, r ExplainRequest) (Explanation, error)
	// Ping asks another host for one answer, and waits for it. That none comes is no error.
	Ping(ctx context.Context, r PingRequest) (Pong, error)
	// Internals tells what a report of a fault has beside the status; no secrets.
	Internals(ctx context.Context, r InternalsRequest) (Internals, error)
	Connect(ctx context.Context, r ConnectRequest) error
	Forget(ctx context.Context, r ForgetRequest) error
	// Reserve holds name, MAC and addresses for 30 s. Asked for what stands
	// already, it answers with that and Existing set.
	Reserve(ctx context.Context, r AttachRequest) (AttachPlan, error)
	// Commit puts the host end, which the caller has made, on the bridge and
	// tells the network.
	Commit(ctx context.Context, r CommitRequest) (Endpoint, error)
	// Cancel gives a reservation back. One that is gone is no error.
	Cancel(ctx context.Context, r CommitRequest) error
	// Detach takes the endpoint off the network and says what the caller may remove.
	Detach(ctx context.Context, r DetachRequest) (AttachPlan, error)
	Expose(ctx context.Context, r ExposeRequest) (Endpoint, error)
	Hide(ctx context.Context) error
	Names(ctx context.Context) (Names, error)
	AddName(ctx context.Context, r NameRequest) error
	// RemoveName takes back what AddName gave; without addresses all of it.
	RemoveName(ctx context.Context, r NameRequest) error
	Lookup(ctx context.Context, r LookupRequest) (LookupAnswer, error)
	// Stop begins the end of the daemon; it returns before that is done.
	Stop(ctx context.Context) error
	// Reset removes bridge, attachments, rules and state, then ends the daemon.
	Reset(ctx context.Context) error
	AddressBackend
}

// Code says what kind of refusal an Error is.
type Code string

// The codes and the HTTP status each travels with.
const (
	CodeInvalid     Code = "invalid"     // 400: the request makes no sense
	CodeNotFound    Code = "not_found"   // 404: no such attachment, target, reservation
	CodeConflict    Code = "conflict"    // 409: somebody has that name, MAC, address or interface
	CodeUnsupported Code = "unsupported" // 501: not in this mode, or not in this version
	CodeUnavailable Code = "unavailable" // 503: not now: what is needed was not there in time
	CodeStopping    Code = "stopping"    // 503: the daemon is on its way down
	CodeInternal    Code = "internal"    // 500: anything else
)

// Error is a refusal with a sentence for people.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Errorf makes an *Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error is the sentence.
func (e *Error) Error() string { return e.Message }

// IsCode reports whether err is an *Error with that code.
func IsCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

func (c Code) httpStatus() int {
	switch c {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeUnsupported:
		return http.StatusNotImplemented
	case CodeStopping, CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// failure is the body of a refusal.
type failure struct {
	Version int    `json:"version"`
	Error   *Error `json:"error"`
}

// done is the body of an answer that says no more than that it is done.
type done struct {
	Version int `json:"version"`
}
