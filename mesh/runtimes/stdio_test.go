package runtimes

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestReadAll: all of a call is read, too much of it is not, and a caller that never ends
// it is waited for as long as the context lasts.
func TestReadAll(t *testing.T) {
	silent, end := io.Pipe()
	defer end.Close()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		ctx  context.Context
		in   io.Reader
		want error
	}{
		{"a call", t.Context(), strings.NewReader("1234"), nil},
		{"a long one", t.Context(), strings.NewReader("12345"), ErrTooLong},
		{"a broken one", t.Context(), iotest.ErrReader(broken), broken},
		{"one without an end", over, silent, context.Canceled},
	} {
		b, err := Stdio{In: c.in}.ReadAll(c.ctx, 4)
		if !errors.Is(err, c.want) || (err == nil) != (string(b) == "1234") {
			t.Errorf("%s: %q, %v", c.name, b, err)
		}
	}
}
