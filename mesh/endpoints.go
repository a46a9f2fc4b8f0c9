package mesh

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ripstop/crypto"
	"ripstop/mesh/api"
	"ripstop/mesh/gossip"
	"ripstop/mesh/store"
	"ripstop/route"
	"ripstop/tun"
	"ripstop/tun/attach"
	"ripstop/tun/firewall"
)

const (
	reservationLife = 30 * time.Second
	releaseWait     = 2 * time.Second // for the old host of an endpoint that moves
	maxAttachments  = 4096
	maxAddresses    = 16 // of one endpoint
)

// attachment is an endpoint of this host, as the state directory keeps it.
type attachment struct {
	Plan         api.AttachPlan `json:"plan"`
	Name         string         `json:"name,omitempty"`
	Claim        uint64         `json:"claim"`
	AllowMAC     []string       `json:"allow_mac,omitempty"`
	AllowAddress []string       `json:"allow_address,omitempty"`
	Exposed      bool           `json:"exposed,omitempty"` // the host itself, on the bridge
}

// reservation holds an attachment for a caller that is making its interface.
type reservation struct {
	attachment
	expires time.Time
}

// mac is the attachment's MAC; the plan was validated when it was made.
func (a *attachment) mac() route.MAC {
	m, _ := parseMAC(a.Plan.MAC)
	return m
}

// holds reports whether a has that MAC or address.
func (a *attachment) holds(mac route.MAC, addresses []netip.Addr) bool {
	if a.mac() == mac {
		return true
	}
	return slices.ContainsFunc(a.Plan.Addresses, func(p netip.Prefix) bool { return slices.Contains(addresses, p.Addr()) })
}

// addrs are the attachment's addresses without their prefix lengths.
func (a *attachment) addrs() []netip.Addr {
	all := make([]netip.Addr, len(a.Plan.Addresses))
	for i, p := range a.Plan.Addresses {
		all[i] = p.Addr()
	}
	return all
}

// key is what the attachment's record is gossiped under.
func (a *attachment) key() string { return hex.EncodeToString([]byte{0, byte(vni)}) + a.Plan.MAC }

// rule is what the attachment's port may send.
func (a *attachment) rule() firewall.PortRule {
	r := firewall.PortRule{Port: a.Plan.HostInterface, MAC: a.mac(), Addresses: a.addrs()}
	for _, m := range a.AllowMAC {
		if m == "any" {
			r.AnyMAC = true
		} else if mac, err := parseMAC(m); err == nil {
			r.AllowMACs = append(r.AllowMACs, mac)
		}
	}
	for _, p := range a.AllowAddress {
		if p == "any" {
			r.AnyAddress = true
		} else if prefix, err := parsePrefix(p); err == nil {
			r.AllowAddresses = append(r.AllowAddresses, prefix)
		}
	}
	return r
}

// loadAttachments reads what was attached when the daemon last ran.
func loadAttachments(s *store.Store) ([]*attachment, error) {
	return store.Load[[]*attachment](s, store.Endpoints)
}

// saveAttachments keeps what is attached. n.mu must be held.
func (n *node) saveAttachments() error {
	if n.bridge == nil {
		return nil // what a bridge had attached is kept for the next start in bridge mode
	}
	return store.Save(n.store, store.Endpoints, n.attachments)
}

// adopt takes up the attachments of the last run that are still there, and
// forgets the others.
func (n *node) adopt() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bridge == nil {
		mac := n.identity.Name().MAC()
		n.attachments = []*attachment{{Exposed: true, Claim: 1, Plan: api.AttachPlan{
			Interface: n.deviceName, HostInterface: n.deviceName, MAC: macOf(mac), Addresses: n.cfg.Address, MTU: n.cfg.MTU,
		}}}
	}
	before := len(n.attachments)
	n.attachments = slices.DeleteFunc(n.attachments, func(a *attachment) bool {
		err := n.install(a)
		if err != nil {
			n.log.Warn("attachment is gone", "endpoint", a.Name, "interface", a.Plan.HostInterface, "error", err)
			return true
		}
		n.log.Info("attachment adopted", "endpoint", a.Name, "mac", a.Plan.MAC, "interface", a.Plan.HostInterface)
		return false
	})
	for _, a := range n.attachments {
		n.publishAttachment(a, time.Now())
	}
	if len(n.attachments) != before {
		if err := n.saveAttachments(); err != nil {
			n.log.Error("attachments cannot be saved", "error", err)
		}
	}
}

