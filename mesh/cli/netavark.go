package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"ripstop/mesh/runtimes"
	"ripstop/mesh/runtimes/netavark"
)

const netavarkText = `
Makes this program the driver ` + netavark.Driver + ` of Podman's networks (Podman 5, with netavark 1.6 or later): a
plug-in of netavark, the same file under another path.

  install   make the link in --plugin-dir
  remove    take it away; detach nothing

A network of Podman's is then made on each host, and its containers reach each other on all:

  podman network create -d ` + netavark.Driver + ` pods
  podman run -d --name db --network pods IMAGE

A container gets an address that ripstop chooses, and is found on every host by its name and its
aliases, underscores in them as hyphens. The daemon has to run on the host, and Podman as root in the
host's own network namespace. What podman network create may say, all optional:

  --subnet 10.32.2.0/24        choose addresses out of this part of ripstop's range; the same on each
                               host, since containers reach those of their own subnet; repeatable
  -o routes=10.40.0.0/16       reached through the interface, too; more behind commas
  -o mtu=1400                  largest packet of the containers, in bytes (default the network's)
  -o gateway=true              they reach what is behind their host, over IPv4, by a default route: as
                               by ` + "`ripstop expose --masquerade`" + ` and ` + "`ripstop attach --gateway`" + `
  -o dns=none                  do not tell them of ripstop's name server
  -o ports=ignore              another network of the container publishes its ports
  -o socket=PATH               the daemon's socket

and podman run: --ip, --ip6, --mac-address, --network pods:alias=shop,interface_name=rip0. No port is
published: for that, or for the world without -o gateway=true, a container gets another network of
Podman's too. Networks of this driver are not shut off from each other.

Examples:
  ripstop netavark install
  ripstop netavark install --plugin-dir /usr/lib/netavark
  ripstop netavark remove
  podman network create -d ` + netavark.Driver + ` --subnet 10.32.2.0/24 pods
  podman run --rm --network pods --ip 10.32.2.7 --network-alias shop IMAGE`

func netavarkCommand() command {
	return command{
		name: "netavark", args: strings.Join(pluginVerbs, "|") + " [flags]", words: pluginVerbs, short: "be a driver of Podman's networks", text: netavarkText,
		setup: func(flags *pflag.FlagSet) action {
			dir := flags.String("plugin-dir", netavark.DefaultDir, "`DIR` where Podman looks for plug-ins")
			return func(_ context.Context, in *invocation, args []string) error {
				install, err := pluginVerb("netavark", args)
				if err != nil {
					return err
				}
				link, err := netavark.Link(*dir)
				if err != nil {
					return misuse("--plugin-dir %v", err)
				}
				if install {
					return installNetavark(in, link)
				}
				if err := runtimes.Remove(link); err != nil {
					return fmt.Errorf("netavark: remove: %w", err)
				}
				return in.done()
			}
		},
	}
}

func installNetavark(in *invocation, link string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if err := runtimes.Link(program, link); err != nil {
		return fmt.Errorf("netavark: install: %w", err)
	}
	if setting := netavark.Setting(filepath.Dir(link)); setting != "" {
		fmt.Fprintf(in.Err, "Podman does not look there by itself; in /etc/containers/containers.conf it takes\n\n%s\n", setting)
	}
	return installed{versioned: head(), Plugin: link}.print(in)
}
