package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/mesh/api"
)

// patient is a daemon in memory, and what its status is a second later.
type patient struct {
	status, later api.Status
	names         api.Names
	asked         int
	err           error
}

func (p *patient) Status(context.Context) (api.Status, error) {
	if p.asked++; p.asked > 1 {
		return p.later, p.err
	}
	return p.status, p.err
}

func (p *patient) Names(context.Context) (api.Names, error) { return p.names, p.err }

// well is a host b with a link to a, on which nothing is the matter.
func well() api.Status {
	a, b := "02:00:00:00:00:0a", "02:00:00:00:00:0b"
	return api.Status{
		Version: 1, Software: software(), Name: b, Nickname: "b", Mode: "bridge", Bridge: "ripstop", Device: "ripstop0", Port: 6783, UptimeSec: 60,
		StateDir: "/state", SecretFile: "/secret",
		Offloads:  []api.Offload{{Name: "tso", Used: true}},
		Peers:     []api.Peer{{Name: a, Nickname: "a", Software: software(), Alive: true, Reachable: true, Addresses: []string{"198.18.1.1:6783"}}},
		Links:     []api.Link{{Peer: a, Nickname: "a", State: api.LinkUp, Path: "udp", MTU: 1472}},
		Targets:   []api.Target{{Target: "vm1", State: api.TargetUp, Peer: a}, {Target: "vm2", State: api.TargetSelf}},
		Endpoints: []api.Endpoint{{Name: "web", State: api.EndpointHere, Host: b}},
		IPAM:      &api.IPAM{Map: "1a2b3c4d", Range: netip.MustParsePrefix("10.32.0.0/24"), Used: 1, Hosts: []api.IPAMHost{{Host: a, Addresses: 128, Free: 128, Reachable: true}, {Host: b, Addresses: 128, Free: 127, Reachable: true}}},
		Counters:  map[string]uint64{"frames_in": 10, "drop_no_other_host": 2},
	}
}

// wellNames are the names of such a host.
func wellNames() api.Names {
	at := netip.MustParseAddr("169.254.83.53")
	return api.Names{Domain: "ripstop.internal", Address: &at, Upstreams: []api.Upstream{{Address: netip.MustParseAddr("192.0.2.53")}}}
}

// all are all capabilities of root.
var all = capabilities{effective: 1<<41 - 1, whole: true}

// wellHost is a kernel and a file system on which nothing is the matter.
func wellHost(files fstest.MapFS) host {
	return host{
		release:     func() (string, error) { return "6.18.2-1-amd64", nil },
		capable:     func() (capabilities, error) { return all, nil },
		tunLoaded:   func() (bool, error) { return true, nil },
		open:        func(string) error { return nil },
		stat:        func(path string) (fs.FileInfo, error) { return files.Stat(strings.TrimPrefix(path, "/")) },
		space:       func(string) (space, error) { return space{bytes: 1 << 40, inodes: 1 << 20, limited: true}, nil },
		sysctl:      func(string) (string, error) { return "8388608", nil },
		storedRange: func(string) (netip.Prefix, bool, error) { return netip.MustParsePrefix("10.32.0.0/12"), false, nil },
		forwarding:  func(string) (string, bool) { return "", false },
		routing:     func(string) (string, bool) { return "", false },
		overlap:     func(netip.Prefix, ...string) (string, error) { return "", nil },
		holders:     func(context.Context, uint16) ([]holder, error) { return nil, nil },
		has:         func(netip.Addr) (bool, error) { return true, nil },
		resolve:     func(context.Context, netip.Addr, string) error { return nil },
		resolved:    func(context.Context, string, string) (bool, bool, error) { return true, true, nil },
	}
}

// wellFiles are a state directory and a secret as they should be.
func wellFiles() fstest.MapFS {
	return fstest.MapFS{
		"dev/net/tun":   {Mode: fs.ModeDevice | 0o666},
		"state":         {Mode: fs.ModeDir | 0o700},
		"state/seed":    {Mode: 0o600},
		"state/network": {Mode: 0o600},
		"secret":        {Mode: 0o400},
	}
}

// sick is an examination that a test makes something wrong in.
type sick struct {
	*examination
	status, later *api.Status
	names         *api.Names
	files         fstest.MapFS
	refusal       *error
}

// examine looks at a host and a daemon that are well but for what change does.
func examine(change func(s *sick)) []finding {
	p, files := &patient{status: well(), later: well(), names: wellNames()}, wellFiles()
	x := &examination{host: wellHost(files), client: p, socket: "/run/sock", now: time.Now(),
		surroundings: surroundings{state: "/state", bridge: "ripstop", device: "ripstop0", port: 6783}}
	change(&sick{x, &p.status, &p.later, &p.names, files, &p.err})
	return x.run(context.Background())
}

