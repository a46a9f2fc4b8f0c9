package mesh

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"ripstop/crypto"
)

// Config is what `ripstop up` was asked for. Zero values are defaults unless the field says otherwise.
type Config struct {
	StateDir    string // required: state directory, made with mode 0700 if it is not there
	Socket      string // required: path of the local API's unix socket
	SocketGroup string // group that may use the socket, name or number; empty = the daemon's own

	Secret      string // a token rs1-… or a passphrase; empty = SecretFile, else StateDir/network
	SecretFile  string // file holding a token, a network file or a passphrase; empty = StateDir/network
	NetworkName string // which network of a passphrase; empty = "default"

	Port        uint16           // TCP and UDP port of the underlay, 0 = any free one
	Bind        []netip.Addr     // underlay addresses to use; none = all, IPv4 and IPv6
	Advertise   []netip.AddrPort // further underlay addresses to tell peers; port 0 = Port
	Peers       []string         // targets; none = those stored in StateDir
	PeersFile   string           // file of further targets, one a line, `#` starts a comment; read again at Reload
	NoDiscovery bool             // link with targets only, never with peers heard of by gossip

	Nickname    string         // empty = the host's name
	Bridge      string         // bridge to make or to use, bridge mode
	Device      string         // name of the TAP or TUN
	Mode        string         // "bridge" (also when empty) or "routed"
	Address     []netip.Prefix // routed mode: the host's own overlay addresses
	MTU         int            // MTU told to containers, bytes; 0 = attach.ContainerMTU
	StrictPorts bool           // refuse what unmanaged ports of the bridge send

	Log      *slog.Logger    // required
	Ready    func(ReadyInfo) // called once, when the API answers and the node listens; may be nil
	Software string          // version shown to peers
	Reload   <-chan struct{} // each receive reads PeersFile again; may be nil
}

// ReadyInfo is what a node is when it is ready.
type ReadyInfo struct {
	Name     crypto.Name
	Nickname string
	Socket   string
}

// ExitError is an error that ends the program with a code of its own.
type ExitError struct {
	Code int // 6: another running host has this host's identity
	Err  error
}

// Error is the error's own text.
func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Run runs a node until ctx ends or the API asks it to stop, and then returns nil.
func Run(ctx context.Context, cfg Config) error { return errors.ErrUnsupported }
