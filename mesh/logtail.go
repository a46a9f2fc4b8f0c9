package mesh

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// Bounds of a LogTail.
const (
	tailLines = 200
	tailLine  = 1024 // bytes of one line
)

// LogTail keeps the last lines of a log, for reports: whoever writes one may not have the
// log, or not find in it what was said just before. The zero value is empty.
type LogTail struct {
	mu    sync.Mutex
	lines []string // at most tailLines; guarded by mu, as is lost
	lost  int
}

// Write takes whole lines, as a slog.Handler writes them. It never fails.
func (t *LogTail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range bytes.Lines(b) {
		if len(t.lines) == tailLines {
			t.lines = slices.Delete(t.lines, 0, 1)
			t.lost++
		}
		line = bytes.TrimSuffix(line, []byte{'\n'})
		text := string(line[:min(len(line), tailLine)])
		if len(line) > tailLine {
			text += "…"
		}
		t.lines = append(t.lines, strings.ToValidUTF8(text, "?"))
	}
	return len(b), nil
}

// Lines are the lines that are kept, oldest first, and how many before them are not.
func (t *LogTail) Lines() (lines []string, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines), t.lost
}
