package transporttest

import (
	"net/netip"
	"time"
)

// firstNATPort is the first port that a NAT gives, far from those that hosts listen on.
const firstNATPort = 20000

// NATConfig describes a NAT.
type NATConfig struct {
	Public netip.Addr    // what the hosts outside see
	Inside []netip.Addr  // the hosts behind it, unreachable otherwise
	Idle   time.Duration // a mapping unused for so long is gone; 0 = never
}

// NAT stands between some hosts and all others. It gives each address and port inside
// one port outside, whoever is written to, and lets in only what comes from an address
// and port that was written to from there ("port restricted", RFC 4787: endpoint
// independent mapping, address and port dependent filtering). Hosts inside reach each
// other directly, but not by the public address. Its fields are guarded by Network.mu.
type NAT struct {
	network *Network
	public  netip.Addr
	inside  map[netip.Addr]bool
	idle    time.Duration
	ports   map[netip.AddrPort]*mapping // by address inside
	back    map[uint16]*mapping         // by port outside
	next    uint16
}

// mapping is one address and port inside, as the outside sees it.
type mapping struct {
	inside netip.AddrPort
	port   uint16
	used   time.Time                    // the last time something left
	peers  map[netip.AddrPort]time.Time // who was written to, and when last
}

// NAT puts a NAT in front of hosts. A host is behind one NAT at most.
func (n *Network) NAT(cfg NATConfig) *NAT {
	n.mu.Lock()
	defer n.mu.Unlock()
	nat := &NAT{network: n, public: cfg.Public, idle: cfg.Idle, inside: make(map[netip.Addr]bool), next: firstNATPort}
	for _, addr := range cfg.Inside {
		nat.inside[addr] = true
	}
	nat.forgetLocked()
	n.nats = append(n.nats, nat)
	return nat
}

// Forget drops all mappings, as a NAT that restarts does. New ones get new ports.
func (t *NAT) Forget() {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	t.forgetLocked()
}

func (t *NAT) forgetLocked() {
	t.ports = make(map[netip.AddrPort]*mapping)
	t.back = make(map[uint16]*mapping)
}

// outLocked is what the outside sees of a datagram from inside to remote.
func (t *NAT) outLocked(from, remote netip.AddrPort, now time.Time) netip.AddrPort {
	m := t.ports[from]
	if m != nil && t.idle != 0 && now.Sub(m.used) > t.idle {
		delete(t.back, m.port)
		m = nil
	}
	if m == nil {
		m = &mapping{inside: from, port: t.next, peers: make(map[netip.AddrPort]time.Time)}
		t.next++
		t.ports[from] = m
		t.back[m.port] = m
	}
	m.used = now
	m.peers[remote] = now
	return netip.AddrPortFrom(t.public, m.port)
}

// inLocked is who inside gets a datagram from remote to the public port, if anybody.
func (t *NAT) inLocked(port uint16, remote netip.AddrPort, now time.Time) (netip.AddrPort, bool) {
	m := t.back[port]
	if m == nil {
		return netip.AddrPort{}, false
	}
	last, known := m.peers[remote]
	if !known || t.idle != 0 && now.Sub(last) > t.idle {
		return netip.AddrPort{}, false
	}
	return m.inside, true
}

// natOfLocked is the NAT that addr is behind, or nil.
func (n *Network) natOfLocked(addr netip.Addr) *NAT {
	for _, t := range n.nats {
		if t.inside[addr] {
			return t
		}
	}
	return nil
}

// translateLocked follows a datagram through the NATs on its way: how the receiver sees
// the sender, and who the receiver is. false: a NAT does not let it through.
func (n *Network) translateLocked(from, to netip.AddrPort, now time.Time) (seen, receiver netip.AddrPort, ok bool) {
	own, other := n.natOfLocked(from.Addr()), n.natOfLocked(to.Addr())
	if other != nil {
		return from, to, own == other // private addresses mean something only inside
	}
	seen = from
	if own != nil {
		seen = own.outLocked(from, to, now)
	}
	for _, t := range n.nats {
		if t.public == to.Addr() {
			receiver, ok = t.inLocked(to.Port(), seen, now)
			return seen, receiver, ok && t != own
		}
	}
	return seen, to, true
}