// install makes an attachment's host side what it has to be; it may be so already.
func (n *node) install(a *attachment) error {
	if a.Exposed {
		return n.installExposed(a)
	}
	return attach.EnslavePort(n.cfg.Bridge, a.Plan.HostInterface, a.mac(), n.firewall, a.rule())
}

// installExposed puts the host's own addresses on the bridge, or knows that the
// routed device has them.
func (n *node) installExposed(a *attachment) error {
	if n.bridge == nil {
		return nil
	}
	return attach.Expose(n.cfg.Bridge, a.Plan.Addresses, a.Plan.MTU)
}

// publishAttachment tells the network. n.mu must be held.
func (n *node) publishAttachment(a *attachment, now time.Time) {
	body := gossip.EndpointBody{
		VNI:       uint16(vni),
		MAC:       a.mac(),
		Addresses: a.addrs(),
		Claim:     a.Claim,
	}
	if a.Name != "" {
		body.Names = []string{a.Name}
	}
	n.publish(now, gossip.KindEndpoint, a.key(), body)
	n.dirty, n.moved = true, true
}

// watchAttachments forgets attachments whose host end vanished, because their
// namespace ended, and puts back on the bridge what somebody took off it. ports are
// the bridge's. n.mu must be held.
func (n *node) watchAttachments(now time.Time, ports []string) {
	gone := false
	n.attachments = slices.DeleteFunc(n.attachments, func(a *attachment) bool {
		if a.Exposed || slices.Contains(ports, a.Plan.HostInterface) {
			return false
		}
		if attach.PortExists(a.Plan.HostInterface) {
			n.log.Warn("port was taken off the bridge; putting it back", "interface", a.Plan.HostInterface, "error", n.install(a))
			return false
		}
		n.log.Info("attachment ended with its namespace", "endpoint", a.Name, "mac", a.Plan.MAC)
		n.forgetAttachment(a, now)
		gone = true
		return true
	})
	for id, r := range n.reservations {
		if now.After(r.expires) {
			delete(n.reservations, id)
			n.removePort(&r.attachment)
		}
	}
	if gone {
		if err := n.saveAttachments(); err != nil {
			n.log.Error("attachments cannot be saved", "error", err)
		}
	}
}

// forgetAttachment withdraws a's record and its port rules. n.mu must be held.
func (n *node) forgetAttachment(a *attachment, now time.Time) {
	n.gossip.Withdraw(now, gossip.KindEndpoint, a.key())
	n.removePort(a)
	n.dirty, n.moved = true, true
	n.poke()
}

// removePort takes a's host end off the bridge and its rules away.
func (n *node) removePort(a *attachment) {
	var err error
	switch {
	case n.bridge == nil:
	case a.Exposed:
		err = attach.Hide(n.cfg.Bridge, a.Plan.Addresses)
	default:
		err = attach.ReleasePort(n.cfg.Bridge, a.Plan.HostInterface, n.firewall)
	}
	if err != nil {
		n.log.Warn("port cannot be released", "interface", a.Plan.HostInterface, "error", err)
	}
}

