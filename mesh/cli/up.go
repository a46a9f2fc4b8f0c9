package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/transport"
)

const upText = `
Runs this host's part of the network in the foreground: makes the bridge, listens for peers,
dials the given ones, and tells everybody what is attached here. Ends at Ctrl-C, SIGTERM or
` + "`ripstop stop`" + `; what is attached stays on the bridge, and the next ` + "`up`" + ` takes it over.

A PEER is a name or an address, with a port where it is not 6783: vm1, 192.0.2.7:7000,
[2001:db8::1]:6783. One that is not there yet is tried for ever; this host's own address in the
list does no harm. The peers given replace those of the last time; without any, those are used.

The secret is RIPSTOP_SECRET (a token rs1-… of ` + "`ripstop secret new`" + `, or a passphrase of 12
characters and more), else --secret-file, else the one kept from the last time. A host without
secret and without peers makes a new network.

What it counts is read for Prometheus by GET /metrics: of the socket always (curl --unix-socket
` + DefaultSocket + ` http://localhost/metrics), over TCP where --metrics says. Whoever is
on this host may read that, and nobody else; a reverse proxy can let others.

Examples:
  ripstop up                             a new network on the first host
  ripstop up --secret-file secret vm1 vm2 vm3
  RIPSTOP_SECRET='correct horse battery staple' ripstop up vm1 vm2 vm3
  ripstop up --ipalloc-range 172.20.0.0/16 vm1
                                         addresses out of this range, the same on all hosts
  ripstop up --mode routed vm1           a host without containers, without a bridge
  ripstop up --metrics 127.0.0.1:6782 vm1
                                         for Prometheus on this host`

