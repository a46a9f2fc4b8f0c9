package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ripstop/mesh/store"
	"ripstop/transport"
	"ripstop/tun"
)

// asRoot is what helps a user who may not look.
const asRoot = "run it as root: sudo ripstop doctor"

// version is a kernel's, as far as features are told by it.
type version struct{ major, minor int }

func (v version) before(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// kernelFeatures are what ripstop uses where the kernel has it, and since when that is.
var kernelFeatures = []struct {
	name  string
	since version
	minor bool // its lack is worth no warning
}{
	{"sends trains of datagrams", version{4, 18}, false},
	{"receives trains of datagrams", version{5, 0}, false},
	{"UDP super-frames of containers", version{6, 2}, true},
	{"super-frames of tunnels inside containers", version{6, 17}, true},
}

// parseRelease reads the first two numbers of a kernel's release.
func parseRelease(release string) (v version, ok bool) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	minor, _, _ := strings.Cut(strings.TrimRight(parts[1], "+"), "-")
	var majorErr, minorErr error
	v.major, majorErr = strconv.Atoi(parts[0])
	v.minor, minorErr = strconv.Atoi(minor)
	return v, majorErr == nil && minorErr == nil
}

// checkKernel says which of what is used the kernel is too old for.
func checkKernel(_ context.Context, x *examination) []finding {
	release, err := x.host.release()
	if err != nil {
		return one(skipped("`uname -r` should say it", "the kernel does not say its version: %v", err))
	}
	v, known := parseRelease(release)
	if !known {
		return one(skipped("`ripstop status` says which offloads are used", "the version %s is not understood", release))
	}
	var lacks []string
	slow := false
	for _, f := range kernelFeatures {
		if v.before(f.since) {
			lacks = append(lacks, fmt.Sprintf("%s (from %d.%d on)", f.name, f.since.major, f.since.minor))
			slow = slow || !f.minor
		}
	}
	switch {
	case slow:
		return one(warning("a newer kernel makes it faster; everything works without", "Linux %s lacks: %s", release, strings.Join(lacks, ", ")))
	case len(lacks) > 0:
		return one(good("Linux %s, without: %s", release, strings.Join(lacks, ", ")))
	}
	return one(good("Linux %s has all that is used", release))
}

// tunPath is the device from which all TAP and TUN devices are made.
const tunPath = "/dev/net/tun"

// checkTun says whether a daemon could make its device. The file is opened only where
// the driver is there already: opening it may load that.
func checkTun(_ context.Context, x *examination) []finding {
	const give = "load the driver by `modprobe tun`, or give the container the device (docker run --device /dev/net/tun)"
	if _, err := x.host.stat(tunPath); errors.Is(err, fs.ErrNotExist) {
		return one(failure(give, "%s is not there", tunPath))
	}
	loaded, err := x.host.tunLoaded()
	if err == nil && !loaded {
		return one(warning("`modprobe tun` shows whether there is one", "%s is there, its driver is not loaded yet", tunPath))
	}
	err = x.host.open(tunPath)
	capable, _ := x.host.capable()
	switch {
	case err == nil:
		return one(good("%s may be opened", tunPath))
	case errors.Is(err, fs.ErrPermission) && x.status == nil && capable.netAdmin():
		return one(failure("chmod 0666 /dev/net/tun, or give the container the device (docker run --device /dev/net/tun)", "%s may not be opened", tunPath))
	case errors.Is(err, fs.ErrPermission):
		return one(skipped(asRoot, "this user may not open %s", tunPath))
	}
	return one(failure(give, "%s cannot be opened: %s", tunPath, reason(err)))
}

// capabilities are what a process may do, and where.
type capabilities struct {
	effective uint64 // bits by number (capabilities(7))
	whole     bool   // in the initial user namespace, not only in one of its own
}

func (c capabilities) has(number int) bool { return c.effective>>number&1 != 0 }
func (c capabilities) netAdmin() bool      { return c.has(unix.CAP_NET_ADMIN) }

// checkCapabilities says what this process may not do of what commands need.
func checkCapabilities(_ context.Context, x *examination) []finding {
	c, err := x.host.capable()
	if err != nil {
		return one(skipped("`grep Cap /proc/self/status` should say it", "the kernel does not say what this process may do: %v", err))
	}
	switch {
	case c.netAdmin() && !c.has(unix.CAP_SYS_ADMIN):
		return one(good("CAP_NET_ADMIN is there; attach needs CAP_SYS_ADMIN too, to enter namespaces"))
	case c.netAdmin():
		return one(good("CAP_NET_ADMIN is there"))
	case x.host.user == 0 && x.status == nil:
		return one(failure("docker run --cap-add NET_ADMIN, or AmbientCapabilities=CAP_NET_ADMIN in the unit", "root has no CAP_NET_ADMIN here, which up, attach and expose need"))
	}
	return one(warning("run them as root", "this process has no CAP_NET_ADMIN, which up, attach and detach need"))
}

