package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
	"ripstop/tun/netns"
)

const attachText = `
Gives a network namespace an interface on the network. NETNS is pid:NUMBER for the namespace of a
process, a path such as /proc/4711/ns/net, or a name as ` + "`ip netns`" + ` has them. This command itself
enters the namespace, so it needs root; attached once, asking the same again changes nothing.

What the interface sends is held to its MAC and its addresses; --allow-mac and --allow-address make
exceptions, for keepalived, macvlan, or a bridge inside.

Without --address the network chooses an address out of its range, and an IPv6 address beside it;
--subnet says out of which part. A given address inside the range is claimed, so that nobody else
gets it; one outside is the operator's own affair. An address that somebody has is refused, unless
--move takes it over from another host. Detached, or gone with its namespace, it is free again.

With --name it is found on every host as NAME.ripstop.internal. --dns writes the resolver file of
the container so that it finds others by name (its programs read that file when they start); detach
puts the old one back, but a --move by another host does not. The container needs files of its own: pid:NUMBER, or a name of
` + "`ip netns`" + `, whose file is /etc/netns/NAME/resolv.conf.

With --gateway it reaches what is behind this host, over IPv4: ` + "`ripstop expose --masquerade`" + ` comes
first, with an address in the same subnet. A namespace that has another default route is refused.

Examples:
  ripstop attach pid:4711
  ripstop attach web --name web1 --subnet net:10.32.2.0/24
  ripstop attach pid:4712 --name web2 --dns --service http:80/tcp
  ripstop attach db --name db1 --sticky  the same address each time, while there are others
  ripstop attach build --gateway
  ripstop attach web2 --address 10.32.0.2/12 --address fd00:1::2/64
  ripstop attach router --address 10.32.0.254/12 --allow-address any --interface lan0`

func attachCommand() command {
	return command{
		name: "attach", args: "NETNS [flags]", short: "give a container its place on the network", client: true, text: attachText,
		setup: func(flags *pflag.FlagSet) action {
			var q api.AttachRequest
			var deadline time.Duration
			var allowMAC, allowAddress, services []text
			flags.Var(list[netip.Prefix]{&q.Addresses, parseAddress, "CIDR"}, "address", "this address and prefix length (repeatable; default one is chosen)")
			flags.Var(list[netip.Prefix]{&q.Subnets, parseSubnet, "SUBNET"}, "subnet", "choose an address out of this part of the range (repeatable)")
			flags.BoolVar(&q.Sticky, "sticky", false, "keep the chosen address for --name while there are others")
			deadlineFlag(flags, &deadline)
			flags.StringVar(&q.Interface, "interface", api.DefaultInterface, "`NAME` the interface inside")
			flags.StringVar(&q.Name, "name", "", "`NAME` the endpoint, for people and for detach")
			flags.StringVar(&q.MAC, "mac", "", "`MAC` its own (default made from the namespace)")
			flags.IntVar(&q.MTU, "mtu", 0, "`BYTES` its largest packet (default the network's)")
			flags.Var(list[netip.Prefix]{&q.Routes, netip.ParsePrefix, "CIDR"}, "route", "send this range through the interface too (repeatable)")
			flags.BoolVar(&q.Gateway, "gateway", false, "a default route by this host, which masquerades (ripstop expose)")
			flags.BoolVar(&q.Move, "move", false, "take over MAC and addresses that another host has")
			flags.Var(list[text]{&services, parseService, "NAME:PORT/PROTOCOL"}, "service", "what it offers, to be found by SRV (repeatable)")
			flags.BoolVar(&q.DNS, "dns", false, "write its resolver file, so that it finds names")
			flags.Var(list[text]{&allowMAC, parseAllowMAC, "MAC|any"}, "allow-mac", "let it send from this MAC too (repeatable)")
			flags.Var(list[text]{&allowAddress, parseAllowAddress, "CIDR|any"}, "allow-address", "let it send from these addresses too (repeatable)")
			return func(ctx context.Context, in *invocation, args []string) error {
				q.Services = stringsOf(services)
				q.AllowMAC, q.AllowAddress = stringsOf(allowMAC), stringsOf(allowAddress)
				q.Deadline = api.Duration(deadline)
				if err := checkAttach(flags, q, args); err != nil {
					return err
				}
				q.Netns = args[0]
				return attachNamespace(ctx, in, q)
			}
		},
	}
}

func checkAttach(flags *pflag.FlagSet, q api.AttachRequest, args []string) error {
	if len(args) == 0 {
		return misuse("which NETNS?")
	}
	if err := noArguments(args[1:]); err != nil {
		return err
	}
	if q.Sticky && q.Name == "" {
		return misuse("--sticky keeps an address for a name: give one by --name")
	}
	if q.MAC != "" {
		mac, err := net.ParseMAC(q.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return misuse("--mac %q: it is no unicast MAC address, such as 02:00:5e:00:53:01", q.MAC)
		}
	}
	if flags.Changed("mtu") {
		if err := mesh.CheckMTU(q.MTU); err != nil {
			return err
		}
	}
	return checkInterface("interface", q.Interface)
}

func parseAllowMAC(s string) (text, error) {
	if s == "any" {
		return "any", nil
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return "", fmt.Errorf("%q is neither a MAC address nor any", s)
	}
	return text(mac.String()), nil
}

