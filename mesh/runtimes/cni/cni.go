// Package cni is ripstop as a plug-in of container runtimes, by the Container Network
// Interface in its versions 0.3.1 to 1.1.0.
//
//	containerd, CRI-O, Podman, Nomad, cnitool
//	  │ environment  CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS
//	  │ stdin        the network's configuration, with the result of the plug-in before
//	  ▼
//	call ─► ADD      runtimes.Attach, and what came of it: interfaces, addresses, routes, names
//	        DEL      runtimes.Detach; where no daemon answers, the interface goes at least
//	        CHECK    the daemon's word, the interface as it stands, and what ADD answered agree
//	        GC       DEL for what the runtime no longer knows of this network
//	        STATUS   whether ADD would be served
//	  │ stdout       the result, or an error object with exit code 1
//	  ▼
//
// What a runtime attached is found again by its owner, which the daemon keeps:
// "cni:NETWORK/CONTAINER/INTERFACE". So DEL and GC need no namespace and no file of
// their own, and what was attached by hand is never taken for a runtime's.
//
// ripstop chooses the addresses itself: no other plug-in is asked. Routes are those of the
// configuration and the one to the host's name server, all on link. With isDefaultGateway
// there is also a default route by the host, which is made a gateway if it is none.
//
// The protocol's types, and how they change between versions, are the CNI project's own.
// Its skeleton of a main function is not used: it reads its input without a bound, takes
// it from the process alone, and looks at the namespace when the work is done.
//
// Read cni.go first, then call.go and config.go (what comes in), add.go and result.go,
// the other verbs, refusal.go (what goes wrong).
package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"ripstop/mesh/runtimes"
)

// Program is the name under which ripstop is this plug-in.
const Program = "ripstop-cni"

// patience bounds a whole call. The daemon's own deadlines are shorter.
const patience = time.Minute

// versions are those of the protocol that are spoken, oldest first.
var versions = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

// latest is the version of an answer to who named none.
const latest = "1.1.0"

// verb is one of the things a runtime may ask for.
type verb struct {
	since     string // the version that brought it
	container bool   // it is about one container, which must be named
	netns     bool   // whose namespace is needed
	lenient   bool   // a configuration that is wrong by now must not stand in its way
	run       func(*call, context.Context) error
}

var verbs = map[string]verb{
	"ADD":    {since: "0.3.1", container: true, netns: true, run: (*call).add},
	"DEL":    {since: "0.3.1", container: true, lenient: true, run: (*call).del},
	"CHECK":  {since: "0.4.0", container: true, netns: true, run: (*call).check},
	"GC":     {since: "1.1.0", run: (*call).collect},
	"STATUS": {since: "1.1.0", run: (*call).status},
}

const about = `This is ripstop as a CNI plug-in. Container runtimes call it; people install it by
` + "`ripstop cni install`" + `, and read more by ` + "`ripstop help cni`" + `.
It speaks the versions %s.
`

// Main answers one call of a runtime and returns the exit code.
func Main(ctx context.Context, stdio runtimes.Stdio) int {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := &call{Stdio: stdio, version: latest}
	err := c.answer(ctx)
	if err == nil {
		return 0
	}
	var r *types.Error
	if !errors.As(err, &r) {
		r = c.refusal(err)
	}
	if err := runtimes.PrintJSON(stdio.Out, object{c.version, r}); err != nil {
		fmt.Fprintf(stdio.Err, "%s: %v\n", Program, errors.Join(r, err))
	}
	return 1
}

// answer reads the call and does what it asks for.
func (c *call) answer(ctx context.Context) error {
	name, _ := c.LookupEnv("CNI_COMMAND")
	switch name {
	case "":
		_, err := fmt.Fprintf(c.Out, about, strings.Join(versions.SupportedVersions(), ", "))
		return err
	case "VERSION":
		return versions.Encode(c.Out)
	}
	v, ok := verbs[name]
	if !ok {
		return refuse(types.ErrInvalidEnvironmentVariables, "CNI_COMMAND=%.40s: there is no such command", name)
	}
	if err := c.read(ctx, v); err != nil {
		return err
	}
	if c.before(v.since) {
		return refuse(types.ErrIncompatibleCNIVersion, "%s came with version %s: the configuration of network %s has version %s", name, v.since, c.config.Name, c.version)
	}
	defer c.client.Close()
	return v.run(c, ctx)
}

// before reports whether the call's version is an earlier one.
func (c *call) before(since string) bool {
	all := versions.SupportedVersions()
	return slices.Index(all, c.version) < slices.Index(all, since)
}
