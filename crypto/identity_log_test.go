package crypto

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestNameInLogs: a name looks the same in a log as in status, in either format.
func TestNameInLogs(t *testing.T) {
	name := Name{1, 2, 3, 4, 5, 6, 7}
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		out.Reset()
		slog.New(handler).Info("x", "peer", name)
		if got := out.String(); !strings.Contains(got, name.String()) {
			t.Errorf("%s does not hold %v", got, name)
		}
	}
}
