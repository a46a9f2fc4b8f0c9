package tun

import (
	"net/netip"
	"time"
)

// MTU bounds of a TAP and of the bridge (ETH_MIN_MTU and MAX_MTU in
// drivers/net/tun.c: 65535 less the Ethernet header), in bytes of IP packet.
const (
	MinMTU = 68
	MaxMTU = 65521
)

// ContainerMTU is the MTU of a container's own interface, and of the TUN in routed
// mode, unless told otherwise: Ethernet's, whatever the underlay carries. TCP is cut at
// the path's size, and what else is too long for it goes in pieces: measured beside 1340,
// which fits into one datagram over an underlay of 1500 bytes, TCP and datagrams of up to
// 1312 bytes were as fast, and those of 1472 bytes, which a container cuts at 1340, three
// times as fast. Hosts of one network need not agree on it.
const ContainerMTU = 1500

// Alias is the interface alias (ip link show: "alias ripstop") by which ripstop
// knows a bridge or port as its own after a restart.
const Alias = "ripstop"

// Ageing is how long the bridge remembers a MAC address it learned.
const Ageing = 300 * time.Second

// Config is what OpenTAP needs to know.
type Config struct {
	Name     string      // interface name, at most 15 bytes; required; a "%d" in it is numbered by the kernel
	MAC      [6]byte     // zero: the kernel's choice
	MTU      int         // bytes; zero: MaxMTU
	Queues   int         // zero: one for each processor Go may use; at most MaxQueues
	Offloads OffloadMask // what to ask the kernel for; zero: plain, finished frames only
}

// MaxQueues is how many queues the kernel gives one TAP (MAX_TAP_QUEUES in
// drivers/net/tun.c).
const MaxQueues = 256

// BridgeConfig is what SetUpBridge needs to know.
type BridgeConfig struct {
	Name string  // interface name; required
	MAC  [6]byte // of the bridge if it is ours; zero: the kernel's choice
	MTU  int     // bytes, of the bridge if it is ours; zero: MaxMTU
	TAP  string  // the TAP to put on the bridge; required
}

// Port is one port of the bridge.
type Port struct {
	Name  string
	Index int // interface index
	MAC   [6]byte
	MTU   int
	Kind  string // "veth", "tun", …, as the kernel names it; "" for hardware
	Alias string
	TAP   bool // it is the TAP of the overlay itself
	Up    bool
}

// RoutedConfig is what OpenTUN needs to know.
type RoutedConfig struct {
	Name      string         // interface name; required
	MAC       [6]byte        // this host's MAC on the overlay; required
	Addresses []netip.Prefix // this host's overlay addresses with the length of their network; none: they come by AddAddresses
	MTU       int            // bytes; zero: ContainerMTU
	Routes    []netip.Prefix // further networks that are reached directly on the overlay

	// Resolve says what the caller knows of an overlay address, so that nothing
	// need be asked; nil: nothing. It is called with a lock held, once a packet at
	// most, and must not block.
	Resolve func(netip.Addr) (mac [6]byte, ok bool)
}

// Addressable is implemented by a device whose host may get its addresses later.
type Addressable interface {
	// AddAddresses gives the host further overlay addresses.
	AddAddresses(addresses []netip.Prefix) error
}

// Dropped is implemented by devices that drop frames themselves.
type Dropped interface {
	// Dropped are the frames dropped since the device was opened, by reason.
	Dropped() map[string]uint64
}

// InterfaceAddr is an address of an interface.
type InterfaceAddr struct {
	Interface string
	Addr      netip.Addr
}
