package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"ripstop/mesh/runtimes/cni"
)

const cniText = `
Makes this program the CNI plug-in ` + cni.Program + ` of container runtimes: containerd, CRI-O, Nomad,
Podman where it is set to CNI. It is the same file under another name.

  install   make the link in --bin-dir and write the network's configuration into --conf-dir
  remove    take both away; detach nothing

A runtime then gives each container an interface on the network, with an address that ripstop
chooses: no other plug-in is asked for one. A container is found by its name, a pod as POD.NAMESPACE,
where the runtime tells it. The daemon has to run on the host, and the runtime in the host's own
network namespace. Fields of the configuration, all optional:

  socket      path of the daemon's socket
  mtu         largest packet of the containers, in bytes (default the network's)
  interface   name of the interface inside (default as the runtime says); needed behind another
              plug-in that has made that one
  ipam        "subnet": "10.32.2.0/24"                      choose addresses out of this part
              "addresses": [{"address": "10.32.2.7/24"}]    these
              "routes": [{"dst": "10.40.0.0/16"}]           reached through the interface, too
  dns         what containers are told in place of ripstop's name server
  isDefaultGateway   containers reach what is behind their host, over IPv4: a default route by it;
              where it is no gateway it is made one, as by ` + "`ripstop expose --masquerade`" + `
  ipMasq      may stand beside it, and changes nothing

The capabilities ips and mac, and IP and MAC in CNI_ARGS, choose for one container. Without
isDefaultGateway, which install writes with --gateway, a container that is to reach more than the
network gets another interface too. Other plug-ins may stand in front, or behind.

Examples:
  ripstop cni install
  ripstop cni install --gateway
  ripstop cni install --bin-dir /usr/lib/cni --name pods
  ripstop cni remove`

func cniCommand() command {
	return command{
		name: "cni", args: strings.Join(pluginVerbs, "|") + " [flags]", words: pluginVerbs, short: "be the CNI plug-in of container runtimes", client: true, text: cniText,
		setup: func(flags *pflag.FlagSet) action {
			var i cni.Installation
			flags.StringVar(&i.BinDir, "bin-dir", cni.DefaultBinDir, "`DIR` where the runtime looks for plug-ins")
			flags.StringVar(&i.ConfDir, "conf-dir", cni.DefaultConfDir, "`DIR` where it looks for networks")
			flags.BoolVar(&i.Gateway, "gateway", false, "install a network whose containers reach the world behind their host")
			flags.StringVar(&i.Network, "name", cni.DefaultNetwork, "`NAME` what the runtime is to call the network")
			return func(_ context.Context, in *invocation, args []string) error {
				install, err := pluginVerb("cni", args)
				if err != nil {
					return err
				}
				if err := i.Check(); err != nil {
					return misuse("--name: %v", err)
				}
				i.Socket = in.socket
				if install {
					return installCNI(in, i)
				}
				if err := i.Remove(); err != nil {
					return err
				}
				return in.done()
			}
		},
	}
}

func installCNI(in *invocation, i cni.Installation) (err error) {
	if i.Program, err = os.Executable(); err != nil {
		return err
	}
	if err := i.Make(); err != nil {
		return err
	}
	return installed{head(), i.Link(), i.Conf()}.print(in)
}
