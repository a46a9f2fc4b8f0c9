package mesh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"ripstop/mesh/store"
	"ripstop/transport"
)

const (
	maxTargets   = 1024
	maxPeersFile = 1 << 20 // bytes
)

// loadTargets are the targets of this start: those given, which replace the
// stored ones, else the stored ones; and those of the peers file.
func (n *node) loadTargets() ([]string, error) {
	var targets []string
	if len(n.cfg.Peers) > 0 {
		targets = slices.Clone(n.cfg.Peers)
		if err := store.Save(n.store, fileTargets, targets); err != nil {
			return nil, err
		}
	} else {
		stored, err := store.Load[[]string](n.store, fileTargets)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		targets = stored
	}
	if n.cfg.PeersFile != "" {
		more, err := readPeersFile(n.cfg.PeersFile)
		if err != nil {
			return nil, err
		}
		targets = union(targets, more)
	}
	return targets, nil
}

// union is a and what of b is not in it.
func union(a, b []string) []string {
	for _, t := range b {
		if !slices.Contains(a, t) {
			a = append(a, t)
		}
	}
	return a
}

// readPeersFile reads targets, one a line.
func readPeersFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("peers file: %w: check --peers-file", err)
	}
	defer f.Close()
	var targets []string
	lines := bufio.NewScanner(io.LimitReader(f, maxPeersFile))
	for number := 1; lines.Scan(); number++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if _, err := transport.ParseTarget(line); err != nil {
			return nil, fmt.Errorf("peers file %s: line %d: %w", path, number, err)
		}
		if targets = append(targets, line); len(targets) > maxTargets {
			return nil, fmt.Errorf("peers file %s: more than %d peers", path, maxTargets)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("peers file %s: %w", path, err)
	}
	return targets, nil
}

// setTargets changes the dial list and keeps it. n.mu must be held.
func (n *node) setTargets(targets []string) error {
	if err := store.Save(n.store, fileTargets, targets); err != nil {
		return err
	}
	n.targets = targets
	n.control.SetTargets(targets)
	return nil
}

// reload reads the peers file again whenever the operator asks for it.
func (n *node) reload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.cfg.Reload:
		}
		if n.cfg.PeersFile == "" {
			n.log.Info("nothing to read again: there is no --peers-file")
			continue
		}
		more, err := readPeersFile(n.cfg.PeersFile)
		if err != nil {
			n.log.Error("peers file not read again; the targets stay as they are", "error", err)
			continue
		}
		n.mu.Lock()
		err = n.setTargets(union(slices.Clone(n.cfg.Peers), more))
		n.mu.Unlock()
		if err != nil {
			n.log.Error("targets cannot be saved", "error", err)
			continue
		}
		n.log.Info("peers file read again", "targets", len(more))
	}
}
