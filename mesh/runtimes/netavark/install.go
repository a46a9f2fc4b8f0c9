package netavark

import (
	"fmt"
	"path/filepath"
	"slices"
)

// DefaultDir is one of those where Podman looks for plug-ins.
const DefaultDir = "/usr/local/lib/netavark"

// searched are all of them, unless its configuration has others.
var searched = []string{"/usr/local/libexec/netavark", "/usr/libexec/netavark", DefaultDir, "/usr/lib/netavark"}

// Link is the path of the plug-in in a directory of plug-ins.
func Link(dir string) string { return filepath.Join(dir, Program) }

// Setting is what Podman's configuration, containers.conf, has to say for it to look into
// a directory; empty where it does by itself.
func Setting(dir string) string {
	whole, err := filepath.Abs(dir)
	if err != nil || slices.Contains(searched, whole) {
		return ""
	}
	return fmt.Sprintf("[network]\nnetavark_plugin_dirs = [%q]\n", whole)
}
