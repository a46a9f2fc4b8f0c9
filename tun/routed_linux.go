package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// Routed is the device of routed mode: wireguard's TUN, with its own offloads
// toward the kernel, behind a station that makes it speak Ethernet. It has one
// queue. Writing a frame overwrites its Ethernet header; a super-frame or an
// unfinished checksum is refused, as its Capabilities say.
type Routed struct {
	name   string
	mtu    int // bytes
	native wgtun.Device
	file   *os.File // native's, for read deadlines: they wake the reader
	closed atomic.Bool
	queue  [1]Queue

	mu      sync.Mutex // guards station and the file's deadline
	station *station
	due     time.Time // when the reader ticks at the latest; zero: when woken

	readMu sync.Mutex // guards the fields below for the length of one ReadBatch
	packet [][]byte   // where native puts packets
	sizes  []int
	spill  [][]byte // buffers for more packets of one super-frame than the batch has room for
	over   []Frame  // packets that went there, not yet handed out

	writers   free[[1][]byte]
	malformed [stationDrops]atomic.Uint64
}

// native needs this much in front of a packet (virtioNetHdrLen in its offload
// code); the Ethernet header has stood there.
const nativeHeader = virtioHeader

// minRoutedMTU is what every IPv4 host must take (RFC 791). With less, native could
// cut a super-frame into more packets than it reads at once, and lose the rest.
const minRoutedMTU = 576

// OpenTUN makes a TUN in the network namespace of the calling thread, with the
// host's overlay addresses and routes on it, and sets it up. The first frames it
// hands over announce the addresses.
func OpenTUN(cfg RoutedConfig) (Device, error) {
	if cfg.MTU == 0 {
		cfg.MTU = ContainerMTU
	}
	err := checkName(cfg.Name)
	if err == nil {
		err = checkMTU(cfg.MTU)
	}
	if err == nil && cfg.MTU < minRoutedMTU {
		err = fmt.Errorf("%w: %d, routed mode needs at least %d", ErrMTU, cfg.MTU, minRoutedMTU)
	}
	if err == nil && !stationMAC(cfg.MAC) {
		err = fmt.Errorf("%s cannot be a host's MAC address", net.HardwareAddr(cfg.MAC[:]))
	}
	if err == nil {
		err = checkRouted(append(append([]netip.Prefix(nil), cfg.Addresses...), cfg.Routes...), cfg.MTU)
	}
	if err == nil {
		if taken := whoHas(cfg.Name); taken != nil {
			err = taken
		}
	}
	if err != nil {
		return nil, fmt.Errorf("tun: open TUN %s: %w", cfg.Name, err)
	}
	file, name, err := openClone(cfg.Name, unix.IFF_TUN|unix.IFF_NO_PI|unix.IFF_VNET_HDR|unix.IFF_TUN_EXCL, unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("tun: open TUN %s: %w", cfg.Name, err)
	}
	r, err := newRouted(file, name, cfg)
	if err != nil {
		return nil, fmt.Errorf("tun: open TUN %s: %w", name, err)
	}
	if err := r.settle(cfg); err != nil {
		r.Close()
		return nil, fmt.Errorf("tun: open TUN %s: %w", name, err)
	}
	return r, nil
}

// checkRouted refuses what cannot be an overlay address or network of a routed host.
func checkRouted(prefixes []netip.Prefix, mtu int) error {
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%v is not an address with a prefix length", p)
		}
		if p.Addr().Is6() && mtu < 1280 {
			return fmt.Errorf("%w: %d, but IPv6 needs at least 1280", ErrMTU, mtu)
		}
	}
	return nil
}

func newRouted(file *os.File, name string, cfg RoutedConfig) (*Routed, error) {
	// Without wireguard's own monitor: it wakes once a second for ever, and Watch
	// does its work.
	fd, err := duplicate(file)
	if err != nil {
		return nil, err
	}
	native, _, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	r := &Routed{name: name, mtu: cfg.MTU, native: native, file: native.File(), station: newStation(cfg.MAC, cfg.Addresses, cfg.Resolve)}
	r.packet = make([][]byte, native.BatchSize())
	r.sizes = make([]int, native.BatchSize())
	r.spill = make([][]byte, native.BatchSize())
	r.writers.make = func() *[1][]byte { return new([1][]byte) }
	r.queue[0] = r
	r.station.announce()
	return r, nil
}

// duplicate gives the descriptor of file to a new owner and closes file.
func duplicate(file *os.File) (int, error) {
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	controlErr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(controlErr, err)
}

