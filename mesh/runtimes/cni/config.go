package cni

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// config is the configuration of a network: what its administrator wrote and what the
// runtime adds to a call.
type config struct {
	head
	Type string     `json:"type"`
	MTU  int        `json:"mtu"` // bytes; 0 = the daemon's
	IPAM ipam       `json:"ipam"`
	DNS  *types.DNS `json:"dns"` // in place of ripstop's name server

	// Named as the CNI project's own bridge plug-in has them. One without the other would be
	// a way out that nothing comes back by, or none.
	IsDefaultGateway bool `json:"isDefaultGateway"` // a default route by this host, which then masquerades
	IPMasq           bool `json:"ipMasq"`           // only with IsDefaultGateway, which does so anyway

	Capabilities map[string]bool `json:"capabilities"`
	Runtime      runtimeConfig   `json:"runtimeConfig"`
	Args         json.RawMessage `json:"args"`       // for whom it may concern
	PrevResult   map[string]any  `json:"prevResult"` // of the plug-in before, or of ADD
	// Valid are the attachments that the runtime has, of type []types.GCAttachment; nil:
	// it did not say, which is not the same as none.
	Valid json.RawMessage `json:"cni.dev/valid-attachments"`
}

// head is what every call needs, whatever else its configuration holds.
type head struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Socket     string `json:"socket"`    // path of the daemon's; empty = api.DefaultSocket
	Interface  string `json:"interface"` // inside; empty = as the runtime names it
}

// ipam says which addresses a container gets; without it the daemon chooses.
type ipam struct {
	Type      string `json:"type"` // ripstop, or empty
	Subnet    string `json:"subnet"`
	Addresses []struct {
		Address string `json:"address"`
	} `json:"addresses"`
	Routes []struct {
		Destination string `json:"dst"`
	} `json:"routes"`
}

// runtimeConfig is what a runtime says of one container, if the capability is set.
type runtimeConfig struct {
	IPs []string `json:"ips"`
	MAC string   `json:"mac"`
}

// capabilities are what may be set.
var capabilities = []string{"ips", "mac"}

const knownFields = "socket, interface, mtu, ipam (subnet, addresses, routes), dns, isDefaultGateway, ipMasq and capabilities (ips, mac)"

// What runtimes add at will begins with reserved. Of these GC needs the list of what is
// valid, which the first runtimes that sent it called otherwise.
const (
	reserved = "cni.dev/"
	keyValid = reserved + "valid-attachments"
	oldValid = reserved + "attachments"
)

// parseConfig reads a configuration. Lenient means that of one that ADD would refuse the
// head is taken as far as it goes. After an error the version is what was asked for.
func parseConfig(b []byte, lenient bool) (config, error) {
	var c config
	if err := json.Unmarshal(b, &c.head); err != nil {
		return c, refuse(types.ErrDecodingFailure, "the configuration is no JSON object of a network: %v", err)
	}
	if !slices.Contains(versions.SupportedVersions(), c.CNIVersion) {
		return c, refuse(types.ErrIncompatibleCNIVersion, "the configuration has cniVersion %.40q: %s knows %s", c.CNIVersion, Program, strings.Join(versions.SupportedVersions(), ", "))
	}
	if err := utils.ValidateNetworkName(c.Name); err != nil || len(c.Name) > maxName {
		return c, invalid("name %.200q: letters, digits, dots, hyphens and underscores, %d at most", c.Name, maxName)
	}
	if !lenient {
		if err := decode(b, &c); err != nil {
			return c, invalid("network %s: %s; known are %s", c.Name, strings.TrimPrefix(err.Error(), "json: "), knownFields)
		}
		if err := c.check(); err != nil {
			return c, err
		}
	}
	if c.Socket == "" {
		c.Socket = api.DefaultSocket
	}
	return c, nil
}

// decode is json.Unmarshal that refuses unknown fields, but for a runtime's own.
func decode(b []byte, c *config) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	if _, ok := fields[keyValid]; !ok && fields[oldValid] != nil {
		fields[keyValid] = fields[oldValid]
	}
	maps.DeleteFunc(fields, func(key string, _ json.RawMessage) bool {
		return strings.HasPrefix(key, reserved) && key != keyValid
	})
	b, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(c)
}

// check refuses what can be seen to be wrong without asking the daemon.
func (c *config) check() error {
	if c.Socket != "" && (!filepath.IsAbs(c.Socket) || len(c.Socket) > maxVariable) {
		return invalid("socket %.200q: the whole path of the daemon's socket, such as %s", c.Socket, api.DefaultSocket)
	}
	if c.IPAM.Type != "" && c.IPAM.Type != "ripstop" {
		return invalid("ipam type %q: ripstop chooses addresses itself: leave ipam out, or give it subnet or addresses without a type", c.IPAM.Type)
	}
	for name, wanted := range c.Capabilities {
		if wanted && !slices.Contains(capabilities, name) {
			return invalid("capability %q: %s has ips and mac; for another put the plug-in that has it behind this one", name, Program)
		}
	}
	if c.Interface != "" {
		if err := utils.ValidateInterfaceName(c.Interface); err != nil {
			return invalid("interface %.40q: %s", c.Interface, err.Msg)
		}
	}
	if c.IPMasq && !c.IsDefaultGateway {
		return invalid("ipMasq without isDefaultGateway: containers have no default route then, so that there is nothing to masquerade: set both, or none")
	}
	if c.MTU < 0 {
		return invalid("mtu %d: a size in bytes", c.MTU)
	}
	return nil
}

// subnets are the parts of the range out of which an address is to come.
func (i ipam) subnets() ([]netip.Prefix, error) {
	if i.Subnet == "" {
		return nil, nil
	}
	p, err := runtimes.ParseSubnet(i.Subnet)
	if err != nil {
		return nil, invalid("ipam %v", err)
	}
	return []netip.Prefix{p}, nil
}

// routes are the networks to be reached through the interface.
func (i ipam) routes() (all []netip.Prefix, err error) {
	for _, r := range i.Routes {
		p, err := runtimes.ParseRoute(r.Destination)
		if err != nil {
			return nil, invalid("ipam %v", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// previous is the result that came with the call; nil where there is none.
func (c *config) previous() (*types100.Result, error) {
	if c.PrevResult == nil {
		return nil, nil
	}
	for key, value := range c.PrevResult {
		if list, ok := value.([]any); ok && slices.Contains(list, nil) { // which the conversion would follow
			return nil, invalid("prevResult: there is a null among %q", key)
		}
	}
	wrapped := types.PluginConf{CNIVersion: c.CNIVersion, RawPrevResult: c.PrevResult}
	if err := version.ParsePrevResult(&wrapped); err != nil {
		return nil, invalid("prevResult: %v", err)
	}
	result, err := types100.NewResultFromResult(wrapped.PrevResult)
	if err != nil {
		return nil, invalid("prevResult: %v", err)
	}
	return result, nil
}
