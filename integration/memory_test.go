package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
)

// processContains reports whether a process has the marker anywhere in memory
// that it can write to.
func processContains(pid int, marker []byte) (bool, error) {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false, err
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return false, err
	}
	defer mem.Close()
	const chunk = 1 << 20
	buf := make([]byte, chunk+len(marker))
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return false, err
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		for at := from; at < to; at += chunk {
			n, _ := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at)) // what cannot be read holds nothing
			if bytes.Contains(buf[:n], marker) {
				return true, nil
			}
		}
	}
	return false, lines.Err()
}
