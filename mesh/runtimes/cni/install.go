package cni

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/utils"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// Where runtimes look unless they are told otherwise.
const (
	DefaultBinDir  = "/opt/cni/bin"
	DefaultConfDir = "/etc/cni/net.d"
	DefaultNetwork = "ripstop"
)

// Installation says what is installed where.
type Installation struct {
	Program string // path of ripstop
	BinDir  string // for the link to it
	ConfDir string // for the network's configuration
	Network string // its name
	Socket  string // of the daemon
	Gateway bool   // containers reach the world behind their host
}

// listed is a network's configuration as its file has it. Runtimes that know cniVersions
// take the highest one that they speak too.
type listed struct {
	CNIVersion  string   `json:"cniVersion"`
	CNIVersions []string `json:"cniVersions"`
	Name        string   `json:"name"`
	Plugins     []plugin `json:"plugins"`
}

type plugin struct {
	Type             string          `json:"type"`
	Socket           string          `json:"socket,omitempty"`
	IsDefaultGateway bool            `json:"isDefaultGateway,omitempty"`
	IPMasq           bool            `json:"ipMasq,omitempty"`
	Capabilities     map[string]bool `json:"capabilities"`
}

// Link is the path of the plug-in.
func (i Installation) Link() string { return filepath.Join(i.BinDir, Program) }

// Conf is the path of the configuration.
func (i Installation) Conf() string { return filepath.Join(i.ConfDir, "10-"+i.Network+".conflist") }

// Check refuses a network that runtimes would not take.
func (i Installation) Check() error {
	if utils.ValidateNetworkName(i.Network) != nil || len(i.Network) > maxName {
		return fmt.Errorf("network %.200q: letters, digits, dots, hyphens and underscores, %d at most", i.Network, maxName)
	}
	return nil
}

// Make makes the link and then the configuration, since a runtime that finds one takes
// the network for ready. What is there by these names is replaced.
func (i Installation) Make() error {
	text, err := i.network()
	if err == nil {
		err = runtimes.Link(i.Program, i.Link())
	}
	if err == nil {
		err = runtimes.Replace(i.Conf(), func(path string) error { return os.WriteFile(path, text, 0o644) })
	}
	if err != nil {
		return fmt.Errorf("cni: install: %w", err)
	}
	return nil
}

// Remove takes both away, the configuration first. What is not there is no error.
func (i Installation) Remove() error {
	for _, path := range []string{i.Conf(), i.Link()} {
		if err := runtimes.Remove(path); err != nil {
			return fmt.Errorf("cni: remove: %w", err)
		}
	}
	return nil
}

// network is the text of the configuration.
func (i Installation) network() ([]byte, error) {
	p := plugin{Type: Program, IsDefaultGateway: i.Gateway, IPMasq: i.Gateway, Capabilities: make(map[string]bool)}
	for _, name := range capabilities {
		p.Capabilities[name] = true
	}
	if i.Socket != api.DefaultSocket {
		var err error
		if p.Socket, err = filepath.Abs(i.Socket); err != nil {
			return nil, err
		}
	}
	var text bytes.Buffer
	err := runtimes.PrintJSON(&text, listed{CNIVersion: "1.0.0", CNIVersions: versions.SupportedVersions(), Name: i.Network, Plugins: []plugin{p}})
	return text.Bytes(), err
}
