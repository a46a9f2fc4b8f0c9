package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"ripstop/crypto"
	"ripstop/transport"
	"ripstop/tun"
)

// Config is what `ripstop up` was asked for. Zero values are defaults unless the field says otherwise.
type Config struct {
	StateDir    string // required: state directory, made with mode 0700 if it is not there
	Socket      string // required: path of the local API's unix socket
	SocketGroup string // group that may use the socket, name or number; empty = the daemon's own

	Secret      string // a token rs1-… or a passphrase; empty = SecretFile, else StateDir/network
	SecretFile  string // file holding a token, a network file or a passphrase; empty = StateDir/network
	NetworkName string // which network of a passphrase; empty = "default"

	Port        uint16           // TCP and UDP port of the underlay, 0 = any free one
	Bind        []netip.Addr     // underlay addresses to use; none = all, IPv4 and IPv6
	Advertise   []netip.AddrPort // further underlay addresses to tell peers; port 0 = Port
	Peers       []string         // targets; none = those stored in StateDir
	PeersFile   string           // file of further targets, one a line, `#` starts a comment; read again at Reload
	NoDiscovery bool             // link with targets only, never with peers heard of by gossip

	Nickname    string         // empty = the host's name
	Bridge      string         // bridge to make or to use, bridge mode
	Device      string         // name of the TAP or TUN
	Mode        string         // "bridge" (also when empty) or "routed"
	Address     []netip.Prefix // routed mode: the host's own overlay addresses
	Range       netip.Prefix   // addresses are given out of it, the same on all hosts; zero = as stored, ipam.DefaultRange at first
	Subnet      netip.Prefix   // of it, where nothing else is asked for; zero = as stored, the range at first
	Reserved    []netip.Prefix // of it, never given out by themselves; none = as stored
	IPv6        string         // "on" or "off": an IPv6 address beside each; empty = as stored, on at first
	MTU         int            // MTU told to containers, bytes; 0 = tun.ContainerMTU
	StrictPorts bool           // refuse what unmanaged ports of the bridge send
	NoOffload   []string       // offloads not to be used, by name (Offloads), or "all"
	Nice        int            // niceness of a worker's thread while super-frames go by, -20 to 19, where it may be set; 0 = as it is

	NoDNS      bool       // answer no questions for names
	DNSDomain  string     // behind every name; empty = dns.DefaultDomain
	DNSAddress netip.Addr // where containers ask, IPv4, the same on every host; zero = dns.DefaultAddress
	ResolvConf string     // file that names the host's own resolvers; empty = /etc/resolv.conf

	Metrics netip.AddrPort // loopback address and port where metrics are read, port 0 = any free one; zero = by the socket only

	Log      *slog.Logger    // required
	LogTail  *LogTail        // where the last lines of Log are kept for reports; may be nil
	Ready    func(ReadyInfo) // called once, when the API answers and the node listens; may be nil
	Software string          // version shown to peers
	Reload   <-chan struct{} // each receive reads PeersFile again; may be nil
}

// ReadyInfo is what a node is when it is ready.
type ReadyInfo struct {
	Name     crypto.Name
	Nickname string
	Socket   string
}

// ExitError is an error that ends the program with a code of its own.
type ExitError struct {
	Code int // 6: another running host has this host's identity
	Err  error
}

// Error is the error's own text.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// check fills in defaults and refuses what cannot be. What is refused here can be
// seen from the command line alone.
func (c *Config) check() error {
	misuse := func(format string, args ...any) error {
		return &ExitError{Code: 2, Err: fmt.Errorf(format, args...)}
	}
	if c.StateDir == "" || c.Socket == "" || c.Log == nil {
		return misuse("mesh: state directory, socket and log are required")
	}
	if c.Bridge == "" {
		c.Bridge = "ripstop"
	}
	if c.Device == "" {
		c.Device = "ripstop0"
	}
	if c.MTU == 0 {
		c.MTU = tun.ContainerMTU
	}
	if err := CheckMTU(c.MTU); err != nil {
		return err
	}
	switch c.Mode {
	case "":
		c.Mode = modeBridge
	case modeBridge, modeRouted:
	default:
		return misuse("--mode %q: it is one of %s, %s", c.Mode, modeBridge, modeRouted)
	}
	if c.Mode == modeBridge && len(c.Address) > 0 {
		return misuse("--address is for --mode routed; in bridge mode run `ripstop expose --address` on the running host")
	}
	for _, p := range c.Address {
		if err := checkAddress(p); err != nil {
			return misuse("%v", err)
		}
	}
	if err := c.checkNumbering(misuse); err != nil {
		return err
	}
	if err := c.checkDNS(); err != nil {
		return misuse("%v", err)
	}
	for _, p := range c.Peers {
		if _, err := transport.ParseTarget(p); err != nil {
			return misuse("%v", err)
		}
	}
	for _, name := range c.NoOffload {
		if name != "all" && !slices.Contains(Offloads, name) {
			return misuse("--no-offload %q: all, or one of %s", name, strings.Join(Offloads, ", "))
		}
	}
	if c.Nice < -20 || c.Nice > 19 {
		return misuse("--nice %d: -20 to 19, as nice(1) takes it", c.Nice)
	}
	if c.Nickname == "" {
		if host, err := os.Hostname(); err == nil {
			c.Nickname = host
		}
	}
	if c.Nickname == "" || len(c.Nickname) > 64 || strings.ContainsFunc(c.Nickname, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return misuse("--nickname %q: 1 to 64 bytes of printable text", c.Nickname)
	}
	return nil
}

// minMTU is the smallest MTU of a container's interface: what every IPv4 host
// must take (RFC 791).
const minMTU = 576

// CheckMTU refuses as misuse what cannot be the MTU of a container's interface.
func CheckMTU(mtu int) error {
	if mtu < minMTU || mtu > tun.MaxMTU {
		return &ExitError{Code: 2, Err: fmt.Errorf("--mtu %d: it is from %d to %d", mtu, minMTU, tun.MaxMTU)}
	}
	return nil
}
