package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs are the paths of what is built for a run.
type programs struct{ ripstop, wireguard string }

// programsIn are the programs in a directory.
func programsIn(dir string) programs {
	return programs{ripstop: filepath.Join(dir, "ripstop"), wireguard: filepath.Join(dir, "wireguard-go")}
}

// build builds ripstop and, if it is to be measured, wireguard-go into dir, alike. It
// works in the source tree only, whose go.mod says which wireguard-go.
func build(ctx context.Context, dir string, wireguard bool) error {
	p := programsIn(dir)
	targets := [][2]string{{p.ripstop, "ripstop"}}
	if wireguard {
		targets = append(targets, [2]string{p.wireguard, wireguardModule})
	}
	for _, t := range targets {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", t[0], t[1])
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("build %s (run this inside the source tree): %w: %s", t[1], err, lastLines(string(out), 5))
		}
	}
	return nil
}

// wireguardVersion is the version of wireguard-go that was built.
func wireguardVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", wireguardModule).Output()
	if err == nil && len(out) == 0 {
		err = errors.New("no version")
	}
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", wireguardModule, err)
	}
	return strings.TrimSpace(string(out)), nil
}