// noDaemon makes that none answers.
func noDaemon(s *sick) { *s.refusal = fmt.Errorf("api: %w (%w)", api.ErrUnreachable, fs.ErrNotExist) }

// ordinary makes the user one without rights.
func ordinary(s *sick) {
	s.host.user = 1000
	s.host.capable = func() (capabilities, error) { return capabilities{whole: true}, nil }
}

// gateway makes the host one, which a container uses.
func gateway(s *sick) {
	own := netip.MustParsePrefix("10.32.0.9/12")
	s.status.Addresses, s.status.Masquerade = []netip.Prefix{own}, true
	s.status.Endpoints = append(s.status.Endpoints, api.Endpoint{Name: "build", State: api.EndpointHere, Gateway: own.Addr(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.10/12")}})
}

// missing makes that what lies at and below a path is not there, or may not be seen.
func missing(path string, err error) func(string) (fs.FileInfo, error) {
	files := wellFiles()
	return func(p string) (fs.FileInfo, error) {
		if strings.HasPrefix(p, path) {
			return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
		}
		return files.Stat(strings.TrimPrefix(p, "/"))
	}
}

// TestChecks: what each check says of a host that is well, and of what may be wrong.
func TestChecks(t *testing.T) {
	const none = "" // no remedy
	for _, c := range []struct {
		check   string
		change  func(s *sick)
		verdict verdict
		found   string
		remedy  string
	}{
		{"kernel", func(*sick) {}, verdictOK, "has all that is used", none},
		{"kernel", func(s *sick) { s.host.release = func() (string, error) { return "5.10.0-28-amd64", nil } }, verdictOK, "5.10.0-28-amd64, without: UDP super-frames of containers (from 6.2 on), super-frames of tunnels", none},
		{"kernel", func(s *sick) { s.host.release = func() (string, error) { return "4.15.0", nil } }, verdictWarn, "sends trains of datagrams (from 4.18 on), receives trains", "a newer kernel"},
		{"kernel", func(s *sick) { s.host.release = func() (string, error) { return "unknown", nil } }, verdictSkipped, "unknown", "ripstop status"},

		{"tun", func(*sick) {}, verdictOK, "may be opened", none},
		{"tun", func(s *sick) { delete(s.files, "dev/net/tun") }, verdictFail, "not there", "modprobe tun"},
		{"tun", func(s *sick) { s.host.tunLoaded = func() (bool, error) { return false, nil } }, verdictWarn, "not loaded", "modprobe tun"},
		{"tun", func(s *sick) { noDaemon(s); s.host.open = func(string) error { return unix.EPERM } }, verdictFail, "may not be opened", "--device /dev/net/tun"},
		{"tun", func(s *sick) { noDaemon(s); ordinary(s); s.host.open = func(string) error { return unix.EACCES } }, verdictSkipped, "this user", "sudo ripstop doctor"},
		{"tun", func(s *sick) { s.host.open = func(string) error { return unix.ENODEV } }, verdictFail, "no such device", "modprobe tun"},

		{"capabilities", func(*sick) {}, verdictOK, "CAP_NET_ADMIN is there", none},
		{"capabilities", func(s *sick) {
			s.host.capable = func() (capabilities, error) { return capabilities{effective: 1 << unix.CAP_NET_ADMIN}, nil }
		}, verdictOK, "attach needs CAP_SYS_ADMIN", none},
		{"capabilities", ordinary, verdictWarn, "no CAP_NET_ADMIN", "as root"},
		{"capabilities", func(s *sick) { noDaemon(s); ordinary(s); s.host.user = 0 }, verdictFail, "root has no CAP_NET_ADMIN", "--cap-add NET_ADMIN"},

		{"forwarding", func(*sick) {}, verdictOK, "ports of ripstop", none},
		{"forwarding", ordinary, verdictSkipped, "not shown", "sudo"},
		{"forwarding", func(s *sick) { s.status.Bridge = "" }, verdictOK, "routed mode", none},
		{"forwarding", func(s *sick) {
			s.host.forwarding = func(string) (string, bool) {
				return "frames between ports of ripstop are lost; to let them pass: iptables -I DOCKER-USER", true
			}
		}, verdictFail, "ports of ripstop are lost", "iptables -I DOCKER-USER"},

		{"buffers", func(*sick) {}, verdictOK, "does not bind", none},
		{"buffers", func(s *sick) {
			s.host.capable = func() (capabilities, error) { return capabilities{effective: ^uint64(0)}, nil }
		}, verdictOK, "is 8388608", none},
		{"buffers", func(s *sick) {
			s.host.capable = func() (capabilities, error) { return capabilities{effective: ^uint64(0)}, nil }
			s.host.sysctl = func(string) (string, error) { return "212992", nil }
		}, verdictWarn, "net.core.rmem_max is 212992", "sysctl -w net.core.rmem_max=8388608"},
		{"buffers", func(s *sick) {
			s.host.capable = func() (capabilities, error) { return capabilities{}, nil }
			s.host.sysctl = func(string) (string, error) { return "", fs.ErrNotExist }
		}, verdictSkipped, "not shown", "sysctl net.core.rmem_max"},

		{"overlap", func(*sick) {}, verdictOK, "10.32.0.0/24", none},
		{"overlap", func(s *sick) {
			s.host.overlap = func(netip.Prefix, ...string) (string, error) { return "route to 10.0.0.0/8 on eth0", nil }
		}, verdictWarn, "this host's route to 10.0.0.0/8 on eth0", "ripstop secret show"},
		{"overlap", func(s *sick) {
			noDaemon(s)
			s.host.overlap = func(p netip.Prefix, ours ...string) (string, error) { return fmt.Sprint("route to ", p, ours), nil }
		}, verdictFail, "route to 10.32.0.0/12 [ripstop ripstop0]", "--ipalloc-range"},
		{"overlap", func(s *sick) {
			s.status.IPAM.Range6 = netip.MustParsePrefix("fd00::/64")
			s.host.overlap = func(p netip.Prefix, _ ...string) (string, error) {
				if p.Addr().Is6() {
					return "address fd00::1 on eth0", nil
				}
				return "", nil
			}
		}, verdictWarn, "range fd00::/64 overlaps with this host's address fd00::1", "--ipalloc-range"},
		{"overlap", func(s *sick) {
			noDaemon(s)
			s.overlay = netip.MustParsePrefix("172.20.0.0/16")
		}, verdictOK, "172.20.0.0/16", none},
		{"overlap", func(s *sick) {
			s.host.overlap = func(netip.Prefix, ...string) (string, error) { return "", errors.New("no netlink") }
		}, verdictSkipped, "no netlink", "sudo"},

		{"overlap", func(s *sick) {
			noDaemon(s)
			s.host.storedRange = func(string) (netip.Prefix, bool, error) { return netip.Prefix{}, false, errors.New("damaged") }
		}, verdictWarn, "damaged", "--ipalloc-range"},

		{"port", func(*sick) {}, verdictOK, "the daemon listens at TCP and UDP port 6783", none},
		{"port", noDaemon, verdictOK, "port 6783 are free", none},
		{"port", func(s *sick) {
			noDaemon(s)
			s.host.holders = func(context.Context, uint16) ([]holder, error) {
				return []holder{{"udp", "nc (process 7)"}, {"udp", "nc (process 7)"}}, nil
			}
		}, verdictFail, "UDP port 6783 is taken by nc (process 7)", "--port"},
		{"port", func(s *sick) {
			noDaemon(s)
			s.host.holders = func(context.Context, uint16) ([]holder, error) { return []holder{{"tcp", "ripstop (process 7)"}}, nil }
		}, verdictFail, "ripstop (process 7)", "--socket"},
		{"port", func(s *sick) {
			noDaemon(s)
			s.host.holders = func(context.Context, uint16) ([]holder, error) { return []holder{{"tcp", ""}}, nil }
		}, verdictFail, "another program", "ss -lnp 'sport = :6783'"},
		{"port", func(s *sick) {
			*s.refusal = fmt.Errorf("%w (%w)", api.ErrUnreachable, unix.EACCES)
			s.host.holders = func(context.Context, uint16) ([]holder, error) { return []holder{{"tcp", ""}}, nil }
		}, verdictSkipped, "perhaps by the daemon", "sudo"},

		{"state", func(*sick) {}, verdictOK, "/state is this host's own", none},
		{"state", func(s *sick) { s.files["state"].Mode = fs.ModeDir | 0o755 }, verdictWarn, "mode 0755", "chmod 700 /state"},
		{"state", func(s *sick) { s.files["state"] = &fstest.MapFile{Mode: 0o600} }, verdictFail, "no directory", "--state"},
		{"state", func(s *sick) { noDaemon(s); s.host.stat = missing("/state", unix.ENOENT) }, verdictOK, "makes it", none},
		{"state", func(s *sick) { s.host.stat = missing("/state", unix.ENOENT) }, verdictSkipped, "not seen from here", "where the daemon runs"},
		{"state", func(s *sick) { s.host.stat = missing("/state", unix.EACCES) }, verdictSkipped, "may not see", "sudo"},

		{"secret", func(*sick) {}, verdictOK, "3 files with secrets", none},
		{"secret", func(s *sick) { s.files["secret"].Mode = 0o644 }, verdictFail, "/secret may be read by everybody on this host (mode 0644)", "chmod 600 /secret"},
		{"secret", func(s *sick) { s.files["state/network"].Mode = 0o602 }, verdictFail, "/state/network may be written by everybody", "chmod 600 /state/network"},
		{"secret", func(s *sick) { s.files["state/seed"].Mode = 0o640 }, verdictWarn, "read by its group", "chmod 600 /state/seed"},
		{"secret", func(s *sick) { s.host.stat = missing("/state/", unix.EACCES) }, verdictSkipped, "may not see /state/seed", "sudo"},
		{"secret", func(s *sick) { noDaemon(s); s.host.stat = missing("/state", unix.ENOENT) }, verdictOK, "no secret yet", none},
		{"secret", func(s *sick) { noDaemon(s); s.secret = "/nowhere" }, verdictFail, "/nowhere is not there", "ripstop secret new"},
		{"secret", func(s *sick) { noDaemon(s); s.secret = "/dev/net/tun" }, verdictOK, "3 files", none}, // as good as a pipe

		{"disk", func(*sick) {}, verdictOK, "1024 GiB left", none},
		{"disk", func(s *sick) { s.host.space = func(string) (space, error) { return space{bytes: 20 << 20}, nil } }, verdictWarn, "/state has 20 MiB left", "df -h /state"},
		{"disk", func(s *sick) { s.host.space = func(string) (space, error) { return space{bytes: 4096}, nil } }, verdictFail, "4 KiB left", "make room"},
		{"disk", func(s *sick) {
			s.host.space = func(string) (space, error) { return space{1 << 40, 100, true, false}, nil }
		}, verdictWarn, "100 more files", "df -i"},
		{"disk", func(s *sick) {
			s.host.space = func(string) (space, error) { return space{1 << 40, 1, true, false}, nil }
		}, verdictFail, "1 more file", "df -i"},
		{"disk", func(s *sick) {
			s.host.space = func(string) (space, error) { return space{1 << 40, 1, false, true}, nil }
		}, verdictFail, "read only", "mount"},
		{"disk", func(s *sick) {
			s.host.space = func(path string) (space, error) {
				if path == "/state" {
					return space{}, unix.ENOENT
				}
				return space{bytes: 1 << 40}, nil
			}
		}, verdictOK, "/ has 1024 GiB left", none},

		{"daemon", func(*sick) {}, verdictOK, "answers, as b 02:00:00:00:00:0b, for 1m0s", none},
		{"daemon", noDaemon, verdictFail, "none answers at /run/sock", "ripstop up"},
		{"daemon", func(s *sick) { *s.refusal = fmt.Errorf("%w (%w)", api.ErrUnreachable, unix.EACCES) }, verdictSkipped, "may not open the socket", "--socket-group"},
		{"daemon", func(s *sick) { *s.refusal = fmt.Errorf("api: %w", context.DeadlineExceeded) }, verdictFail, "says nothing within", "start it again"},
		{"daemon", func(s *sick) { *s.refusal = errors.New("version 9 of the interface") }, verdictFail, "version 9", "ripstop version"},

		{"targets", func(*sick) {}, verdictOK, "all 2 to dial answer", none},
		{"targets", func(s *sick) { s.status.Targets = nil }, verdictOK, "none to dial", none},
		{"targets", target("vm1", api.TargetWaiting, "198.18.1.1:6783: no answer to TCP within 5s: down, or a firewall"), verdictWarn, "vm1: 198.18.1.1:6783: no answer", "TCP and UDP port 6783"},
		{"targets", target("vm1:7000", api.TargetConnecting, ""), verdictWarn, "vm1:7000: no answer yet", "port 7000"},
		{"targets", target("vm1", api.TargetWaiting, "connection refused: nothing listens there"), verdictWarn, "refused", "`ripstop forget vm1`"},
		{"targets", target("vm1", api.TargetWaiting, "resolve vm1: no such host"), verdictWarn, "no such host", "correct the name"},
		{"targets", target("vm1", api.TargetRefused, "no answer: most often another secret"), verdictFail, "another secret", "ripstop secret show"},
		{"targets", target("10.32.0.1", api.TargetRefused, "10.32.0.1: it lies inside the overlay network: name an address of the network below"), verdictFail, "inside", "network below"},
		{"targets", target("vm1", api.TargetRefused, "no protocol version in common"), verdictFail, "version", "same version"},
		{"targets", target("vm1", api.TargetRefused, "unreadable handshake message"), verdictFail, "unreadable", "what listens there"},
		{"targets", func(s *sick) {
			target("vm1", api.TargetWaiting, "connection refused")(s)
			s.status.Peers[0].Reachable = false // this host is alone
		}, verdictFail, "refused", "ripstop up"},

		{"links", func(*sick) {}, verdictOK, "1, all up", none},
		{"links", func(s *sick) { s.status.Links[0].State = api.LinkConnecting }, verdictWarn, "with a: connected", "again in some seconds"},
		{"links", func(s *sick) { s.status.Links[0].State = api.LinkDown }, verdictWarn, "with a: nothing is answered", "port 6783"},
		{"links", func(s *sick) { s.status.Links = nil }, verdictWarn, "1 other host, and a link with none", "ripstop connect"},
		{"links", func(s *sick) { s.status.Links, s.status.Peers = nil, nil }, verdictOK, "there are none", none},

		{"udp", func(*sick) {}, verdictOK, "passes on all links", none},
		{"udp", func(s *sick) { s.status.Links[0].Path = "tcp" }, verdictWarn, "with a: over TCP, for UDP does not pass", "to a (198.18.1.1:6783) from here, and to port 6783 of this host from there"},
		{"udp", func(s *sick) { s.status.Links = nil }, verdictOK, "no links", none},

		{"loss", func(*sick) {}, verdictOK, "no link", none},
		{"loss", func(s *sick) { s.status.Links[0].Loss = 0.01 }, verdictOK, "no link", none},
		{"loss", func(s *sick) { s.status.Links[0].Loss = 0.05 }, verdictWarn, "with a: 5 % of probes", "ping"},

		{"mtu", func(*sick) {}, verdictOK, "no link", none},
		{"mtu", func(s *sick) { s.status.Links[0].MTU = 1172 }, verdictWarn, "with a: packets carry 1172 bytes", "raise the MTU"},
		{"mtu", func(s *sick) { s.status.Links[0].MTU = 1232 }, verdictOK, "no link", none},
		{"mtu", func(s *sick) { s.status.Links[0].MTU, s.status.Links[0].Since = 1172, s.now.Add(-time.Second) }, verdictOK, "no link", none},

		{"peers", func(*sick) {}, verdictOK, "all 1 can be reached", none},
		{"peers", func(s *sick) { s.status.Peers = nil }, verdictOK, "no other hosts", none},
		{"peers", func(s *sick) { s.status.Peers[0].Reachable = false }, verdictFail, "cut off: of 1 other host none", "port 6783"},
		{"peers", peer(api.Peer{Nickname: "c", Alive: true}), verdictFail, "c: others have links with it", "to c from a host"},
		{"peers", peer(api.Peer{Nickname: "c"}), verdictWarn, "c: no host has a link with it", "ripstop rmpeer"},

		{"versions", func(*sick) {}, verdictOK, "on all hosts", none},
		{"versions", func(s *sick) { s.status.Peers[0].Software = "v0.9" }, verdictWarn, software() + " on b; v0.9 on a", "one version"},
		{"versions", func(s *sick) { s.status.Software, s.status.Peers[0].Software = "v0.9", "v0.9" }, verdictWarn, "the daemon that runs is v0.9", "ripstop stop"},

		{"endpoints", func(*sick) {}, verdictOK, "1, none", none},
		{"endpoints", func(s *sick) {
			s.status.Endpoints[0] = api.Endpoint{Name: "web", Host: s.status.Name, State: api.EndpointFenced, Netns: "pid:1", Interface: "rip0", Fenced: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/32")}}
		}, verdictFail, "another host has its 10.32.0.1", "`ripstop detach pid:1 --interface rip0`"},
		{"endpoints", func(s *sick) {
			s.status.Endpoints[0] = api.Endpoint{Name: "b", Host: s.status.Name, State: api.EndpointFenced}
		}, verdictFail, "address or MAC", "`ripstop hide`"},
		{"endpoints", func(s *sick) {
			s.status.Endpoints[0] = api.Endpoint{Name: "web", Host: s.status.Name, State: api.EndpointOrphan, Netns: "pid:1", Interface: "rip0", HostPort: "ripv1"}
		}, verdictWarn, "its interface ripv1 is gone", "ripstop detach pid:1"},
		{"endpoints", func(s *sick) {
			s.status.Endpoints[0] = api.Endpoint{Name: "db", Host: "x", HostNickname: "c", State: api.EndpointFenced}
		}, verdictWarn, "db () on c is fenced", "on c"},
		{"endpoints", func(s *sick) {
			s.status.Endpoints[0] = api.Endpoint{Name: "db", Host: "x", HostNickname: "c", State: api.EndpointOrphan}
		}, verdictWarn, "no host has a link with its host c", "ripstop rmpeer x"},

		{"addresses", func(*sick) {}, verdictOK, "255 free", none},
		{"addresses", func(s *sick) { s.status.IPAM = nil }, verdictOK, "gives out none", none},
		{"addresses", func(s *sick) {
			s.status.IPAM = &api.IPAM{Waiting: "there is no address map yet"}
			s.status.Targets, s.status.Peers = nil, nil
		}, verdictOK, "none was asked for yet", none},
		{"addresses", func(s *sick) { s.status.IPAM = &api.IPAM{Waiting: "there is no address map yet"} }, verdictWarn, "no address map", "ripstop ipam start"},
		{"addresses", func(s *sick) { s.status.IPAM.SaveError = "no space left" }, verdictFail, "no space left", "/state"},
		{"addresses", func(s *sick) { s.status.IPAM.Waiting = "vm1 was never heard" }, verdictWarn, "vm1 was never heard", "ripstop ipam start"},
		{"addresses", func(s *sick) { s.status.IPAM.Fenced = 1 }, verdictFail, "1 address in use", "ripstop status ipam"},
		{"addresses", func(s *sick) { s.status.IPAM.Conflicts = 2 }, verdictWarn, "2 blocks were claimed", "ripstop status ipam"},
		{"addresses", func(s *sick) { s.status.IPAM.Hosts[0].Free, s.status.IPAM.Hosts[1].Free = 5, 0 }, verdictWarn, "5 of 256", "rmpeer"},
		{"addresses", func(s *sick) { s.status.IPAM.Hosts[0].Reachable, s.status.IPAM.Hosts[1].Free = false, 0 }, verdictFail, "none is free", "rmpeer"},

		{"offloads", func(*sick) {}, verdictOK, "all: tso", none},
		{"offloads", func(s *sick) { s.status.Offloads[0] = api.Offload{Name: "tso", Why: "switched off"} }, verdictOK, "no tso (switched off)", none},

		{"drops", func(*sick) {}, verdictOK, "nothing is lost that should not be; 2 frames", none},
		{"drops", func(s *sick) { s.later.Counters["drop_no_session"] = 3 }, verdictWarn, "drop_no_session: 3 in the last second, 3 in all: keys", "ripstop status peers"},

		{"names", func(*sick) {}, verdictOK, "169.254.83.53 answers for ripstop.internal", none},
		{"names", func(s *sick) { *s.names = api.Names{Problem: "it was started with --no-dns"} }, verdictOK, "--no-dns", none},
		{"names", func(s *sick) {
			*s.names = api.Names{Problem: "another program has port 53: choose another by --dns-address, or do without by --no-dns"}
			s.status.Warnings = []string{"names are not resolved here: " + s.names.Problem}
		}, verdictFail, "not resolved here: another program has port 53", "choose another by --dns-address"},
		{"names", func(s *sick) {
			*s.names = api.Names{Problem: "dns: listen: refused"}
			s.status.Warnings = []string{"names are not resolved here: dns: listen: refused"}
		}, verdictFail, "dns: listen: refused", "--no-dns"},
		{"names", func(s *sick) { s.host.has = func(netip.Addr) (bool, error) { return false, nil } }, verdictFail, "on no interface", "ripstop stop"},
		{"names", func(s *sick) {
			s.host.resolve = func(_ context.Context, at netip.Addr, name string) error { return fmt.Errorf("%v %s", at, name) }
		}, verdictFail, "169.254.83.53 doctor.ripstop.internal.", "nft insert rule"},
		{"names", func(s *sick) { s.names.Upstreams = nil }, verdictWarn, "no resolver", "/etc/resolv.conf"},
		{"names", func(s *sick) { s.names.Upstreams[0].Resting = true }, verdictWarn, "none of this host's 1 resolver", "/etc/resolv.conf"},

		{"resolved", func(*sick) {}, verdictOK, "asks here", none},
		{"resolved", func(s *sick) { s.names.Address = nil }, verdictOK, "nothing to tell", none},
		{"resolved", func(s *sick) {
			s.host.resolved = func(context.Context, string, string) (bool, bool, error) { return false, false, nil }
		}, verdictOK, "does not run", none},
		{"resolved", func(s *sick) {
			s.host.resolved = func(context.Context, string, string) (bool, bool, error) { return true, false, nil }
		}, verdictWarn, "does not ask", "resolvectl dns ripstop 169.254.83.53; resolvectl domain ripstop '~ripstop.internal'"},
		{"resolved", func(s *sick) {
			s.host.resolved = func(context.Context, string, string) (bool, bool, error) { return false, false, fs.ErrPermission }
		}, verdictSkipped, "not shown", "sudo"},
		{"resolved", func(s *sick) {
			s.host.resolved = func(context.Context, string, string) (bool, bool, error) { return true, false, errors.New("no bus") }
		}, verdictWarn, "no bus", "resolvectl status ripstop"},

		{"gateway", func(*sick) {}, verdictOK, "none", none},
		{"gateway", gateway, verdictOK, "1 container", none},
		{"gateway", func(s *sick) { gateway(s); s.status.Masquerade = false }, verdictFail, "build: no way to the world, for their gateway 10.32.0.9 does not", "ripstop expose --masquerade"},
		{"gateway", func(s *sick) { gateway(s); s.status.Addresses, s.status.Masquerade = nil, false }, verdictFail, "build", "ripstop expose --masquerade --address 10.32.0.9/12"},
		{"gateway", func(s *sick) { gateway(s); s.status.Addresses = []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")} }, verdictFail, "build", "ripstop hide; ripstop expose --masquerade --address 10.32.0.9/12"},
		{"gateway", func(s *sick) {
			gateway(s)
			s.status.Endpoints = append(s.status.Endpoints, api.Endpoint{Masquerade: true, Fenced: []netip.Prefix{netip.MustParsePrefix("10.32.0.9/12")}})
		}, verdictFail, "build", "detach them; ripstop hide"},
		{"gateway", func(s *sick) {
			gateway(s)
			s.host.routing = func(string) (string, bool) { return "this host does not forward; to let them pass: sysctl -w", true }
		}, verdictFail, "does not forward", "sysctl -w"},
		{"gateway", func(s *sick) { gateway(s); ordinary(s) }, verdictSkipped, "not shown", "sudo"},

		{"warnings", func(*sick) {}, verdictOK, "no others", none},
		{"warnings", func(s *sick) {
			s.host.routing = func(string) (string, bool) { return "nothing gets out; to let them pass: iptables", true }
			s.status.Warnings = []string{"nothing gets out; to let them pass: iptables"}
		}, verdictOK, "no others", none}, // gateway says it
		{"warnings", func(s *sick) { s.status.Warnings = []string{"the sky falls"} }, verdictWarn, "the sky falls", "log"},
		{"warnings", func(s *sick) { s.status.Warnings = []string{"names are not resolved here: x"} }, verdictOK, "no others", none},
		{"warnings", func(s *sick) {
			ordinary(s)
			s.status.Warnings = []string{"frames are lost; to let them pass: iptables"}
		}, verdictFail, "frames are lost", "iptables"},
		{"warnings", func(s *sick) {
			s.host.forwarding = func(string) (string, bool) { return "frames are lost; to let them pass: iptables", true }
			s.status.Warnings = []string{"frames are lost; to let them pass: iptables"}
		}, verdictOK, "no others", none}, // forwarding says it
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []finding
			for _, f := range examine(c.change) {
				if f.Check == c.check {
					got = append(got, f)
				}
			}
			if len(got) != 1 || got[0].Verdict != c.verdict || !strings.Contains(got[0].Found, c.found) || !strings.Contains(got[0].Remedy, c.remedy) {
				t.Errorf("%s: got %+v, want %s %q, %q", c.check, got, c.verdict, c.found, c.remedy)
				return
			}
			if f := got[0]; (f.Verdict == verdictOK) != (f.Remedy == "") || strings.ContainsRune(f.Found+f.Remedy, '\n') {
				t.Errorf("%s: %+v: one line, and a remedy unless it is ok", c.check, f)
			}
		})
	}
}

// target makes the first target one that is not up.
func target(name, state, err string) func(*sick) {
	return func(s *sick) { s.status.Targets[0] = api.Target{Target: name, State: state, Error: err} }
}

// peer adds a peer.
func peer(p api.Peer) func(*sick) {
	return func(s *sick) { s.status.Peers = append(s.status.Peers, p) }
}

// TestDiagnosis: what people and programs read.
func TestDiagnosis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := diagnose(examine(func(s *sick) {
			s.status.Links[0].Path, s.status.Links[0].Nickname = "tcp", "a\x1b"
			s.files["secret"].Mode = 0o644
			s.later.Counters["drop_tap_queue_full"] = 7
			s.host.resolved = func(context.Context, string, string) (bool, bool, error) { return false, false, fs.ErrPermission }
		}))
		var text, object bytes.Buffer
		if err := errors.Join(d.print(&text), printJSON(&object, d)); err != nil {
			t.Fatal(err)
		}
		golden(t, "doctor.txt", text.Bytes())
		golden(t, "doctor.json", object.Bytes())
	})
}

// golden compares with a file of testdata, which UPDATE=1 writes anew.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	got = bytes.ReplaceAll(got, []byte(software()), []byte("VERSION"))
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v\ngot:\n%s\nwant:\n%s", name, err, got, want)
	}
}

