package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/pflag"

	"ripstop/mesh/runtimes/docker"
)

const dockerText = `
Is the network driver and the IPAM driver ripstop of the Docker on this host, until it is ended:
start it before Docker, on every host where containers are to get their place on the network. It has
to be root, in the host's own network namespace. Docker calls the drivers by the name of the socket's
file.

A Docker network of this driver is the part of ripstop's range that --subnet says, or all that
` + "`ripstop up`" + ` chooses out of. Create it once on each host. All of them are one Ethernet. Addresses are
ripstop's own, with --ipv6 also the IPv6 ones. A container's MTU is that of ` + "`ripstop up --mtu`" + `.

There is no gateway: ports are published, and the world beyond is reached, by another network of the
same container, such as bridge. The driver options of one container:

  ripstop.name=NAME         it is found on every host as NAME.ripstop.internal
  ripstop.routes=CIDR       reached through its interface too, several with spaces between

Docker's firewall drops what goes from one container to another over ripstop's bridge. A rule in its
chain DOCKER-USER lets that pass; it goes with the bridge.

Docker's own name server knows the containers of its host; with --dns 169.254.83.53 it asks
ripstop's for all others.

Examples:
  ripstop docker
  docker network create --driver ripstop --ipam-driver ripstop shop
  docker run --network name=shop,driver-opt=ripstop.name=web --dns 169.254.83.53 IMAGE
  docker network create --driver ripstop --ipam-driver ripstop --subnet 10.32.7.0/24 fixed
  docker run --network fixed --ip 10.32.7.1 IMAGE
  docker network connect --driver-opt ripstop.name=db fixed CONTAINER`

func dockerCommand() command {
	return command{
		name: "docker", args: "[flags]", short: "be the network driver of Docker", client: true, mute: true, text: dockerText,
		setup: func(flags *pflag.FlagSet) action {
			socket := flags.String("plugin-socket", docker.DefaultSocket, "`PATH` where Docker finds the driver")
			keep := flags.Bool("keep-firewall", false, "put no rule into Docker's firewall, which may drop frames between containers")
			level, format := logFlags(flags)
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				if err := oneOf("--log-format", *format, logFormats...); err != nil {
					return err
				}
				log, err := newLog(in.Err, *level, *format)
				if err != nil {
					return err
				}
				client := in.client()
				defer client.Close()
				server, err := docker.Listen(docker.Config{Socket: *socket, Client: client, Log: log, KeepFirewall: *keep})
				if errors.Is(err, fs.ErrPermission) {
					return &exitError{code: ExitFailed, err: err, hint: "be root: it makes interfaces for Docker"}
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(in.Err, "ready plugin-socket=%s\n", quote(*socket))
				return server.Run(ctx)
			}
		},
	}
}
