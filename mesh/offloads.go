package mesh

import (
	"slices"

	"ripstop/mesh/api"
)

// Offloads are the names that NoOffload takes: unfinished checksums, TCP, UDP and
// tunnelled super-frames of the device, the last resting on the others; trains sent and
// received by the socket.
var Offloads = []string{"checksum", "tso", "uso", "tunnel", "gso", "gro"}

// offload reports whether the offload called name is to be used where there is one.
func (c *Config) offload(name string) bool {
	return !slices.Contains(c.NoOffload, name) && !slices.Contains(c.NoOffload, "all")
}

// statusOffloads are the offloads in use, and why the others are not. n.mu need not be held.
func (n *node) statusOffloads() []api.Offload {
	device, socket := n.device.Capabilities(), n.socket.Stats()
	used := map[string]bool{
		"checksum": device.Checksum, "tso": device.TCP, "uso": device.UDP, "tunnel": device.Tunnel,
		"gso": socket.Segmentation, "gro": socket.Gathering,
	}
	var all []api.Offload
	for _, name := range Offloads {
		ofSocket := name == "gso" || name == "gro"
		o := api.Offload{Name: name, Used: used[name]}
		switch {
		case o.Used:
		case !n.cfg.offload(name), !ofSocket && !n.cfg.offload("checksum"):
			o.Why = "switched off"
		case !ofSocket && n.cfg.Mode == modeRouted:
			o.Why = "none in routed mode"
		case name == "tunnel" && !(device.TCP && device.UDP):
			o.Why = "without tso and uso"
		default:
			o.Why = "this kernel has none"
		}
		all = append(all, o)
	}
	return all
}