// parseService refuses what is no service; the daemon says so in the same words.
func parseService(s string) (text, error) {
	if err := mesh.CheckService(s); err != nil {
		return "", errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("dns: service %q: ", s)))
	}
	return text(s), nil
}

func parseAllowAddress(s string) (text, error) {
	if s == "any" {
		return "any", nil
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return text(netip.PrefixFrom(addr, addr.BitLen()).String()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return "", fmt.Errorf("%q is neither an address, a CIDR nor any", s)
	}
	return text(prefix.Masked().String()), nil
}

// attachNamespace gives a namespace its interface and shows what it is.
func attachNamespace(ctx context.Context, in *invocation, q api.AttachRequest) error {
	client := in.client()
	defer client.Close()
	attached, err := runtimes.Attach(ctx, client, q)
	if err != nil {
		return err
	}
	if attached.Untold != nil {
		fmt.Fprintf(in.Err, "ripstop: attached, but the neighbours were not told: %v\n", attached.Untold)
	}
	return in.printEndpoint(attached.Endpoint)
}

func (in *invocation) printEndpoint(e api.Endpoint) error {
	if in.json {
		return printJSON(in.Out, e)
	}
	where := e.Interface
	if where == "" {
		where = e.Name
	}
	_, err := fmt.Fprintf(in.Out, "%s  %s  %s\n", where, e.MAC, joined(e.Addresses))
	return err
}

func joined(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

func detachCommand() command {
	return command{
		name: "detach", args: "NETNS [flags]", short: "take a container off the network", client: true, text: `
Takes a namespace off the network and removes its interface. NETNS is as for attach, or the
endpoint's name; a namespace that is gone is named as it was named then.

Examples:
  ripstop detach pid:4711
  ripstop detach web1`,
		setup: func(flags *pflag.FlagSet) action {
			iface := flags.String("interface", "", "`NAME` the interface inside, where there are several")
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("which NETNS?")
				}
				if err := noArguments(args[1:]); err != nil {
					return err
				}
				return detachNamespace(ctx, in, args[0], *iface)
			}
		},
	}
}

func detachNamespace(ctx context.Context, in *invocation, arg, iface string) error {
	q := api.DetachRequest{Interface: iface}
	ns, err := netns.Parse(arg)
	switch {
	case err == nil:
		q.NetnsID.Dev, q.NetnsID.Inode = ns.ID()
		ns.Close()
	case errors.Is(err, fs.ErrNotExist): // the daemon knows what was called so
		q.Netns, q.Name = arg, arg
	default:
		return err
	}
	client := in.client()
	defer client.Close()
	if err := runtimes.Detach(ctx, client, q); err != nil {
		return err
	}
	return in.done()
}

func exposeCommand() command {
	return command{
		name: "expose", args: "[flags]", short: "give this host itself an address", client: true, text: `
Gives this host itself an address on the network, so that its own programs and the containers reach
each other: a chosen one, or those given, as ` + "`ripstop attach`" + ` does. A host in routed mode has its
address from ` + "`ripstop up`" + `.

With --masquerade it is also a gateway: what comes from the network's range over its bridge leaves
for other addresses as this host's own, over IPv4. Containers attached here with --gateway have their
default route by it; one attached elsewhere may be given a route here by hand. Nothing behind this host
gets to that range by it but answers, and what a rule of this host publishes (DNAT): what was routed
to the range before is dropped. Where this host does not forward IPv4, that is turned on
(net.ipv4.ip_forward), between its other interfaces too as far as its firewall lets it, and stays on.
It may be added to what stands; ` + "`ripstop hide`" + ` ends both.

Examples:
  ripstop expose
  ripstop expose --masquerade
  ripstop expose --address 10.32.1.1/12`,
		setup: func(flags *pflag.FlagSet) action {
			var q api.ExposeRequest
			var deadline time.Duration
			flags.Var(list[netip.Prefix]{&q.Addresses, parseAddress, "CIDR"}, "address", "this address and prefix length (repeatable; default one is chosen)")
			flags.Var(list[netip.Prefix]{&q.Subnets, parseSubnet, "SUBNET"}, "subnet", "choose an address out of this part of the range (repeatable)")
			flags.BoolVar(&q.Masquerade, "masquerade", false, "be the gateway of what is attached here, too")
			deadlineFlag(flags, &deadline)
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				q.Deadline = api.Duration(deadline)
				client := in.client()
				defer client.Close()
				endpoint, err := client.Expose(ctx, q)
				if err != nil {
					return err
				}
				return in.printEndpoint(endpoint)
			}
		},
	}
}

func hideCommand() command {
	return command{
		name: "hide", short: "take this host's own address away", client: true, text: `
Takes away what expose gave: address and gateway. It is refused while something attached here with
--gateway has its default route by that address: ` + "`ripstop detach`" + ` comes first. A host that is not exposed
stays so, and one that forwards goes on: where nothing else needs that, ` + "`sysctl -w net.ipv4.ip_forward=0`" + `
ends it, without which a later expose lets in what is routed here. A route by this host that somebody made
by hand stays, too, and may go on leading out, unmasqueraded.

Example:
  ripstop hide`,
		setup: func(*pflag.FlagSet) action {
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				client := in.client()
				defer client.Close()
				if err := client.Hide(ctx); err != nil {
					return err
				}
				return in.done()
			}
		},
	}
}