// TestDoctorCommand: the exit code, with a daemon behind a real socket and without.
func TestDoctorCommand(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	d := &daemon{status: well, names: wellNames()}
	for _, c := range []struct {
		name  string
		mode  fs.FileMode // of the secret
		serve bool
		json  bool
		code  int
		says  string
	}{
		{"no daemon", 0o600, false, false, ExitUnwell, "FAIL     daemon        none answers at " + socket},
		{"well", 0o600, true, false, ExitOK, "0 failed, 0 warnings, 26 ok\n"},
		{"a warning", 0o640, true, false, ExitOK, "0 failed, 1 warning, 25 ok\n"},
		{"a failure", 0o644, true, true, ExitUnwell, `"failed": 1`},
	} {
		if c.serve && d.stop == nil {
			serveAt(t, socket, d)
		}
		files := wellFiles()
		files["secret"].Mode = c.mode
		var out, errOut bytes.Buffer
		in := &invocation{socket: socket, json: c.json, Stdio: Stdio{Out: &out, Err: &errOut}}
		err := doctor(t.Context(), in, wellHost(files), surroundings{state: "/state", bridge: "ripstop", port: 6783})
		code := ExitOK
		var e *exitError
		if errors.As(err, &e) {
			code = e.code
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if code != c.code || !strings.Contains(out.String(), c.says) || errOut.Len() > 0 {
			t.Errorf("%s: code %d, %v\n%s%s", c.name, code, err, out.String(), errOut.String())
		}
		if v := (struct{ Version int }{}); c.json && (json.Unmarshal(out.Bytes(), &v) != nil || v.Version != api.Version) {
			t.Errorf("%s: %s", c.name, out.String())
		}
	}
}

// TestDoctorEndsInTime: whatever hangs, and when it is told to end.
func TestDoctorEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		start := time.Now()
		found := examine(func(s *sick) {
			s.client = &hanging{patient: patient{status: well(), names: wellNames()}}
			s.host.space = func(string) (space, error) { <-hang; return space{}, nil }
			s.host.forwarding = func(string) (string, bool) { <-hang; return "", false }
		})
		took := time.Since(start)
		if took >= 5*time.Second || took < checkTime {
			t.Errorf("it took %v", took)
		}
		late := 0
		for _, f := range found {
			if strings.Contains(f.Found, "nothing was found out within 2.5s") && f.Verdict == verdictWarn && f.Remedy != "" {
				late++
			}
		}
		if late < 3 || len(found) != len(hostChecks)+1+len(daemonChecks) {
			t.Errorf("%d of %d were late: %+v", late, len(found), found)
		}
		close(hang)

		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := doctor(ctx, &invocation{socket: "/nowhere", Stdio: Stdio{Out: new(bytes.Buffer)}}, wellHost(wellFiles()), surroundings{}); !errors.Is(err, context.Canceled) {
			t.Errorf("told to end: %v", err)
		}
	})
}

