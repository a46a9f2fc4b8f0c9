package netavark

import (
	"fmt"
	"path/filepath"
	"slices"
)

// DefaultDir is one of those where Podman looks for plug-ins.
const DefaultDir = "/usr/local/lib/" + dirName

// searched are all of them, unless its configuration has others.
var searched = []string{"/usr/local/libexec/netavark", "/usr/libexec/netavark", DefaultDir, "/usr/lib/netavark"}

// Link is the whole path of the plug-in in a directory of plug-ins.
func Link(dir string) (string, error) {
	whole, err := filepath.Abs(dir)
	if err == nil && !inPlace(whole) {
		err = fmt.Errorf("%.200q: ripstop knows by the directory that it is Podman's plug-in: its name has to be %s, as in /opt/%s", dir, dirName, dirName)
	}
	return filepath.Join(whole, Driver), err
}

// Setting is what Podman's configuration, containers.conf, has to say for it to look into
// a directory, whose path is whole; empty where it does by itself.
func Setting(dir string) string {
	if slices.Contains(searched, dir) {
		return ""
	}
	return fmt.Sprintf("[network]\nnetavark_plugin_dirs = [%q]\n", dir)
}
