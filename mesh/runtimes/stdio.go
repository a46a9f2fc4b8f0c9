package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Stdio is what a program has around it.
type Stdio struct {
	In        io.Reader
	Out, Err  io.Writer
	LookupEnv func(name string) (value string, set bool)
}

// ErrTooLong says that a runtime wrote more than is read.
var ErrTooLong = errors.New("the call is too long")

// ReadAll is what stands on stdin, at most limit bytes. It ends with ctx, too: a caller may
// hang and keep its end open, and then neither patience nor a signal would end the call.
// What has not been read by then is lost.
func (s Stdio) ReadAll(ctx context.Context, limit int) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result, 1)
	go func() {
		b, err := io.ReadAll(io.LimitReader(s.In, int64(limit)+1))
		read <- result{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("the call did not come to an end on stdin: %w", ctx.Err())
	case r := <-read:
		if r.err != nil {
			return nil, fmt.Errorf("the call cannot be read: %w", r.err)
		}
		if len(r.b) > limit {
			return nil, fmt.Errorf("%w: it has more than %d bytes", ErrTooLong, limit)
		}
		return r.b, nil
	}
}

// PrintJSON writes one object.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