// TestNoAnswerIsFound: what a check says when its own question had no answer until its time
// was over is kept: it knows what helps.
func TestNoAnswerIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, f := range examine(func(s *sick) {
			s.host.resolve = func(ctx context.Context, _ netip.Addr, _ string) error {
				<-ctx.Done()
				time.Sleep(time.Millisecond)
				return ctx.Err()
			}
		}) {
			if f.Check == "names" && (f.Verdict != verdictFail || !strings.Contains(f.Remedy, "port 53")) {
				t.Errorf("%+v", f)
			}
		}
	})
}

// hanging is a daemon that answers just in time at first, and then no more.
type hanging struct{ patient }

func (h *hanging) Status(ctx context.Context) (api.Status, error) {
	if h.asked++; h.asked == 1 {
		time.Sleep(askTime - time.Millisecond)
		return h.status, nil
	}
	<-ctx.Done()
	return api.Status{}, ctx.Err()
}

// TestFindingsAreBounded: of very many alike some are shown.
func TestFindingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []finding
		for _, f := range examine(func(s *sick) {
			for i := range 1000 {
				s.status.Targets = append(s.status.Targets, api.Target{Target: fmt.Sprint("vm", i), State: api.TargetWaiting})
			}
		}) {
			if f.Check == "targets" {
				got = append(got, f)
			}
		}
		if len(got) != maxFindings+1 || got[maxFindings].Found != "992 more like these" {
			t.Errorf("%d: %+v", len(got), got)
		}
	})
}
