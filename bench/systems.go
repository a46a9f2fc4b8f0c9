package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"ripstop/integration/lab"
)

// system is one of the compared: how it is called and how it is laid out.
type system struct {
	name    string
	title   string   // for people
	layer   string   // 2 or 3; empty = the underlay
	cipher  string   // empty = none
	needs   []need   // programs that have to be installed
	version []string // command that tells its version; empty = known otherwise
	relays  int      // hosts between the ends
	program string   // ripstop's program, where it is not the one built here

	// lay makes the system on a rig whose hosts and links are there.
	lay func(ctx context.Context, r *rig) error
}

// need is a program and the Debian package that has it.
type need struct{ program, debian string }

// Programs that every run uses.
var (
	needIP      = need{"ip", "iproute2"}
	needIperf   = need{"iperf3", "iperf3"}
	needEthtool = need{"ethtool", "ethtool"}
)

// The names of systems that ratios are made of.
const (
	bare          = "bare"
	vxlan         = "vxlan"
	ripstop       = "ripstop"
	ripstopNone   = "ripstop-none"
	ripstopRelay1 = "ripstop-relay1"
	ripstopRelay2 = "ripstop-relay2"
	wireguardGo   = "wireguard-go"
	nebula        = "nebula"
	tinc          = "tinc"
	openvpn       = "openvpn"
)

// allSystems are all systems there are, in the order of the tables.
func allSystems(v variants) []*system {
	all := []*system{bareSystem(), vxlanSystem()}
	all = append(all, ripstopSystems(v)...)
	return append(all, wireguardSystem(), nebulaSystem(), openvpnSystem(), tincSystem())
}

func systemNames(v variants) []string {
	var names []string
	for _, s := range allSystems(v) {
		names = append(names, s.name)
	}
	return names
}

// missing is a system that can't be measured here, and what to do about it.
type missing struct {
	System  string `json:"system"`
	Program string `json:"program"`
	Get     string `json:"get"`
}

func (m missing) String() string {
	return fmt.Sprintf("%s is not measured: %s is not installed: %s", m.System, m.Program, m.Get)
}

// choose returns the systems to measure, and those that would be if their programs
// were installed. A system asked for by name is an error when it can't be measured.
func choose(opt *options, installed func(program string) bool) ([]*system, []missing, error) {
	common := []need{needIP}
	if slices.Contains(opt.Only, groupTCP) || slices.Contains(opt.Only, groupLatency) {
		common = append(common, needIperf)
	}
	if !opt.Segmentation {
		common = append(common, needEthtool)
	}
	for _, n := range common {
		if !installed(n.program) {
			return nil, nil, fmt.Errorf("%s is not installed: apt-get install %s", n.program, n.debian)
		}
	}
	var chosen []*system
	var lacking []missing
	for _, s := range allSystems(opt.Variants) {
		named := slices.Contains(opt.Systems, s.name)
		if len(opt.Systems) > 0 && !named {
			continue
		}
		available := true
		for _, n := range s.needs {
			if installed(n.program) {
				continue
			}
			m := missing{System: s.name, Program: n.program, Get: "apt-get install " + n.debian}
			if named {
				return nil, nil, fmt.Errorf("%s", m)
			}
			if available {
				lacking = append(lacking, m)
			}
			available = false
		}
		if available {
			chosen = append(chosen, s)
		}
	}
	return chosen, lacking, nil
}

// onPath reports whether a program is installed.
func onPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// versionOf is the first line a program says of its version.
func versionOf(ctx context.Context, command []string) string {
	if len(command) == 0 {
		return ""
	}
	out, _ := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput() // some exit with 1 after it
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSpace(line)
}

// bareSystem is the underlay itself, from host to host.
func bareSystem() *system {
	return &system{
		name: bare, title: "bare underlay, no containers",
		lay: func(_ context.Context, r *rig) error {
			a, b := r.lab.Host(hostA), r.lab.Host(hostB)
			r.from, r.to = a.Place, b.Place
			r.addr, _ = a.Addr(b)
			return nil
		},
	}
}

// vxlanSystem is the kernel's own overlay, with a bridge in each host.
func vxlanSystem() *system {
	const overhead = 50 // IPv4 20, UDP 8, VXLAN 8, Ethernet 14
	return &system{
		name: vxlan, title: "kernel VXLAN + bridge", layer: "2",
		lay: func(ctx context.Context, r *rig) error {
			a, b := r.lab.Host(hostA), r.lab.Host(hostB)
			for _, end := range [][2]*lab.Host{{a, b}, {b, a}} {
				here, _ := end[0].Addr(end[0])
				there, _ := end[0].Addr(end[1])
				err := ip(ctx, end[0].Place, "link add vx0 type vxlan id 7 local %s remote %s dev %s dstport 4789", here, there, underlay)
				if err != nil {
					return err
				}
			}
			return r.bridged(ctx, "vx0", r.opt.MTU-overhead)
		},
	}
}
