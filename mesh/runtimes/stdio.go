package runtimes

import (
	"encoding/json"
	"io"
)

// Stdio is what a program has around it.
type Stdio struct {
	In        io.Reader
	Out, Err  io.Writer
	LookupEnv func(name string) (value string, set bool)
}

// PrintJSON writes one object.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