func upCommand() command {
	return command{
		name: "up", args: "[flags] [PEER...]", short: "run this host's part of the network", text: upText, mute: true,
		setup: func(flags *pflag.FlagSet) action {
			var cfg mesh.Config
			var bind []netip.Addr
			var advertise []advertised
			var addresses []netip.Prefix
			var noOffload []text
			flags.StringVar(&cfg.StateDir, "state", DefaultState, "`DIR` where keys, peers and attachments are kept")
			flags.StringVar(&cfg.Socket, "socket", DefaultSocket, "`PATH` where to answer the other commands")
			flags.StringVar(&cfg.SocketGroup, "socket-group", "", "`GROUP` who may use the socket, besides root")
			flags.StringVar(&cfg.SecretFile, "secret-file", "", "`FILE` a token, a network file or a passphrase")
			flags.StringVar(&cfg.NetworkName, "network", "default", "`NAME` tells networks with one passphrase apart")
			flags.Uint16Var(&cfg.Port, "port", 6783, "`PORT` where to listen, TCP and UDP")
			flags.Var(list[netip.Addr]{&bind, netip.ParseAddr, "ADDR"}, "bind", "listen on this address only (repeatable)")
			flags.Var(list[advertised]{&advertise, parseAdvertised, "ADDR[:PORT]"}, "advertise", "tell peers this address too (repeatable)")
			flags.StringVar(&cfg.PeersFile, "peers-file", "", "`FILE` further peers, one a line; read again at SIGHUP")
			flags.BoolVar(&cfg.NoDiscovery, "no-discovery", false, "link with the given peers only")
			flags.StringVar(&cfg.Nickname, "nickname", "", "`NAME` what people see (default the host's name)")
			flags.StringVar(&cfg.Bridge, "bridge", "ripstop", "`NAME` the bridge to make or to use")
			flags.StringVar(&cfg.Device, "device", "ripstop0", "`NAME` the TAP or TUN device")
			flags.StringVar(&cfg.Mode, "mode", "bridge", "`MODE` bridge: for containers; routed: the host's own addresses only")
			choices(flags, "mode", "bridge", "routed")
			flags.Var(list[netip.Prefix]{&addresses, netip.ParsePrefix, "CIDR"}, "address", "the host's own address, in routed mode (repeatable; default one is chosen)")
			cidr := func(p *netip.Prefix, name, usage string) {
				flags.Var(single[netip.Prefix]{p, netip.ParsePrefix, "CIDR"}, name, usage)
			}
			cidr(&cfg.Range, "ipalloc-range", "give out addresses of this range, the same on all hosts (default 10.32.0.0/12)")
			cidr(&cfg.Subnet, "ipalloc-default-subnet", "where no other is asked for, only of this part of it")
			flags.Var(list[netip.Prefix]{&cfg.Reserved, netip.ParsePrefix, "CIDR"}, "ipalloc-reserve", "of this part none by itself, only by --address (repeatable)")
			flags.StringVar(&cfg.IPv6, "ipv6", "", "`on|off` an IPv6 address beside each (default on)")
			choices(flags, "ipv6", "on", "off")
			flags.IntVar(&cfg.MTU, "mtu", 0, "`BYTES` a container's largest packet (default 1500)")
			flags.BoolVar(&cfg.StrictPorts, "strict-ports", false, "refuse what comes from bridge ports that ripstop did not attach")
			flags.Var(list[text]{&noOffload, parseOffload, "NAME|all"}, "no-offload", "do not use an offload: checksum, tso, uso, tunnel, gso, gro (repeatable)")
			choices(flags, "no-offload", append([]string{"all"}, mesh.Offloads...)...)
			flags.IntVar(&cfg.Nice, "nice", -10, "`N` niceness of the threads that move frames, while super-frames go by, if allowed; 0: as it is")
			flags.BoolVar(&cfg.NoDNS, "no-dns", false, "resolve no names for containers and this host")
			flags.StringVar(&cfg.DNSDomain, "dns-domain", mesh.DefaultDNSDomain, "`DOMAIN` what stands behind every name")
			flags.Var(addr{&cfg.DNSAddress}, "dns-address", "where containers and this host ask for names (default "+mesh.DefaultDNSAddress.String()+")")
			flags.StringVar(&cfg.ResolvConf, "resolv-conf", "/etc/resolv.conf", "`FILE` this host's resolvers, asked for names of others")
			flags.Var(single[netip.AddrPort]{&cfg.Metrics, api.ParseMetricsAddress, "ADDR:PORT"}, "metrics", "answer GET /metrics for Prometheus here, on a loopback address (default not)")
			level, format := logFlags(flags)
			return func(ctx context.Context, in *invocation, args []string) error {
				cfg.Peers, cfg.Bind, cfg.Address = args, bind, addresses
				cfg.NoOffload = stringsOf(noOffload)
				for _, a := range advertise {
					cfg.Advertise = append(cfg.Advertise, netip.AddrPort(a))
				}
				if err := checkUp(flags, cfg, *format); err != nil {
					return err
				}
				cfg.LogTail = new(mesh.LogTail)
				log, err := newLog(io.MultiWriter(cfg.LogTail, in.Err), *level, *format)
				if err != nil {
					return err
				}
				cfg.Log, cfg.Software = log, software()
				cfg.Secret, _ = in.LookupEnv("RIPSTOP_SECRET")
				return up(ctx, in, cfg)
			}
		},
	}
}

// What --log-level and --log-format take.
var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// logFlags are those of commands that go on until they are ended.
func logFlags(flags *pflag.FlagSet) (level, format *string) {
	level = flags.String("log-level", "info", "`LEVEL` debug, info, warn or error")
	choices(flags, "log-level", logLevels...)
	format = flags.String("log-format", "text", "`FORMAT` text or json")
	choices(flags, "log-format", logFormats...)
	return level, format
}

// parseOffload refuses an offload that there is not.
func parseOffload(s string) (text, error) {
	if s != "all" && !slices.Contains(mesh.Offloads, s) {
		return "", fmt.Errorf("all, or one of %s", strings.Join(mesh.Offloads, ", "))
	}
	return text(s), nil
}

