package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/tun/attach"
)

// stopTimeout is how long stop and reset wait for the daemon's end.
const stopTimeout = 10 * time.Second

func stopCommand() command {
	return command{
		name: "stop", short: "end the daemon", client: true, text: `
Ends the daemon and waits until it has ended. What is attached stays on the bridge: containers of
this host go on talking with one another, and the next ` + "`ripstop up`" + ` takes them over.

Example:
  ripstop stop`,
		setup: func(*pflag.FlagSet) action {
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				if err := end(ctx, in, (*api.Client).Stop); err != nil {
					return err
				}
				return in.done()
			}
		},
	}
}

// done says that a command without an answer is done.
func (in *invocation) done() error {
	if in.json {
		return printJSON(in.Out, head())
	}
	return nil
}

// end asks the daemon to end and waits for the end of its process.
func end(ctx context.Context, in *invocation, ask func(*api.Client, context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	client := in.client()
	defer client.Close()
	// Opened before it is asked, so that its number cannot become somebody else's. A
	// daemon that is not seen as a process, or is this one, is gone when its socket is.
	pid, pidfd, err := client.Process(ctx)
	if errors.Is(err, api.ErrUnreachable) {
		return err
	}
	visible := err == nil && pid != os.Getpid()
	if err == nil {
		defer unix.Close(pidfd)
	}
	if err := ask(client, ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if visible {
			ended := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
			if n, err := unix.Poll(ended, 100); n > 0 && err == nil {
				return nil
			}
			continue
		}
		if _, err := client.Status(ctx); errors.Is(err, api.ErrUnreachable) {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	if visible {
		return fmt.Errorf("the daemon, process %d, has not ended after %v", pid, stopTimeout)
	}
	return fmt.Errorf("the daemon still answers after %v", stopTimeout)
}

// pause waits for d, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func resetCommand() command {
	return command{
		name: "reset", args: "[flags]", short: "remove everything of ripstop from this host", client: true, text: `
Ends the daemon if it runs, takes every container off the network, removes bridge, rules and the
state directory: the host's name, its secret, and the network's admin key if it is here. Resolver files
that attach --dns wrote are put back. Where no daemon runs they are not, and --state and --bridge say
what to remove. A bridge with ports or addresses that ripstop did not give stays, with a word in the
log. It asks first, unless --yes is given.

Examples:
  ripstop reset
  ripstop reset --yes --state /var/lib/ripstop`,
		setup: func(flags *pflag.FlagSet) action {
			var cfg mesh.Config
			var yes bool
			flags.StringVar(&cfg.StateDir, "state", DefaultState, "`DIR` what to remove when no daemon runs")
			flags.StringVar(&cfg.Bridge, "bridge", "ripstop", "`NAME` the bridge to remove when no daemon runs")
			flags.StringVar(&cfg.Device, "device", "ripstop0", "`NAME` its TAP device")
			flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				if !yes {
					fmt.Fprintf(in.Err, "This host leaves the network for good: its name, secret and attachments are removed. Type yes: ")
					var answer string
					if _, err := fmt.Fscanln(in.In, &answer); err != nil && !errors.Is(err, io.EOF) || answer != "yes" {
						return errors.New("nothing was removed")
					}
				}
				places := writtenPlaces(ctx, in)
				err := end(ctx, in, (*api.Client).Reset)
				if errors.Is(err, api.ErrUnreachable) {
					cfg.Socket, cfg.Log = in.socket, slog.New(slog.NewTextHandler(in.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
					stale := errors.Is(err, unix.ECONNREFUSED) // a socket whose daemon was killed
					if err = mesh.Reset(ctx, cfg); err == nil && stale {
						err = os.Remove(in.socket)
					}
				}
				if err != nil {
					return err
				}
				for _, netns := range places {
					if err := attach.RestoreResolver(attach.Plan{Netns: netns}); err != nil {
						return fmt.Errorf("all is removed, but an old resolver file is not back: %w", err)
					}
				}
				return in.done()
			}
		},
	}
}

// writtenPlaces are the namespaces whose resolver files were written, as far as a daemon says.
func writtenPlaces(ctx context.Context, in *invocation) (places []string) {
	client := in.client()
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		return nil
	}
	for _, e := range s.Endpoints {
		if e.DNS {
			places = append(places, e.Netns)
		}
	}
	return places
}
