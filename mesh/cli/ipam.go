package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

// deadlineFlag says how long an address may be waited for.
func deadlineFlag(flags *pflag.FlagSet, deadline *time.Duration) {
	flags.DurationVar(deadline, "deadline", 0, "`DURATION` how long to wait for an address, at most 25s (default 10s)")
}

// parseAddress reads an address with its prefix length: 10.32.0.1/12 or ip:10.32.0.1/12.
func parseAddress(s string) (netip.Prefix, error) {
	return netip.ParsePrefix(strings.TrimPrefix(s, "ip:"))
}

// parseSubnet reads a subnet: 10.32.2.0/24 or net:10.32.2.0/24.
func parseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(strings.TrimPrefix(s, "net:"))
	if err == nil && p != p.Masked() {
		err = fmt.Errorf("it has host bits set, %v was meant", p.Masked())
	}
	return p, err
}

const ipamText = `
Gives out addresses of the network's range to what ripstop does not attach itself, and looks after
the address map. What is attached gets its addresses by ` + "`ripstop attach`" + `.

  allocate FOR            an address for something called FOR; asked again, the same one
  claim FOR ADDRESS       this address, if nobody has it
  release FOR [ADDRESS]   give one back, or all that FOR has; it rests for a minute
  start                   begin the address map on this host alone, where a peer that was named at
                          the start will never come: it is said on one host only
  adopt                   where two networks that gave out addresses have met: leave this host's
                          address map for the other one

` + "`ripstop status ipam`" + ` shows the map. Where no address comes in time the exit code is 1 and the text
says who is waited for.

Examples:
  ripstop ipam allocate vm7
  ripstop ipam allocate vm7 --subnet net:10.32.7.0/24 --sticky
  ripstop ipam claim gateway 10.32.0.1/12
  ripstop ipam release vm7`

// ipamVerbs are what ipam does.
var ipamVerbs = []string{"allocate", "claim", "release", "start", "adopt"}

func ipamCommand() command {
	return command{
		name: "ipam", args: strings.Join(ipamVerbs, "|") + " [flags] [FOR [ADDRESS]]", words: ipamVerbs, short: "give out addresses, look after their map", client: true, text: ipamText,
		setup: func(flags *pflag.FlagSet) action {
			var q api.AllocateRequest
			var deadline time.Duration
			flags.Var(single[netip.Prefix]{&q.Subnet, parseSubnet, "SUBNET"}, "subnet", "for allocate: out of this part of the range")
			flags.BoolVar(&q.Sticky, "sticky", false, "keep the address for FOR after release, while there are others")
			deadlineFlag(flags, &deadline)
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("allocate, claim, release, start or adopt is missing")
				}
				verb, args := args[0], args[1:]
				least, most, known := 0, 0, true
				switch verb {
				case "allocate":
					least, most = 1, 1
				case "claim":
					least, most = 2, 2
				case "release":
					least, most = 1, 2
				case "start", "adopt":
				default:
					known = false
				}
				switch {
				case !known:
					return oneOf("ipam", verb, ipamVerbs...)
				case len(args) < least && len(args) == 0:
					return misuse("%s FOR what?", verb)
				case len(args) < least:
					return misuse("%s which ADDRESS?", verb)
				case len(args) > most:
					return noArguments(args[most:])
				case verb != "allocate" && flags.Changed("subnet"):
					return misuse("--subnet is for allocate")
				}
				q.Deadline = api.Duration(deadline)
				if len(args) > 0 {
					q.For = args[0]
				}
				if len(args) > 1 {
					if err := addressArgument(&q, args[1]); err != nil {
						return err
					}
				}
				client := in.client()
				defer client.Close()
				return ipam(ctx, in, client, verb, q)
			}
		},
	}
}

// addressArgument reads an address with or without a prefix length.
func addressArgument(q *api.AllocateRequest, s string) error {
	if p, err := parseAddress(s); err == nil {
		q.Address, q.Subnet = p.Addr(), p.Masked()
		return nil
	}
	a, err := netip.ParseAddr(strings.TrimPrefix(s, "ip:"))
	if err != nil {
		return misuse("%q is no IP address, with or without a prefix length", s)
	}
	q.Address = a
	return nil
}

