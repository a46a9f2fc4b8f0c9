package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes what a run was made on.
type machine struct {
	CPU      string            `json:"cpu"`
	CPUs     int               `json:"cpus"`
	MemoryGB float64           `json:"memory_gib"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	Load     string            `json:"load_average"` // of 1, 5 and 15 minutes, when the run began
	Root     bool              `json:"root"`         // of the machine: an ordinary user's sockets have smaller buffers
	Sysctls  map[string]string `json:"sysctls"`
	Versions map[string]string `json:"versions"` // by system, and iperf3
}

// sysctls are the settings that figures depend on.
var sysctls = [...]string{
	"net.core.rmem_max", "net.core.wmem_max", "net.core.rmem_default", "net.core.wmem_default",
	"net.core.netdev_max_backlog", "net.core.netdev_budget", "net.core.default_qdisc", "net.core.busy_poll",
	"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// describe describes this machine, as seen from the namespace it runs in.
func describe(ctx context.Context, systems []*system, wireguard string) machine {
	m := machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Root: os.Geteuid() == 0, Sysctls: make(map[string]string), Versions: make(map[string]string)}
	m.CPU = cpuModel(readText("/proc/cpuinfo"))
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryGB = float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
	}
	if fields := strings.Fields(readText("/proc/loadavg")); len(fields) > 3 {
		m.Load = strings.Join(fields[:3], " ")
	}
	for _, s := range sysctls {
		if value := readText("/proc/sys/" + strings.ReplaceAll(s, ".", "/")); value != "" {
			m.Sysctls[s] = strings.Join(strings.Fields(value), " ")
		}
	}
	m.Versions[needIperf.program] = versionOf(ctx, []string{needIperf.program, "--version"})
	for _, s := range systems {
		if v := versionOf(ctx, s.version); v != "" {
			m.Versions[s.name] = v
		}
		if s.name == wireguardGo {
			m.Versions[s.name] = wireguard
		}
	}
	return m
}

func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "" // not every kernel has everything
	}
	return strings.TrimSpace(string(b))
}

// cpuModel finds the processors' name in /proc/cpuinfo.
func cpuModel(cpuinfo string) string {
	for _, key := range []string{"model name", "Model", "cpu model", "Hardware"} {
		for line := range strings.Lines(cpuinfo) {
			name, value, ok := strings.Cut(line, ":")
			if ok && strings.TrimSpace(name) == key {
				return strings.Join(strings.Fields(value), " ")
			}
		}
	}
	return "unknown processor, " + runtime.GOARCH
}

// line is the machine on one line.
func (m machine) line() string {
	return fmt.Sprintf("%d × %s, %.0f GiB, %s, %s", m.CPUs, m.CPU, m.MemoryGB, m.Kernel, m.Go)
}