// reserve checks a request against everything that is attached anywhere.
func (n *node) reserve(ctx context.Context, q api.AttachRequest) (api.AttachPlan, error) {
	if n.bridge == nil {
		return api.AttachPlan{}, api.Errorf(api.CodeUnsupported, "this host runs in routed mode: it has no bridge to attach to; run `ripstop up --mode bridge`")
	}
	a, err := n.attachmentFor(q)
	if err != nil {
		return api.AttachPlan{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.attachedAs(q.NetnsID, a.Plan.Interface); old != nil {
		if !slices.Equal(old.Plan.Addresses, a.Plan.Addresses) || q.MAC != "" && old.Plan.MAC != a.Plan.MAC || old.Name != a.Name ||
			!slices.Equal(old.AllowMAC, a.AllowMAC) || !slices.Equal(old.AllowAddress, a.AllowAddress) {
			return api.AttachPlan{}, api.Errorf(api.CodeConflict, "%s of that namespace is attached otherwise, with %s as %s: run `ripstop detach` first, or choose another interface by --interface",
				old.Plan.Interface, old.Plan.MAC, joinPrefixes(old.Plan.Addresses))
		}
		plan := old.Plan
		plan.Existing = true
		return plan, nil
	}
	if len(n.attachments)+len(n.reservations) >= maxAttachments {
		return api.AttachPlan{}, api.Errorf(api.CodeConflict, "this host has %d attachments, the most it takes", maxAttachments)
	}
	if err := n.claim(ctx, &a, q.Move); err != nil {
		return api.AttachPlan{}, err
	}
	var id [16]byte
	rand.Read(id[:])
	a.Plan.ID = hex.EncodeToString(id[:])
	r := &reservation{attachment: a, expires: time.Now().Add(reservationLife)}
	n.reservations[a.Plan.ID] = r
	plan := a.Plan
	plan.Expires = r.expires
	return plan, nil
}

// attachedAs finds the attachment of a namespace's interface. n.mu must be held.
func (n *node) attachedAs(netns api.NetnsID, iface string) *attachment {
	for _, a := range n.attachments {
		if !a.Exposed && a.Plan.NetnsID == netns && a.Plan.Interface == iface && attach.PortExists(a.Plan.HostInterface) {
			return a
		}
	}
	return nil
}

// attachmentFor is the attachment that q asks for, checked for sense.
func (n *node) attachmentFor(q api.AttachRequest) (attachment, error) {
	a := attachment{Name: q.Name, AllowMAC: q.AllowMAC, AllowAddress: q.AllowAddress}
	invalid := func(format string, args ...any) (attachment, error) {
		return attachment{}, api.Errorf(api.CodeInvalid, format, args...)
	}
	if len(q.Addresses) == 0 {
		return invalid("no address: addresses are not chosen automatically yet: give one by --address, such as --address 10.32.0.7/12")
	}
	if len(q.Addresses) > maxAddresses {
		return invalid("%d addresses, %d are the most for one interface", len(q.Addresses), maxAddresses)
	}
	for _, p := range q.Addresses {
		if err := checkAddress(p); err != nil {
			return attachment{}, err
		}
	}
	if q.Name != "" && !validName(q.Name) {
		return invalid("name %q: letters, digits, hyphens and dots, 63 characters at most", q.Name)
	}
	for _, m := range q.AllowMAC {
		if _, err := parseMAC(m); m != "any" && err != nil {
			return invalid("--allow-mac %q: a MAC address or `any`", m)
		}
	}
	for _, p := range q.AllowAddress {
		if _, err := parsePrefix(p); p != "any" && err != nil {
			return invalid("--allow-address %q: an address, a CIDR or `any`", p)
		}
	}
	iface := q.Interface
	if iface == "" {
		iface = api.DefaultInterface
	}
	if len(iface) > 15 || strings.ContainsAny(iface, "/ \t\n:%") || iface == "." || iface == ".." {
		return invalid("interface name %q: at most 15 characters, without spaces, slashes, colons and percent signs", iface)
	}
	sum := placeSum(n.identity.Name(), q.NetnsID, iface)
	mac := route.MAC(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	if q.MAC != "" {
		m, err := parseMAC(q.MAC)
		if err != nil || m[0]&1 != 0 || m == (route.MAC{}) {
			return invalid("--mac %q: a unicast MAC address such as 02:00:5e:00:53:01", q.MAC)
		}
		mac = m
	}
	mtu := q.MTU
	if mtu == 0 {
		mtu = n.cfg.MTU
	}
	if mtu < minMTU || mtu > tun.MaxMTU {
		return invalid("MTU %d: from %d to %d", mtu, minMTU, tun.MaxMTU)
	}
	a.Plan = api.AttachPlan{
		Netns: q.Netns, NetnsID: q.NetnsID,
		Interface: iface, HostInterface: attach.HostPrefix + hex.EncodeToString(sum[6:11]),
		MAC: net.HardwareAddr(mac[:]).String(), Addresses: q.Addresses, Routes: q.Routes,
		MTU: mtu, HostMTU: tun.MaxMTU,
	}
	return a, nil
}

// placeSum is a number for an interface of a namespace of this host: the same
// each time, so that a try that failed is followed by the same one.
func placeSum(self crypto.Name, netns api.NetnsID, iface string) [32]byte {
	b := append([]byte("ripstop attachment v1"), self[:]...)
	b = binary.BigEndian.AppendUint64(b, netns.Dev)
	b = binary.BigEndian.AppendUint64(b, netns.Inode)
	return sha256.Sum256(append(b, iface...))
}

// checkAddress refuses what no interface can have.
func checkAddress(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.Is4In6(), a.Zone() != "":
		return api.Errorf(api.CodeInvalid, "--address %s: not an address that an interface can have", p)
	case a.IsLinkLocalUnicast() && a.Is6():
		return api.Errorf(api.CodeInvalid, "--address %s: link-local addresses come by themselves", p)
	case a.Is4() && p.Bits() < 31 && (a == p.Masked().Addr() || a == lastAddr(p)):
		return api.Errorf(api.CodeInvalid, "--address %s: the network's own or its broadcast address; give one in between", p)
	}
	return nil
}

// lastAddr is the highest address of an IPv4 prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

// claim makes sure that nobody else holds a's MAC and addresses, asks the holder
// to release them when it is a move, and sets the claim number above every one
// seen. n.mu must be held; it is let go of while another host is asked.
func (n *node) claim(ctx context.Context, a *attachment, move bool) error {
	if err := n.free(a); err != nil {
		return err
	}
	mac, addrs := a.mac(), a.addrs()
	for _, e := range n.table.Endpoints() {
		if e.Host == n.identity.Name() || !overlaps(e, mac, addrs) || !n.alive(e.Host) {
			continue
		}
		if !move {
			return api.Errorf(api.CodeConflict, "%s or %s is in use on host %s (%s): detach it there, or take it over by --move",
				a.Plan.MAC, joinPrefixes(a.Plan.Addresses), n.nickname(e.Host), e.Host)
		}
		n.askRelease(ctx, e.Host, mac, addrs)
		if err := n.free(a); err != nil { // somebody here was quicker meanwhile
			return err
		}
	}
	a.Claim = route.NextClaim(n.endpoints(), vni, mac, addrs)
	return nil
}

// free refuses a's MAC and addresses when something on this host has one of them.
// n.mu must be held.
func (n *node) free(a *attachment) error {
	mac, addrs := a.mac(), a.addrs()
	for _, other := range n.attachments {
		if other.holds(mac, addrs) {
			return api.Errorf(api.CodeConflict, "%s or %s is in use on this host, by %s: detach that first", a.Plan.MAC, joinPrefixes(a.Plan.Addresses), other.label())
		}
	}
	for _, r := range n.reservations {
		if r.holds(mac, addrs) && time.Now().Before(r.expires) {
			return api.Errorf(api.CodeConflict, "%s or %s is being attached on this host just now", a.Plan.MAC, joinPrefixes(a.Plan.Addresses))
		}
	}
	return nil
}

// overlaps reports whether e has that MAC or one of the addresses.
func overlaps(e route.Endpoint, mac route.MAC, addrs []netip.Addr) bool {
	return e.VNI == vni && (e.MAC == mac || slices.ContainsFunc(e.Addresses, func(a netip.Addr) bool { return slices.Contains(addrs, a) }))
}

// label is what people know the attachment by.
func (a *attachment) label() string {
	switch {
	case a.Exposed:
		return "the host itself (ripstop expose)"
	case a.Name != "":
		return a.Name
	}
	return a.Plan.Netns
}

// commit puts a reserved attachment's host end on the bridge.
func (n *node) commit(id string) (*attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.reservations[id]
	if r == nil {
		return nil, api.Errorf(api.CodeNotFound, "no such reservation: it is valid for %v; attach again", reservationLife)
	}
	a := &r.attachment
	if err := n.install(a); err != nil {
		return nil, err
	}
	delete(n.reservations, id)
	n.attachments = append(n.attachments, a)
	if err := n.saveAttachments(); err != nil {
		n.attachments = n.attachments[:len(n.attachments)-1]
		n.removePort(a)
		return nil, err
	}
	n.publishAttachment(a, time.Now())
	n.log.Info("attached", "endpoint", a.Name, "mac", a.Plan.MAC, "interface", a.Plan.HostInterface)
	n.poke()
	return a, nil
}

// drop ends an attachment: record, rules, port, state. n.mu must be held.
func (n *node) drop(a *attachment) error {
	n.attachments = slices.DeleteFunc(n.attachments, func(b *attachment) bool { return a == b })
	n.forgetAttachment(a, time.Now())
	n.log.Info("detached", "endpoint", a.Name, "mac", a.Plan.MAC)
	return n.saveAttachments()
}

func parseMAC(s string) (route.MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return route.MAC{}, errors.New("not a MAC address: " + s)
	}
	return route.MAC(hw), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Prefix(a.BitLen())
	}
	return netip.ParsePrefix(s)
}

func joinPrefixes(ps []netip.Prefix) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// validName reports whether s can be an endpoint's name: DNS labels.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
		}) {
			return false
		}
	}
	return true
}
