// Package cli is the command line: commands, flags, texts for people, exit codes.
//
//	ripstop [--socket PATH] [--json] COMMAND [flags] [arguments]
//	                                    │
//	     up ────────────────────────────┤──► mesh.Run, in the foreground
//	     attach, detach ────────────────┤──► api.Client and, in this process, tun/attach
//	     stop, connect, status, … ──────┤──► api.Client ──► the daemon's socket
//	     doctor, report ────────────────┤──► api.Client where a daemon answers, and this host
//	     web ───────────────────────────┤──► api/page, which asks an api.Client while somebody looks
//	     secret, completion, demo, … ───┘    no daemon needed
//
//	ripstop-cni, …/netavark/ripstop ──────► runtimes/…: the same program by another name
//
// What scripts hold on to: data goes to stdout, everything else to stderr; --json
// prints one object with "version": 1; the exit code is one of the constants here;
// misuse is two lines on stderr. A flag beats its RIPSTOP_ variable, that beats what
// is stored, that beats the default.
//
// Read cli.go and command.go first; each command has its file.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
	"ripstop/mesh/runtimes/cni"
	"ripstop/mesh/runtimes/netavark"
)

// The exit codes.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitMisuse      = 2 // what can be seen from the command line alone
	ExitUnreachable = 3 // no daemon answers
	ExitUnwell      = 4 // doctor: something failed
	ExitClone       = 6 // another running host has this host's identity
)

// Stdio is what a program has around it.
type Stdio struct {
	In        io.Reader
	Out, Err  io.Writer
	LookupEnv func(name string) (value string, set bool)
}

// DefaultSocket and DefaultState are where a daemon keeps its socket and its state.
const (
	DefaultSocket = api.DefaultSocket
	DefaultState  = "/var/lib/ripstop"
)

// Main runs the program with args, of which the first is the name it was called by, and
// returns the exit code. When ctx ends the command ends.
func Main(ctx context.Context, args []string, stdio Stdio) int {
	switch {
	case filepath.Base(args[0]) == cni.Program:
		return cni.Main(ctx, runtimes.Stdio(stdio))
	case netavark.Called(args[0]):
		return netavark.Main(ctx, args[1:], runtimes.Stdio(stdio), software())
	}
	err := dispatch(ctx, args[1:], stdio)
	if err == nil {
		return ExitOK
	}
	var e *exitError
	if !errors.As(err, &e) {
		e = classify(err)
	}
	if e.err != nil {
		fmt.Fprintf(stdio.Err, "ripstop: %s\n", strings.TrimSuffix(e.err.Error(), "\n"))
	}
	if e.hint != "" {
		fmt.Fprintln(stdio.Err, e.hint)
	}
	return e.code
}

// exitError is an error with an exit code and, for people, what to do next.
type exitError struct {
	code int
	err  error  // nil: everything was said already
	hint string // a line of its own; may be empty
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

// misuse is an error that can be seen from the command line alone.
func misuse(format string, args ...any) error {
	return &exitError{code: ExitMisuse, err: fmt.Errorf(format, args...)}
}

// classify finds the exit code of an error that came from below.
func classify(err error) *exitError {
	var end *mesh.ExitError
	switch {
	case errors.As(err, &end):
		return &exitError{code: end.Code, err: end.Err}
	case errors.Is(err, api.ErrUnreachable):
		return &exitError{code: ExitUnreachable, err: err}
	}
	return &exitError{code: ExitFailed, err: err}
}

// printJSON writes one object. Its type has a "version" or embeds versioned.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// versioned is what --json prints of a command that has no more to say than that it
// is done, and the head of those that have.
type versioned struct {
	Version int `json:"version"`
}

func head() versioned { return versioned{Version: api.Version} }
