package mesh

import (
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// TestSettingsHaveNoSecret: whatever is in the configuration, the secret is not told.
func TestSettingsHaveNoSecret(t *testing.T) {
	c := Config{Secret: "rs1-secret", Bridge: "rs"}
	got := c.settings()
	for name, value := range got {
		if strings.Contains(value, "secret") {
			t.Errorf("%s is %s", name, value)
		}
	}
	if got["bridge"] != "rs" || got["no-dns"] != "false" {
		t.Errorf("%v", got)
	}
}

// TestStacksHaveNoArguments: arguments may be keys.
func TestStacksHaveNoArguments(t *testing.T) {
	text := stacks()
	if !strings.Contains(text, "TestStacksHaveNoArguments") || strings.Contains(text, "TestStacksHaveNoArguments(0x") || len(text) > maxStacks+8 {
		t.Errorf("%s", text)
	}
}

func TestLogTail(t *testing.T) {
	var tail LogTail
	if lines, lost := tail.Lines(); len(lines) != 0 || lost != 0 {
		t.Errorf("%v, %d lost", lines, lost)
	}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(&tail, io.Discard), nil))
	log.Info("one\ntwo", "long", strings.Repeat("x", 2*tailLine))
	fmt.Fprint(&tail, "a\nb\xff\n")
	lines, lost := tail.Lines()
	if len(lines) != 3 || lost != 0 || !strings.Contains(lines[0], `msg="one\ntwo" long=xxx`) || len(lines[0]) != tailLine+len("…") || !reflect.DeepEqual(lines[1:], []string{"a", "b?"}) {
		t.Errorf("%q, %d lost", lines, lost)
	}
	for i := range 2 * tailLines {
		fmt.Fprintln(&tail, i)
	}
	lines, lost = tail.Lines()
	if len(lines) != tailLines || lost != 3+tailLines || lines[0] != fmt.Sprint(tailLines) || lines[tailLines-1] != fmt.Sprint(2*tailLines-1) {
		t.Errorf("%d lines from %q to %q, %d lost", len(lines), lines[0], lines[len(lines)-1], lost)
	}
}