// settle puts MTU, addresses and routes on the TUN.
func (r *Routed) settle(cfg RoutedConfig) error {
	if err := settle(r.name, linkSettings{mtu: cfg.MTU, alias: Alias}); err != nil {
		return err
	}
	link, err := linkByName(r.name)
	if err != nil {
		return err
	}
	if err := putAddresses(link, cfg.Addresses); err != nil {
		return err
	}
	for _, p := range cfg.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p.Masked()), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(route); errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add route %s: this host has a route there already: see `ip route show %s`", p, p.Masked())
		} else if err != nil {
			return fmt.Errorf("add route %s: %w", p, privilege(err))
		}
	}
	return nil
}

func putAddresses(link netlink.Link, addresses []netip.Prefix) error {
	for _, p := range addresses {
		address := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD // the overlay settles who has an address
		}
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("add address %s: %w", p, privilege(err))
		}
	}
	return nil
}

// AddAddresses gives the host overlay addresses that it did not have when the device
// was opened, and announces them.
func (r *Routed) AddAddresses(addresses []netip.Prefix) error {
	err := checkRouted(addresses, r.mtu)
	if err == nil {
		var link netlink.Link
		if link, err = linkByName(r.name); err == nil {
			err = putAddresses(link, addresses)
		}
	}
	if err != nil {
		return fmt.Errorf("tun: %s: %w", r.name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.station.addresses = append(slices.Clone(r.station.addresses), addresses...)
	r.station.announce()
	r.wakeLocked()
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Name is the interface's name.
func (r *Routed) Name() string { return r.name }

// Queues is the one queue.
func (r *Routed) Queues() []Queue { return r.queue[:] }

// Capabilities are none: wireguard's TUN cuts and joins by itself.
func (r *Routed) Capabilities() Capabilities { return Capabilities{} }

// Dropped counts what the station dropped, by reason.
func (r *Routed) Dropped() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[string]uint64, stationDrops)
	for reason, name := range stationDropNames {
		counts[name] = r.station.dropped[reason] + r.malformed[reason].Load()
	}
	return counts
}

// Close removes the device.
func (r *Routed) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	return r.native.Close()
}

// ReadBatch implements Queue: what the station has to say, else the packets of one
// read from the kernel.
func (r *Routed) ReadBatch(frames []Frame) (int, error) {
	for i := range frames {
		if len(frames[i].Buf) < BufferSize {
			return 0, fmt.Errorf("tun: read %s: frame buffer of %d bytes, %d needed", r.name, len(frames[i].Buf), BufferSize)
		}
	}
	if len(frames) == 0 {
		return 0, nil
	}
	r.readMu.Lock()
	defer r.readMu.Unlock()
	for {
		if n, err := r.waiting(frames); n > 0 || err != nil {
			return n, err
		}
		n, err := r.fromKernel(frames)
		if n > 0 {
			return n, nil
		}
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, wgtun.ErrTooManySegments):
		case r.closed.Load():
			return 0, fmt.Errorf("tun: read %s: %w", r.name, os.ErrClosed)
		case deleted(err):
			return 0, fmt.Errorf("tun: read %s: %w", r.name, ErrDeleted)
		case isErrno(err):
			return 0, fmt.Errorf("tun: read %s: %w", r.name, err)
		default:
			r.malformed[dropMalformed].Add(1) // native could not make sense of one packet
		}
	}
}

// deleted tells whether a read or write failed because the interface is no more:
// native then says "closed", and the poller, which only knows that the descriptor
// is in error, no longer waits for it.
func deleted(err error) bool {
	var path *os.PathError
	return errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADFD) || errors.As(err, &path) && !isErrno(err)
}

// isErrno tells the kernel's errors from native's opinions of a packet.
func isErrno(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno)
}

// waiting hands out the packets left over from the last read and the station's own
// frames. When there are none it arms the read's deadline for the station's next
// turn, under the lock under which wake sets it, so that no wake is lost.
func (r *Routed) waiting(frames []Frame) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed.Load() {
		return 0, fmt.Errorf("tun: read %s: %w", r.name, os.ErrClosed)
	}
	n := 0
	now := time.Now()
	for n < len(frames) && len(r.over) > 0 {
		b := r.over[0].Buf[r.over[0].Off:][:r.over[0].Len]
		r.over = r.over[1:]
		if r.station.fromHost(now, b) {
			fill(&frames[n], b)
			n++
		}
	}
	due := r.station.tick(now)
	taken := 0
	for n < len(frames) && taken < len(r.station.out) {
		fill(&frames[n], r.station.out[taken])
		taken++
		n++
	}
	rest := copy(r.station.out, r.station.out[taken:])
	clear(r.station.out[rest:])
	r.station.out = r.station.out[:rest]
	if n == 0 && !due.Equal(r.due) {
		r.due = due
		if err := r.file.SetReadDeadline(due); err != nil {
			return 0, nil // closed just now; the read says so
		}
	}
	return n, nil
}