// checkUp refuses what can be seen to be wrong in the flags themselves; what they
// mean together, mesh.Run refuses before it does anything.
func checkUp(flags *pflag.FlagSet, cfg mesh.Config, format string) error {
	if err := checkPeers(cfg.Peers); err != nil {
		return err
	}
	if err := oneOf("--log-format", format, logFormats...); err != nil {
		return err
	}
	for _, name := range []string{"bridge", "device"} {
		if err := checkInterface(name, flags.Lookup(name).Value.String()); err != nil {
			return err
		}
	}
	if cfg.Bridge == cfg.Device && cfg.Mode == "bridge" {
		return misuse("--bridge and --device are both %s: they are two interfaces", cfg.Bridge)
	}
	if flags.Changed("mtu") {
		return mesh.CheckMTU(cfg.MTU)
	}
	return nil
}

// checkInterface refuses what cannot be an interface's name (dev_valid_name in net/core/dev.c).
func checkInterface(flag, name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r") {
		return misuse("--%s %q: an interface's name has 1 to 15 characters, no space, slash, colon or percent sign", flag, name)
	}
	return nil
}

// checkPeers refuses what cannot be dialled.
func checkPeers(peers []string) error {
	for _, p := range peers {
		if _, err := transport.ParseTarget(p); err != nil {
			return misuse("peer %q: %s", p, reason(err))
		}
	}
	return nil
}

// reason is an error's innermost text, without the names of packages around it.
func reason(err error) string {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || inner.Unwrap() == nil {
			return err.Error()
		}
		err = inner.Unwrap()
	}
}

// addr is a flag for one IP address.
type addr struct{ value *netip.Addr }

// Set takes an address.
func (a addr) Set(s string) (err error) {
	*a.value, err = netip.ParseAddr(s)
	return err
}

// String is what help shows as the default: nothing.
func (a addr) String() string {
	if a.value == nil || !a.value.IsValid() {
		return ""
	}
	return a.value.String()
}

// Type is what help shows behind the flag.
func (a addr) Type() string { return "ADDR" }

// advertised is an underlay address with or without a port.
type advertised netip.AddrPort

// String is the form that parseAdvertised reads.
func (a advertised) String() string {
	p := netip.AddrPort(a)
	if p.Port() == 0 {
		return p.Addr().String()
	}
	return p.String()
}

func parseAdvertised(s string) (advertised, error) {
	plain := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		plain = s[1 : len(s)-1]
	}
	var a netip.AddrPort
	if addr, err := netip.ParseAddr(plain); err == nil {
		a = netip.AddrPortFrom(addr.Unmap(), 0)
	} else if host, port, err := net.SplitHostPort(s); err == nil {
		addr, addrErr := netip.ParseAddr(host)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if addrErr == nil && portErr == nil && n > 0 {
			a = netip.AddrPortFrom(addr.Unmap(), uint16(n))
		}
	}
	switch ip := a.Addr(); {
	case !ip.IsValid():
		return advertised{}, fmt.Errorf("%q is no IP address, with or without a port", s)
	case ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast():
		return advertised{}, fmt.Errorf("others cannot dial %v", ip)
	}
	return advertised(a), nil
}

// newLog makes the daemon's log.
func newLog(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil || strings.ContainsAny(level, "+-") {
		return nil, oneOf("--log-level", level, logLevels...)
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}

// up runs the node, says when it is ready, and passes SIGHUP on.
func up(ctx context.Context, in *invocation, cfg mesh.Config) error {
	ctx, stop := context.WithCancel(ctx)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	reload := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-hangups:
			case <-ctx.Done():
				return
			}
			select {
			case reload <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	})
	defer wg.Wait()
	defer stop()
	defer signal.Stop(hangups)
	cfg.Reload = reload
	cfg.Ready = func(r mesh.ReadyInfo) {
		fmt.Fprintf(in.Err, "ready name=%s nickname=%s socket=%s\n", r.Name, quote(r.Nickname), quote(r.Socket))
	}
	return mesh.Run(ctx, cfg)
}

// quote puts quotes around a word with anything in it that could end it.
func quote(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
