package transport

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	wgconn "golang.zx2c4.com/wireguard/conn"
)

// WireGuardBind is a Socket as wireguard's conn.Bind, so that wireguard's own device can
// run on it. It is a type of its own because both interfaces have a method Send.
type WireGuardBind struct {
	open func(port uint16) (Socket, error)

	mu     sync.RWMutex // guards socket and mark
	socket Socket       // nil while closed
	mark   uint32       // as set on socket
	pool   sync.Pool    // of *[]Message
}

var _ wgconn.Bind = (*WireGuardBind)(nil)

// NewWireGuardBind makes a closed bind whose Open calls open for the socket, e.g.
//
//	NewWireGuardBind(func(port uint16) (Socket, error) { return Bind(BindConfig{Port: port}) })
func NewWireGuardBind(open func(port uint16) (Socket, error)) *WireGuardBind {
	return &WireGuardBind{open: open, pool: sync.Pool{New: func() any {
		msgs := make([]Message, wgconn.IdealBatchSize)
		return &msgs
	}}}
}

// WireGuardEndpoint is a peer's address, and the address of ours that it wrote to.
type WireGuardEndpoint struct {
	remote  netip.AddrPort
	local   netip.Addr
	cleared atomic.Bool // local is to be left to the kernel again
}

var _ wgconn.Endpoint = (*WireGuardEndpoint)(nil)

// Open opens the socket. After a Close it may be opened again.
func (b *WireGuardBind) Open(port uint16) ([]wgconn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		return nil, 0, wgconn.ErrBindAlreadyOpen
	}
	socket, err := b.open(port)
	if err != nil {
		return nil, 0, err
	}
	b.socket, b.mark = socket, 0
	var fns []wgconn.ReceiveFunc
	for _, receive := range socket.Receivers() {
		fns = append(fns, newWireGuardReceiver(receive).receive)
	}
	return fns, socket.Port(), nil
}

// wireGuardBatch is how many messages a receiver takes at once, each with room for a
// train.
const wireGuardBatch = 32

// wireGuardReceiver is a ReceiveFunc as wireguard's, which knows no trains: they are
// received here, and their datagrams copied out one by one.
type wireGuardReceiver struct {
	receiveMessages ReceiveFunc
	msgs            []Message
	// kept are the endpoints of msgs, made once for each address and place, and used as
	// long as they stay the same.
	kept []*WireGuardEndpoint

	next, count int // what waits is msgs[next:count]
	at          int // where the next datagram of msgs[next] begins
}

func newWireGuardReceiver(receive ReceiveFunc) *wireGuardReceiver {
	r := &wireGuardReceiver{
		receiveMessages: receive,
		msgs:            make([]Message, wireGuardBatch),
		kept:            make([]*WireGuardEndpoint, wireGuardBatch),
	}
	for i := range r.msgs {
		r.msgs[i].Buf = make([]byte, 1<<16)
	}
	return r
}

// receive is wireguard's ReceiveFunc. A datagram longer than its buffer has size 0.
func (r *wireGuardReceiver) receive(packets [][]byte, sizes []int, eps []wgconn.Endpoint) (n int, err error) {
	if r.next == r.count {
		r.next, r.at = 0, 0
		if r.count, err = r.receiveMessages(r.msgs); err != nil {
			r.count = 0
			return 0, err
		}
	}
	for ; n < len(packets) && r.next < r.count; n++ {
		m := &r.msgs[r.next]
		size := m.N - r.at
		if m.Segment > 0 {
			size = min(size, m.Segment)
		}
		datagram := m.Buf[r.at : r.at+size]
		if sizes[n] = copy(packets[n], datagram); sizes[n] < len(datagram) {
			sizes[n] = 0
		}
		eps[n] = r.endpoint(r.next)
		if r.at += size; r.at == m.N {
			r.next, r.at = r.next+1, 0
		}
	}
	return n, nil
}

// endpoint is where message i came from.
func (r *wireGuardReceiver) endpoint(i int) *WireGuardEndpoint {
	m, ep := &r.msgs[i], r.kept[i]
	if ep == nil || ep.remote != m.Remote || ep.local != m.Local || ep.cleared.Load() {
		ep = &WireGuardEndpoint{remote: m.Remote, local: m.Local}
		r.kept[i] = ep
	}
	return ep
}

// Send sends bufs to ep and returns the first message's error that had one; the others
// were sent all the same.
func (b *WireGuardBind) Send(bufs [][]byte, ep wgconn.Endpoint) error {
	to, ok := ep.(*WireGuardEndpoint)
	if !ok {
		return wgconn.ErrWrongEndpointType
	}
	b.mu.RLock()
	socket := b.socket
	b.mu.RUnlock()
	if socket == nil {
		return net.ErrClosed
	}
	local := to.local
	if to.cleared.Load() {
		local = netip.Addr{}
	}
	pooled := b.pool.Get().(*[]Message)
	defer b.pool.Put(pooled)
	var first error
	for len(bufs) > 0 {
		n := min(len(bufs), len(*pooled))
		msgs := (*pooled)[:n]
		for i, buf := range bufs[:n] {
			msgs[i] = Message{Buf: buf, N: len(buf), Remote: to.remote, Local: local}
		}
		if socket.Send(msgs) < n && first == nil {
			for i := range msgs {
				if msgs[i].Err != nil {
					first = fmt.Errorf("transport: send to %v: %w", to.remote, msgs[i].Err)
					break
				}
			}
		}
		clear(msgs)
		bufs = bufs[n:]
	}
	return first
}

// ParseEndpoint reads an address with port.
func (b *WireGuardBind) ParseEndpoint(s string) (wgconn.Endpoint, error) {
	remote, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("transport: parse endpoint: %w", err)
	}
	return &WireGuardEndpoint{remote: remote}, nil
}

// BatchSize is the most buffers of a call.
func (b *WireGuardBind) BatchSize() int { return wgconn.IdealBatchSize }

// SetMark sets the firewall mark where the socket has one. What is set already needs no
// privilege to set again.
func (b *WireGuardBind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil || mark == b.mark {
		return nil
	}
	m, ok := b.socket.(interface{ SetMark(mark uint32) error })
	if !ok {
		return syscall.EOPNOTSUPP
	}
	if err := m.SetMark(mark); err != nil {
		return err
	}
	b.mark = mark
	return nil
}

// Close closes the socket.
func (b *WireGuardBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil {
		return nil
	}
	err := b.socket.Close()
	b.socket = nil
	return err
}

// ClearSrc leaves the source address to the kernel again.
func (e *WireGuardEndpoint) ClearSrc() { e.cleared.Store(true) }

// SrcToString is the local address in text.
func (e *WireGuardEndpoint) SrcToString() string { return e.SrcIP().String() }

// DstToString is the peer's address and port in text.
func (e *WireGuardEndpoint) DstToString() string { return e.remote.String() }

// DstToBytes is the peer's address and port in bytes.
func (e *WireGuardEndpoint) DstToBytes() []byte {
	b, _ := e.remote.MarshalBinary()
	return b
}

// DstIP is the peer's address.
func (e *WireGuardEndpoint) DstIP() netip.Addr { return e.remote.Addr() }

// SrcIP is the local address, invalid when it is the kernel's choice.
func (e *WireGuardEndpoint) SrcIP() netip.Addr {
	if e.cleared.Load() {
		return netip.Addr{}
	}
	return e.local
}
