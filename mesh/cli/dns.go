package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

const dnsText = `
Names of the network, as its hosts resolve them. What is attached by --name, and each exposed host
by its nickname, has a name by itself as long as it is there; this command is for further ones.

  dns add NAME ADDRESS...      give a name these addresses, or further ones
  dns remove NAME [ADDRESS...] take them back, or all that were added to it on this host
  dns lookup NAME|ADDRESS      show what a name stands for, or which names an address has

A name is given with or without the domain, which ` + "`ripstop up --dns-domain`" + ` sets. Added names are
kept until they are removed, and known to all hosts while this one is reachable.

Examples:
  ripstop dns add printer 10.32.0.200
  ripstop dns lookup web1
  ripstop dns lookup 10.32.0.2 --json
  ripstop dns remove printer`

// dnsVerbs are what dns does.
var dnsVerbs = []string{"add", "remove", "lookup"}

func dnsCommand() command {
	return command{
		name: "dns", args: strings.Join(dnsVerbs, "|") + " NAME [ADDRESS...] [flags]", words: dnsVerbs, short: "add, remove and look up names", client: true, text: dnsText,
		setup: func(*pflag.FlagSet) action {
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("add, remove or lookup is missing")
				}
				if err := oneOf("dns", args[0], dnsVerbs...); err != nil {
					return err
				}
				if len(args) == 1 {
					return misuse("which NAME?")
				}
				client := in.client()
				defer client.Close()
				if args[0] == "lookup" {
					if err := noArguments(args[2:]); err != nil {
						return err
					}
					return lookup(ctx, in, client, args[1])
				}
				q := api.NameRequest{Name: args[1]}
				for _, text := range args[2:] {
					a, err := netip.ParseAddr(text)
					if err != nil {
						return misuse("%q is no IP address, such as 10.32.0.7", text)
					}
					q.Addresses = append(q.Addresses, a)
				}
				change := client.RemoveName
				if args[0] == "add" {
					if change = client.AddName; len(q.Addresses) == 0 {
						return misuse("which ADDRESS is %s to have?", q.Name)
					}
				}
				if err := change(ctx, q); err != nil {
					return err
				}
				return in.done()
			}
		},
	}
}

// lookup prints what there is of a name or an address, one thing a line.
func lookup(ctx context.Context, in *invocation, client *api.Client, name string) error {
	a, err := client.Lookup(ctx, api.LookupRequest{Name: name})
	if err != nil {
		return err
	}
	if in.json {
		return printJSON(in.Out, a)
	}
	for _, addr := range a.Addresses {
		fmt.Fprintln(in.Out, addr)
	}
	for _, s := range a.Services {
		fmt.Fprintf(in.Out, "%s:%d\n", s.Target, s.Port)
	}
	for _, n := range a.Names {
		fmt.Fprintln(in.Out, n)
	}
	return nil
}

// showNames prints `status dns`.
func showNames(ctx context.Context, in *invocation) error {
	client := in.client()
	defer client.Close()
	n, err := client.Names(ctx)
	if err != nil {
		return err
	}
	if in.json {
		return printJSON(in.Out, n)
	}
	return printNames(in.Out, n)
}

// printNames shows who answers, and the names.
func printNames(w io.Writer, n api.Names) error {
	fmt.Fprintf(w, "domain    %s\n", n.Domain)
	if n.Address != nil {
		fmt.Fprintf(w, "answers   at %s, and at the host's own address where it is exposed\n", n.Address)
	} else {
		fmt.Fprintf(w, "answers   nothing: %s\n", n.Problem)
	}
	upstreams := make([]string, len(n.Upstreams))
	for i, u := range n.Upstreams {
		if upstreams[i] = u.Address.String(); u.Resting {
			upstreams[i] += " (silent)"
		}
	}
	if len(upstreams) == 0 && n.Address != nil {
		upstreams = []string{"none: other names are not resolved"}
	}
	if len(upstreams) > 0 {
		fmt.Fprintf(w, "upstream  %s\n", strings.Join(upstreams, ", "))
	}
	fmt.Fprintln(w)
	t := table{head: []string{"NAME", "KIND", "ADDRESSES", "SERVICE AT", "HOST"}, none: "no names"}
	for _, name := range n.Names {
		addresses := make([]string, len(name.Addresses))
		for i, a := range name.Addresses {
			addresses[i] = a.String()
		}
		at := ""
		if name.Port != 0 {
			at = fmt.Sprintf("%s:%d", name.Target, name.Port)
		}
		t.add(name.Name, name.Kind, strings.Join(addresses, " "), at, nickOr(name.HostNickname, name.Host))
	}
	return t.print(w)
}
