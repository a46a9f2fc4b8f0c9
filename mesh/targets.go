package mesh

import (
	"bufio"
	"context"
	"fmt"
	"io"
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

// loadTargets finds the targets of this start: the operator's, which are those given,
// else the stored ones; and beside them those of the peers file.
func loadTargets(s *store.Store, cfg *Config) (targets, filePeers []string, err error) {
	if len(cfg.Peers) > 0 {
		targets = slices.Clone(cfg.Peers)
	} else if targets, err = store.Load[[]string](s, store.Targets); err != nil {
		return nil, nil, err
	}
	if cfg.PeersFile != "" {
		if filePeers, err = readPeersFile(cfg.PeersFile); err != nil {
			return nil, nil, err
		}
	}
	return targets, filePeers, nil
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

// setTargets changes the operator's dial list and keeps it. n.mu must be held.
func (n *node) setTargets(targets []string) error {
	if err := store.Save(n.store, store.Targets, targets); err != nil {
		return err
	}
	n.targets = targets
	n.dialTargets()
	return nil
}

// dialTargets has every target dialled, the operator's and the peers file's. n.mu
// must be held.
func (n *node) dialTargets() {
	n.control.SetTargets(union(slices.Clone(n.targets), n.filePeers))
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
		peers, err := readPeersFile(n.cfg.PeersFile)
		if err != nil {
			n.log.Error("peers file not read again; the targets stay as they are", "error", err)
			continue
		}
		n.mu.Lock()
		n.filePeers = peers
		n.dialTargets()
		n.mu.Unlock()
		n.log.Info("peers file read again", "targets", len(peers))
	}
}
