package cli

import (
	"context"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

func connectCommand() command {
	return command{
		name: "connect", args: "[--replace] PEER...", short: "add peers to dial", client: true, text: `
Adds peers to the list that this host dials, now and at every later start; with --replace they
become the whole list. The list only says whom to dial: hosts that know each other through others
link by themselves.

Examples:
  ripstop connect vm4 192.0.2.9:7000
  ripstop connect --replace vm1 vm2`,
		setup: func(flags *pflag.FlagSet) action {
			replace := flags.Bool("replace", false, "dial these and no others")
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 && !*replace {
					return misuse("which PEER?")
				}
				if err := checkPeers(args); err != nil {
					return err
				}
				client := in.client()
				defer client.Close()
				if err := client.Connect(ctx, api.ConnectRequest{Peers: args, Replace: *replace}); err != nil {
					return err
				}
				return in.done()
			}
		},
	}
}

func forgetCommand() command {
	return command{
		name: "forget", args: "PEER...", short: "dial peers no more", client: true, text: `
Takes peers, as they were given to up or connect, off the list that this host dials. Links that
stand are not closed by it.

Example:
  ripstop forget vm4`,
		setup: func(*pflag.FlagSet) action {
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("which PEER?")
				}
				client := in.client()
				defer client.Close()
				if err := client.Forget(ctx, api.ForgetRequest{Peers: args}); err != nil {
					return err
				}
				return in.done()
			}
		},
	}
}