func fill(f *Frame, b []byte) {
	copy(f.Buf[Headroom:], b)
	f.Off, f.Len, f.Offload, f.More = Headroom, len(b), Offload{}, nil
}

// awake is a deadline that has passed: it ends a read at once.
var awake = time.Unix(1, 0)

// wakeLocked ends the reader's wait, so that it looks at the station. r.mu is held.
func (r *Routed) wakeLocked() {
	if !r.due.Equal(awake) {
		r.due = awake
		r.file.SetReadDeadline(awake)
	}
}

// fromKernel waits for packets and puts Ethernet headers on them where they stand.
func (r *Routed) fromKernel(frames []Frame) (int, error) {
	const at = Headroom + etherHeader
	for i := range r.packet {
		if i < len(frames) {
			r.packet[i] = frames[i].Buf[:BufferSize-Tailroom]
			continue
		}
		if r.spill[i] == nil {
			r.spill[i] = make([]byte, BufferSize)
		}
		r.packet[i] = r.spill[i]
	}
	got, err := r.native.Read(r.packet, r.sizes, at)
	clear(r.packet[:min(len(frames), len(r.packet))])
	if got == 0 {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	n := 0
	for i := range min(got, len(frames)) {
		size := etherHeader + r.sizes[i]
		if !r.station.fromHost(now, frames[i].Buf[Headroom:Headroom+size]) {
			continue
		}
		// Frames that were kept leave a gap: the buffers change places.
		frames[n].Buf, frames[i].Buf = frames[i].Buf, frames[n].Buf
		frames[n].Off, frames[n].Len, frames[n].Offload, frames[n].More = Headroom, size, Offload{}, nil
		n++
	}
	r.over = r.over[:0]
	for i := len(frames); i < got; i++ {
		r.over = append(r.over, Frame{Buf: r.spill[i], Off: Headroom, Len: etherHeader + r.sizes[i]})
	}
	return n, nil
}

// WriteBatch implements Queue.
func (r *Routed) WriteBatch(frames []Frame) (int, error) {
	if r.closed.Load() {
		return 0, fmt.Errorf("tun: write %s: %w", r.name, os.ErrClosed)
	}
	one := r.writers.get()
	defer r.writers.put(one)
	var first error
	written := 0
	for i := range frames {
		if err := r.writeFrame(&frames[i], one); err == nil {
			written++
		} else if first == nil {
			first = err
		}
	}
	one[0] = nil
	if first == nil {
		return written, nil
	}
	switch {
	case r.closed.Load():
		first = os.ErrClosed
	case deleted(first):
		first = ErrDeleted
	case errors.Is(first, unix.EIO):
		first = ErrDown
	}
	return written, fmt.Errorf("tun: write %s: %w", r.name, first)
}

var errUnfinished = errors.New("super-frame or unfinished checksum, which this device does not take")

func (r *Routed) writeFrame(f *Frame, one *[1][]byte) error {
	if f.Off < 0 || f.Len <= 0 || f.Off+f.Len > len(f.Buf) || f.Len < etherMinimum {
		return errBounds
	}
	if f.Offload.NeedsChecksum || f.Offload.Type != GSONone {
		return errUnfinished
	}
	b := f.Buf[f.Off : f.Off+f.Len]
	if len(f.More) > 0 {
		b = gather(b, f.More)
	}
	if len(b) > MaxFrame {
		return errTooLong
	}
	if concernsLink(b) {
		r.mu.Lock()
		r.station.fromOverlay(time.Now(), b)
		if len(r.station.out) > 0 {
			r.wakeLocked()
		}
		r.mu.Unlock()
		return nil
	}
	length, drop, ok := r.station.packetIn(b)
	if !ok {
		r.malformed[drop].Add(1)
		return nil // taken, and for another layer to have no use for
	}
	// Native may join what it is given to what stands behind it in the buffer's
	// capacity: there is none. Its header is zeroed, for it does not always write it.
	const start = etherHeader - nativeHeader
	clear(b[start:etherHeader])
	one[0] = b[start : etherHeader+length : etherHeader+length]
	_, err := r.native.Write(one[:], nativeHeader)
	return err
}

// gather is the frame in one piece.
func gather(head []byte, more [][]byte) []byte {
	b := append([]byte(nil), head...)
	for _, piece := range more {
		b = append(b, piece...)
	}
	return b
}
