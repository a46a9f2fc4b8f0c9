// Package netavark is ripstop as a driver of Podman's networks: a plug-in of netavark,
// which runs plug-ins from its version 1.6 on.
//
//	podman network create -d ripstop NAME       podman run --network NAME, network connect
//	  │ create                                    │ netavark: setup NETNS, teardown NETNS
//	  │ stdin   the network as Podman has it      │ stdin   container, network, what is wished of both
//	  ▼                                           ▼
//	check, and say who chooses addresses        setup     runtimes.Attach, and what came of it
//	  │ stdout  the network as Podman keeps it  teardown  runtimes.Release
//	  ▼                                           │ stdout  interface, addresses, name server
//	                                              ▼
//
// After a failure stdout has {"error": "..."}, and the exit code is 1.
//
// A driver is called as its file is, which for Podman's user is to be "ripstop", as with
// Docker: so the program knows by the directory, too, that it is the plug-in.
//
// Podman gives out addresses itself, each host for itself, unless a network says that
// nobody does: create writes that, and setup asks ripstop. It writes too that the network
// is internal, so that Podman chooses no gateway itself, and that Podman's own name server is
// not wanted. With -o gateway=true setup makes the host one.
//
// A container is found again by its owner, which the daemon keeps:
// "netavark:NETWORK/CONTAINER/INTERFACE".
//
// Read netavark.go first, then network.go and create.go, then call.go, names.go and setup.go.
package netavark

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
	"ripstop/tun/attach"
)

// Driver is the driver's name, and so that of the plug-in's file.
const Driver = "ripstop"

// dirName is what every directory is called in which Podman looks by itself.
const dirName = "netavark"

// Called reports whether a program of that name and path is this plug-in: Podman and
// netavark call plug-ins by their whole path.
func Called(program string) bool {
	return filepath.IsAbs(program) && filepath.Base(program) == Driver && inPlace(filepath.Dir(program))
}

// inPlace reports whether a plug-in in that directory knows what it is.
func inPlace(dir string) bool { return filepath.Base(dir) == dirName }

// patience bounds a whole call. The daemon's own deadlines are shorter.
const patience = time.Minute

// undoTimeout bounds what is undone when nobody waits any more.
const undoTimeout = 5 * time.Second

// maxInput bounds what is read, in bytes.
const maxInput = 1 << 20

const about = `In a directory called ` + dirName + ` this is ripstop as a driver of Podman's networks. Podman calls
it; people install it by ` + "`ripstop netavark install`" + `, and read more by ` + "`ripstop help netavark`" + `.
`

// apiVersion is the version of the protocol.
const apiVersion = "1.0.0"

// info is the answer to info.
type info struct {
	Version    string `json:"version"` // of ripstop
	APIVersion string `json:"api_version"`
}

// call is one call of Podman or netavark.
type call struct {
	runtimes.Stdio
	software string
}

// Main answers one call and returns the exit code. args are what stands behind the
// program's name; software is the version of ripstop.
func Main(ctx context.Context, args []string, stdio runtimes.Stdio, software string) int {
	// A caller that died must not end the call before what it made is undone.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := &call{stdio, software}
	err := c.answer(ctx, args)
	if err == nil {
		return 0
	}
	if failed := runtimes.PrintJSON(stdio.Out, object{refusal(err, rootless())}); failed != nil {
		c.note("%v", errors.Join(err, failed))
	}
	return 1
}

// answer does what the first argument asks for.
func (c *call) answer(ctx context.Context, args []string) error {
	verb, netns := argument(args, 0), argument(args, 1)
	switch verb {
	case "", "help", "-h", "--help":
		_, err := io.WriteString(c.Out, about)
		return err
	case "info":
		return runtimes.PrintJSON(c.Out, info{c.software, apiVersion})
	case "create":
		return c.create(ctx)
	case "setup":
		return c.setup(ctx, netns)
	case "teardown":
		return c.teardown(ctx, netns)
	}
	return fmt.Errorf("%.40q: there is no such command: in a directory called %s this is Podman's plug-in, which has create, setup, teardown and info", verb, dirName)
}

// argument is an argument, or empty where it is missing.
func argument(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

// note says on stderr, which Podman shows, what is no failure.
func (c *call) note(format string, args ...any) {
	fmt.Fprintf(c.Err, Driver+": "+format+"\n", args...)
}

// object is an error as the protocol has it.
type object struct {
	Error string `json:"error"`
}

// allUsers is what the kernel says of the users of a process that is in no user namespace:
// from which to which number, and how many.
const allUsers = "0 0 4294967295"

// rootless reports whether the process is in a user namespace, as those of Podman without
// root are.
func rootless() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != allUsers
}

// refusal is what Podman's user is told of an error from below, with what helps.
func refusal(err error, rootless bool) string {
	switch {
	case errors.Is(err, api.ErrUnreachable) && rootless:
		return fmt.Sprintf("%v: start one by `ripstop up`, and run Podman as root: without, its networks are in a namespace of its own, away from the daemon's", err)
	case errors.Is(err, api.ErrUnreachable) && errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%v: Podman has to run as root", err)
	case errors.Is(err, api.ErrUnreachable):
		return fmt.Sprintf("%v: start one by `ripstop up`, or say by `podman network create -o socket=PATH` where it listens", err)
	case errors.Is(err, attach.ErrInterfaceTaken):
		return "the container has an interface of that name already: choose another one by `--network NAME:interface_name=rip0`"
	}
	return err.Error()
}
