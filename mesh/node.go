package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/mesh/plane"
	"ripstop/mesh/store"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/firewall"
)

// vni is the network that the host's one device belongs to.
const vni route.VNI = 0

// Modes of a host.
const (
	modeBridge = "bridge"
	modeRouted = "routed"
)

// node is one running host.
type node struct {
	// Constant once it runs.
	cfg         Config
	log         *slog.Logger
	started     time.Time
	store       *store.Store
	fresh       []stateFile // of this start: written when the device is there
	kept        bool        // they are
	identity    *crypto.Identity
	network     *crypto.Network
	uid         crypto.UID
	port        uint16
	device      tun.Device
	deviceName  string
	bridge      *tun.Bridge     // nil in routed mode
	firewall    *firewall.Table // nil in routed mode
	socket      transport.Socket
	fragmenting bool // socket cannot set the don't-fragment bit
	control     *transport.Control
	plane       *plane.Plane
	metrics     *api.LoopbackServer // nil: they are read by the socket only
	swtch       *route.Switch
	stop        context.CancelCauseFunc
	wake        chan struct{}     // of capacity 1: the loop has something to do
	datagrams   chan controlEvent // from the plane; what does not fit is dropped, as a lost datagram is

	overlay  atomic.Pointer[overlaySpace]
	carriers sync.Map // crypto.Name to *plane.Peer: whom datagrams over TCP come from, looked up for each

	hostAddresses watchedList[tun.InterfaceAddr]
	bridgePorts   watchedList[tun.Port]
	rules         watched // the port rules

	exposing chan struct{} // of capacity 1: full while the host is exposed by who asked for it

	mu sync.Mutex // guards everything below
	nodeState
}

// nodeState is what node.mu guards.
type nodeState struct {
	gossip       *gossip.State
	damping      *gossip.Damping
	random       *mathrand.Rand
	probes       transport.ProbeBudget // of all peers' paths
	peers        map[crypto.Name]*peer
	byShort      map[crypto.ShortName]*peer
	forgotten    traffic // with peers that are in peers no more
	receivers    map[uint32]*plane.Receiver
	outdated     bool      // the snapshot has to be made anew
	dirty        bool      // and before it graph and table
	moved        bool      // and the endpoint map too
	measured     time.Time // the links' figures were looked at last
	relayed      int       // what passes every link, by relayLimit
	targets      []string  // the operator's, as stored
	filePeers    []string  // the peers file's
	advertised   []netip.AddrPort
	observed     observations // what peers see us as
	table        *route.Table // never nil
	announcer    route.Announcer
	names        naming
	attachments  []*attachment
	reservations map[string]*reservation
	requests     map[uint64]chan transport.Reply
	pinging

	leftovers      []string // host ends on no bridge, as found at the start
	leftoversFound time.Time

	warnings   []string
	ports      []string // of the bridge, as the port rules know them
	rulesFault string   // why the port rules or a gateway's cannot be put back; empty: they are there

	addressing
}

// Run runs a node until ctx ends or the API asks it to stop, and then returns nil.
// What it made is gone by then, except the bridge, attachments and port rules
// while anything is attached. An *ExitError says with which code to exit.
func Run(ctx context.Context, cfg Config) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n := &node{
		cfg:       cfg,
		log:       cfg.Log,
		started:   time.Now(),
		stop:      stop,
		wake:      make(chan struct{}, 1),
		exposing:  make(chan struct{}, 1),
		datagrams: make(chan controlEvent, 256),
		nodeState: nodeState{
			peers:        make(map[crypto.Name]*peer),
			byShort:      make(map[crypto.ShortName]*peer),
			receivers:    make(map[uint32]*plane.Receiver),
			reservations: make(map[string]*reservation),
			requests:     make(map[uint64]chan transport.Reply),
			pinging:      pinging{pings: make(map[uint64]*ping)},
			addressing:   newAddressing(),
		},
	}
	err := n.run(ctx)
	if errors.Is(err, errStop) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// errStop ends a node that was asked to end.