// checkForwarding says whether the host's firewall drops what only passes the bridge.
func checkForwarding(_ context.Context, x *examination) []finding {
	if x.status != nil && x.bridge == "" {
		return one(good("routed mode has no bridge for a firewall to look into"))
	}
	if c, err := x.host.capable(); err != nil || !c.netAdmin() {
		return one(skipped(asRoot, "the host's firewall is not shown to this user"))
	}
	if sentence, there := x.host.forwarding(x.bridge); there {
		return one(hazardFinding(sentence))
	}
	return one(good("no firewall of this host drops frames between ports of %s", x.bridge))
}

// hazardFinding takes the sentence of tun.ForwardingHazard apart.
func hazardFinding(sentence string) finding {
	found, commands, _ := strings.Cut(sentence, tun.HazardRemedy)
	return failure(commands, "%s", found)
}

// checkBuffers says whether sockets get the room that bursts need.
func checkBuffers(_ context.Context, x *examination) []finding {
	const key, wanted = "net.core.rmem_max", transport.DefaultReceiveBuffer
	c, err := x.host.capable()
	if err == nil && c.whole {
		return one(good("%s does not bind a daemon that has CAP_NET_ADMIN", key))
	}
	text, err := x.host.sysctl(key)
	if errors.Is(err, fs.ErrNotExist) {
		return one(skipped("sysctl "+key+" in the host's own network namespace", "%s is not shown in this network namespace", key))
	}
	size, numberErr := strconv.Atoi(text)
	switch {
	case err != nil || numberErr != nil:
		return one(skipped(asRoot, "%s cannot be read", key))
	case size < wanted:
		return one(warning(fmt.Sprintf("on the host: sysctl -w %s=%d", key, wanted), "%s is %d: inside a user namespace bursts of more are dropped", key, size))
	}
	return one(good("%s is %d", key, size))
}

// checkOverlap says whether this host reaches addresses of the overlay otherwise.
func checkOverlap(_ context.Context, x *examination) []finding {
	r, known := x.overlay, x.status != nil
	if !r.IsValid() {
		var err error
		r, known, err = x.host.storedRange(x.state)
		switch {
		case errors.Is(err, fs.ErrPermission):
			known = true // and may be another
		case err != nil:
			return one(warning("bring the file "+store.Numbering+" back from a backup, or say the range by --ipalloc-range", "the stored range cannot be read: %s", reason(err)))
		}
	}
	ranges := []netip.Prefix{r}
	if x.status != nil && x.status.IPAM != nil && x.status.IPAM.Range6.IsValid() {
		ranges = append(ranges, x.status.IPAM.Range6)
	}
	var found []finding
	for _, r := range ranges {
		what, err := x.host.overlap(r, x.bridge, x.device)
		switch {
		case err != nil:
			found = append(found, skipped(asRoot, "routes of this host cannot be listed: %s", reason(err)))
		case what == "":
		case known:
			found = append(found, warning("take that away; or have all hosts use another range: keep the secret by `ripstop secret show > FILE`, then on each `ripstop reset` and `ripstop up --secret-file FILE --ipalloc-range CIDR` with its peers", "the overlay's range %v overlaps with this host's %s", r, what))
		default:
			found = append(found, failure("take that away, or choose another range, the same on all hosts: `ripstop up --ipalloc-range`", "the overlay's range %v overlaps with this host's %s", r, what))
		}
	}
	return orGood(found, "no route or address of this host lies in the overlay's range %v", r)
}

// holder is a socket that has a port.
type holder struct {
	protocol string // tcp or udp
	process  string // name and number; empty when that is not shown
}

// checkPort says whether a daemon could listen.
func checkPort(ctx context.Context, x *examination) []finding {
	if x.status != nil {
		return one(good("the daemon listens at TCP and UDP port %d", x.port))
	}
	holders, err := x.host.holders(ctx, x.port)
	switch {
	case err != nil:
		return one(skipped(asRoot, "ports in use cannot be listed: %s", reason(err)))
	case len(holders) == 0:
		return one(good("TCP and UDP port %d are free", x.port))
	case x.hidden():
		return one(skipped(asRoot, "port %d is in use, perhaps by the daemon that this user may not ask", x.port))
	}
	var found []finding
	for _, h := range slices.Compact(holders) { // one program has a socket of each family
		remedy := fmt.Sprintf("`ss -lnp 'sport = :%d'` names it to root; end it, or choose another port by `ripstop up --port`", x.port)
		by := "another program"
		switch {
		case strings.HasPrefix(h.process, "ripstop "):
			by, remedy = h.process, "say by --socket where that ripstop listens, or end it"
		case h.process != "":
			by, remedy = h.process, "end that program, or choose another port by `ripstop up --port`"
		}
		found = append(found, failure(remedy, "%s port %d is taken by %s", strings.ToUpper(h.protocol), x.port, by))
	}
	return found
}
