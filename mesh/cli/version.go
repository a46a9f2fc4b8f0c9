package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// versionAnswer is what --json prints.
type versionAnswer struct {
	versioned
	Software string `json:"software"`
	Commit   string `json:"commit,omitempty"`
	Changed  bool   `json:"changed,omitempty"` // built with changes that are in no commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand() command {
	return command{
		name: "version", short: "say which version this is", text: `
Says which version this is, and of what it was built.

Example:
  ripstop version`,
		setup: func(*pflag.FlagSet) action {
			return func(_ context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				v := versionOf()
				if in.json {
					return printJSON(in.Out, v)
				}
				commit := ""
				if v.Commit != "" {
					commit = " commit " + v.Commit[:min(12, len(v.Commit))]
					if v.Changed {
						commit += " with changes"
					}
				}
				_, err := fmt.Fprintf(in.Out, "ripstop %s%s %s %s\n", v.Software, commit, v.Go, v.Platform)
				return err
			}
		},
	}
}

func versionOf() versionAnswer {
	v := versionAnswer{versioned: head(), Software: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Software = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Changed = s.Value == "true"
		}
	}
	return v
}

// maxSoftware bounds what peers are told, bytes.
const maxSoftware = 32

// software is the version that peers are told.
func software() string {
	s := versionOf().Software
	return s[:min(len(s), maxSoftware)]
}