var errStop = errors.New("mesh: stop was asked for")

// errReset ends a node whose host is to be cleaned of it.
var errReset = fmt.Errorf("%w, with everything", errStop)

// run starts the parts in the order in which they need each other, waits, and
// takes them down again.
func (n *node) run(ctx context.Context) (err error) {
	if err := n.cfg.check(); err != nil {
		return err
	}
	if n.store, err = store.Open(n.cfg.StateDir); err != nil {
		return err
	}
	defer func() {
		if n.store.Made() && !n.kept {
			n.clearState() // the next start finds what this one found: nothing
		}
		n.store.Close()
	}()
	if err := n.load(); err != nil {
		return err
	}
	server, err := api.Listen(api.ServerConfig{Socket: n.cfg.Socket, Group: n.cfg.SocketGroup, Backend: (*backend)(n), Log: n.log})
	if err != nil {
		return err
	}
	if err := n.openMetrics(); err != nil {
		server.Close()
		return err
	}
	defer n.closeMetrics()
	if err := n.openUnderlay(); err != nil {
		server.Close()
		return err
	}
	if err := n.openDevice(); err != nil {
		server.Close()
		n.socket.Close()
		n.control.Close()
		return err
	}
	if err := n.keepState(); err != nil {
		server.Close()
		n.socket.Close()
		n.control.Close()
		n.closeDevice(false)
		return err
	}
	n.swtch = route.NewSwitch(route.SwitchConfig{Seed: n.random.Uint64()})
	n.plane = plane.New(plane.Config{
		Device: n.device, Socket: n.socket, Switch: n.swtch, VNI: vni,
		Self: n.identity.Name(), Events: (*planeEvents)(n), Log: n.log, Nice: n.cfg.Nice,
	})
	n.openNames()
	n.adopt()
	n.mu.Lock()
	n.publishSelf(time.Now())
	n.publishNames(time.Now())
	n.dirty, n.moved = true, true
	n.dialTargets()
	n.mu.Unlock()

	var wg sync.WaitGroup
	part := func(run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				n.stop(err)
			}
		})
	}
	part(n.plane.Run)
	part(n.control.Run)
	part(n.loop)
	part(n.keepAddresses)
	part(server.Run)
	part(n.serveMetrics)
	part(n.serveNames)
	part(n.watch)
	part(n.follow(tun.WatchInterfaces, &n.hostAddresses.watched, &n.bridgePorts.watched))
	if n.bridge != nil {
		part(n.follow(tun.WatchRules, &n.rules))
	}
	part(n.numberHost)
	part(n.watchHazard)
	part(n.reload)
	n.ready()
	<-ctx.Done()
	notifySystemd("STOPPING=1")
	wg.Wait()
	err = context.Cause(ctx)
	n.closeNames()
	n.closeDevice(errors.Is(err, errReset))
	if errors.Is(err, errStop) || errors.Is(err, context.Canceled) {
		n.log.Info("stopped")
	} else {
		n.log.Error("stopped", "error", err)
	}
	return err
}

