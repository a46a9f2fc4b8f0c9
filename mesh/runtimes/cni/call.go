package cni

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// The most that is read, in bytes: of the configuration, which in GC lists every
// attachment of a host, and of one variable or name.
const (
	maxConfig   = 4 << 20
	maxVariable = 4096
	maxName     = 128
)

// call is one call of a runtime.
type call struct {
	runtimes.Stdio
	version   string // of the protocol, which the answer has too
	container string // CNI_CONTAINERID
	netns     string // CNI_NETNS
	iface     string // CNI_IFNAME
	args      arguments
	config    config
	client    *api.Client
}

// read takes the call from the environment and from stdin.
func (c *call) read(ctx context.Context, v verb) error {
	b, err := c.ReadAll(ctx, maxConfig)
	if errors.Is(err, runtimes.ErrTooLong) {
		return refuse(types.ErrInvalidNetworkConfig, "%v", err)
	}
	if err != nil {
		return refuse(types.ErrIOFailure, "%v", err)
	}
	if c.config, err = parseConfig(b, v.lenient); err != nil {
		c.version = answerVersion(c.config.CNIVersion)
		return err
	}
	c.version = c.config.CNIVersion
	c.client = api.NewClient(c.config.Socket)
	if !v.container {
		return nil
	}
	return c.readContainer(v)
}

// readContainer takes from the environment which container is meant.
func (c *call) readContainer(v verb) error {
	for _, variable := range []struct {
		name  string
		value *string
		most  int
		check func(string) *types.Error // nil: it may be missing
	}{
		{"CNI_CONTAINERID", &c.container, maxName, utils.ValidateContainerID},
		{"CNI_IFNAME", &c.iface, maxName, utils.ValidateInterfaceName},
		{"CNI_NETNS", &c.netns, maxVariable, nil},
	} {
		value, _ := c.LookupEnv(variable.name)
		if len(value) > variable.most {
			return refuse(types.ErrInvalidEnvironmentVariables, "%s has %d bytes, %d are the most", variable.name, len(value), variable.most)
		}
		if variable.check != nil {
			if err := variable.check(value); err != nil {
				return refuse(types.ErrInvalidEnvironmentVariables, "%s=%q: %s", variable.name, value, err.Msg)
			}
		}
		*variable.value = value
	}
	if v.netns && c.netns == "" {
		return refuse(types.ErrInvalidEnvironmentVariables, "CNI_NETNS is missing: it is the path of the container's network namespace")
	}
	text, _ := c.LookupEnv("CNI_ARGS")
	args, err := parseArguments(text)
	if err != nil && !v.lenient {
		return err
	}
	c.args = args
	return nil
}

// inside is the name of the interface in the container. Behind another plug-in, which has
// taken the one that the runtime names, the configuration gives it.
func (c *call) inside() string {
	if c.config.Interface != "" {
		return c.config.Interface
	}
	return c.iface
}

// owner is what the daemon knows the attachment by. None of its parts has a slash.
func (c *call) owner() string {
	return c.ownerOf(types.GCAttachment{ContainerID: c.container, IfName: c.iface})
}

func (c *call) ownerOf(a types.GCAttachment) string {
	return c.ownerPrefix() + a.ContainerID + "/" + a.IfName
}

func (c *call) ownerPrefix() string { return "cni:" + c.config.Name + "/" }

// arguments are what CNI_ARGS says.
type arguments struct {
	ips  []string // addresses, with or without prefix length
	mac  string
	name string // of the pod or container; empty = none
}

// parseArguments reads KEY=VALUE pairs with semicolons between. What an orchestrator
// says beside is nothing to us; another unknown key is refused unless IgnoreUnknown.
func parseArguments(text string) (a arguments, err error) {
	if len(text) > maxVariable {
		return a, refuse(types.ErrInvalidEnvironmentVariables, "CNI_ARGS has %d bytes, %d are the most", len(text), maxVariable)
	}
	unknown, ignore, namespace := "", false, ""
	for pair := range strings.SplitSeq(text, ";") {
		key, value, ok := strings.Cut(pair, "=")
		switch {
		case pair == "":
		case !ok:
			return a, refuse(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: %q is no KEY=VALUE", pair)
		case key == "IgnoreUnknown":
			ignore = value == "1" || strings.EqualFold(value, "true")
		case key == "IP":
			a.ips = strings.Split(value, ",")
		case key == "MAC":
			a.mac = value
		case key == "K8S_POD_NAME":
			a.name = value
		case key == "K8S_POD_NAMESPACE":
			namespace = value
		case strings.HasPrefix(key, "K8S_"):
		default:
			unknown = key
		}
	}
	if unknown != "" && !ignore {
		return a, refuse(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: %q is unknown: known are IP, MAC, K8S_POD_NAME and K8S_POD_NAMESPACE; IgnoreUnknown=1 leaves others out", unknown)
	}
	if a.name != "" && namespace != "" {
		a.name += "." + namespace // two namespaces may have a pod of one name
	}
	return a, nil
}

// gone reports whether err says that what was looked for does not exist.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