// ipam does what the verb says.
func ipam(ctx context.Context, in *invocation, client *api.Client, verb string, q api.AllocateRequest) error {
	switch verb {
	case "start", "adopt":
		do := client.Start
		if verb == "adopt" {
			do = client.Adopt
		}
		if err := do(ctx); err != nil {
			return err
		}
		return in.done()
	case "release":
		moved, err := client.Release(ctx, api.ReleaseRequest{For: q.For, Address: q.Address})
		if err != nil || !in.json {
			return err
		}
		return printJSON(in.Out, moved)
	}
	address, err := client.Allocate(ctx, q)
	if err != nil {
		return err
	}
	if in.json {
		return printJSON(in.Out, address)
	}
	_, err = fmt.Fprintln(in.Out, joined(address.Addresses))
	return err
}

func leaveCommand() command {
	return command{
		name: "leave", args: "[flags]", short: "hand this host's part of the range to others", client: true, text: `
Hands the addresses that this host looks after over to other hosts, before it goes for good: then
nothing has to be taken over later by ` + "`ripstop rmpeer`" + `. What is attached here is to be detached first,
and the host hidden. Ends when the others have it on their disks, or at the deadline with what is
lacking; asked again it goes on. Afterwards ` + "`ripstop reset`" + ` removes the rest.

Example:
  ripstop leave && ripstop reset --yes`,
		setup: func(flags *pflag.FlagSet) action {
			var deadline time.Duration
			flags.DurationVar(&deadline, "deadline", 2*time.Minute, "`DURATION` how long to try")
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				if deadline <= 0 {
					return misuse("--deadline %v: it is more than nothing", deadline)
				}
				return leave(ctx, in, api.LeaveRequest{Deadline: api.Duration(deadline)})
			}
		},
	}
}

// leave asks until all is handed over, and says how it goes.
func leave(ctx context.Context, in *invocation, q api.LeaveRequest) error {
	client := in.client()
	defer client.Close()
	told := -1
	for {
		moved, err := client.Leave(ctx, q)
		if err != nil {
			return err
		}
		if moved.Done {
			if in.json {
				return printJSON(in.Out, moved)
			}
			_, err := fmt.Fprintf(in.Out, "%d blocks handed over; `ripstop stop` ends the daemon, `ripstop reset` removes the rest\n", moved.Count)
			return err
		}
		if moved.Count != told {
			told = moved.Count
			fmt.Fprintf(in.Err, "%d blocks handed over, %d to go\n", moved.Count, moved.Left)
		}
	}
}

func rmpeerCommand() command {
	return command{
		name: "rmpeer", args: "HOST [flags]", short: "take over the addresses of a host that is gone for good", client: true, text: `
Says that HOST, by nickname or by name, is destroyed and will never come back: this host takes over
its part of the range. That is the operator's word alone; what was only switched off or cut off needs
nothing of the kind. Other hosts must confirm that they have not heard of it for a minute. Should it
return after all, its addresses that others have meanwhile are fenced, and the rest works.

It asks for the name once more, unless --yes is given. With no other host in reach --force does
without their word: use it only if it is certain that this host is not the one that was cut off.

Examples:
  ripstop rmpeer vm3
  ripstop rmpeer 02:1f:9a:00:4c:77 --yes`,
		setup: func(flags *pflag.FlagSet) action {
			var yes, force bool
			flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
			flags.BoolVar(&force, "force", false, "also where no other host can confirm it")
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("which HOST?")
				}
				if err := noArguments(args[1:]); err != nil {
					return err
				}
				client := in.client()
				defer client.Close()
				if !yes {
					if _, err := client.Remove(ctx, api.RemoveRequest{Host: args[0], Check: true}); err != nil {
						return err
					}
					if err := confirm(in, args[0]); err != nil {
						return err
					}
				}
				moved, err := client.Remove(ctx, api.RemoveRequest{Host: args[0], Force: force})
				if err != nil {
					return err
				}
				if in.json {
					return printJSON(in.Out, moved)
				}
				_, err = fmt.Fprintf(in.Out, "%d blocks of %s taken over\n", moved.Count, args[0])
				return err
			}
		},
	}
}

// confirm wants a word typed once more.
func confirm(in *invocation, word string) error {
	fmt.Fprintf(in.Err, "%s is destroyed and will never come back? Type its name again: ", word)
	line, err := bufio.NewReader(io.LimitReader(in.In, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) || strings.TrimSpace(line) != word {
		if err != nil {
			fmt.Fprintln(in.Err)
		}
		return errors.New("nothing was changed (--yes says it without being asked)")
	}
	return nil
}