// load reads identity, network, targets and attachments from the state directory,
// and writes nothing there: a start that fails must not decide what the next one does.
func (n *node) load() (err error) {
	if n.identity, err = loadIdentity(n.store, &n.fresh); err != nil {
		return err
	}
	if n.targets, n.filePeers, err = loadTargets(n.store, &n.cfg); err != nil {
		return err
	}
	if n.network, err = loadNetwork(n.store, &n.cfg, len(n.targets)+len(n.filePeers) > 0, &n.fresh); err != nil {
		return err
	}
	if n.attachments, err = loadAttachments(n.store); err != nil {
		return err
	}
	if err := n.loadNames(); err != nil {
		return err
	}
	var b [8]byte
	for n.uid == 0 {
		rand.Read(b[:])
		n.uid = crypto.UID(binary.BigEndian.Uint64(b[:]))
	}
	n.random = mathrand.New(mathrand.NewPCG(uint64(n.uid), uint64(n.started.UnixNano())))
	now := time.Now()
	n.damping = gossip.NewDamping(gossip.DampingConfig{})
	n.table = route.Build(route.TableConfig{Self: n.identity.Name()})
	if err := n.loadNumbering(now); err != nil {
		return err
	}
	n.gossip = gossip.New(gossip.Config{
		Identity: n.identity,
		Network:  n.network.ID(),
		UID:      n.uid,
		Random:   n.random,
		Datasets: []gossip.Dataset{addressData{n.machine, n}},
	}, now)
	return nil
}

// keepState writes what this start has added to the state.
func (n *node) keepState() error {
	if len(n.cfg.Peers) > 0 {
		if err := store.Save(n.store, store.Targets, n.targets); err != nil {
			return err
		}
	}
	if err := store.Save(n.store, store.Numbering, n.numbering); err != nil {
		return err
	}
	for _, f := range n.fresh {
		if err := n.store.WriteFile(f.name, f.text, 0o600); err != nil {
			return err
		}
		if f.name == store.Admin {
			n.log.Info("made a new network; others join it with the secret that `ripstop secret show` prints: put it into a file there and run `ripstop up --secret-file FILE " + n.cfg.Nickname + "`")
		}
	}
	n.kept = true
	return nil
}

// openUnderlay binds the UDP socket and the TCP listener, both on one port.
func (n *node) openUnderlay() error {
	socket, err := transport.Bind(transport.BindConfig{
		Addresses: n.cfg.Bind, Port: n.cfg.Port, Sockets: plane.Workers(),
		NoSegmentation: !n.cfg.offload("gso"), NoGathering: !n.cfg.offload("gro"),
		NoLocal: true, // what is sent leaves from the address that the host's routes choose
	})
	if err != nil {
		return n.underlayError(err)
	}
	n.port = socket.Port()
	if err := socket.SetDF(true); err != nil {
		n.log.Info("datagrams may be fragmented on their way: sizes of paths are not measured", "error", err)
		n.fragmenting = true
	}
	var listen []netip.AddrPort
	for _, a := range n.cfg.Bind {
		listen = append(listen, netip.AddrPortFrom(a, n.port))
	}
	control, err := transport.NewControl(transport.ControlConfig{
		Identity: n.identity,
		Network:  n.network,
		UID:      n.uid,
		Listen:   listen,
		Port:     n.port,
		Hello:    n.hello,
		Handler:  (*connEvents)(n),
		Refuse:   n.inOverlay,
		Log:      n.log,
	})
	if err != nil {
		socket.Close()
		return n.underlayError(err)
	}
	n.socket, n.control = socket, control
	return nil
}

// underlayError adds to an error of a socket which flag helps.
func (n *node) underlayError(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d is taken by another program, or another ripstop: stop it, or choose another port by --port: %w", n.cfg.Port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this host does not have that address: check --bind", err)
	case errors.Is(err, syscall.EINVAL) && slices.ContainsFunc(n.cfg.Bind, func(a netip.Addr) bool { return a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "" }):
		return fmt.Errorf("%w: a link-local address needs its interface, as in --bind fe80::1%%eth0", err)
	}
	return err
}

// ready says that the node works: on stderr by way of cfg.Ready, and to systemd.
func (n *node) ready() {
	if n.cfg.Ready != nil {
		n.cfg.Ready(ReadyInfo{Name: n.identity.Name(), Nickname: n.cfg.Nickname, Socket: n.cfg.Socket})
	}
	notifySystemd(fmt.Sprintf("READY=1\nSTATUS=%s\nMAINPID=%d", n.identity.Name(), os.Getpid()))
}

// poke wakes the loop.
func (n *node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}
