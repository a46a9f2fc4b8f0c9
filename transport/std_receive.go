package transport

import (
	"errors"
	"net"
	"net/netip"

	wgconn "golang.zx2c4.com/wireguard/conn"
)

// stdReceiver is one receive function of a StdBind. StdNetBind wants its full number of
// buffers, each with room for a train, and may return more datagrams than the caller
// has messages for: they are received here, and wait here.
type stdReceiver struct {
	bind *StdBind
	fn   wgconn.ReceiveFunc
	bufs [][]byte
	size []int
	from []wgconn.Endpoint

	next, count int // what waits is bufs[next:count]
}

func newStdReceiver(bind *StdBind, fn wgconn.ReceiveFunc) *stdReceiver {
	n := bind.bind.BatchSize()
	r := &stdReceiver{
		bind: bind,
		fn:   fn,
		bufs: make([][]byte, n),
		size: make([]int, n),
		from: make([]wgconn.Endpoint, n),
	}
	slab := make([]byte, n*stdBuffer)
	for i := range r.bufs {
		r.bufs[i] = slab[i*stdBuffer : (i+1)*stdBuffer : (i+1)*stdBuffer]
	}
	return r
}

// receive is a ReceiveFunc.
func (r *stdReceiver) receive(msgs []Message) (int, error) {
	if len(msgs) == 0 {
		return 0, errNoMessages
	}
	for {
		if n := r.take(msgs); n > 0 {
			return n, nil
		}
		n, err := r.fn(r.bufs, r.size, r.from)
		switch {
		case r.bind.closed.Load() || errors.Is(err, net.ErrClosed):
			return 0, net.ErrClosed
		case err != nil:
			// A pending error of the socket, or a train of more segments than
			// StdNetBind can take apart: the next receive may go well.
			r.bind.receiveErrors.Add(1)
		default:
			r.next, r.count = 0, n
		}
	}
}

// take moves waiting datagrams to msgs. StdNetBind says size 0 and no endpoint for an
// empty one, which is passed over.
func (r *stdReceiver) take(msgs []Message) (n int) {
	for ; r.next < r.count && n < len(msgs); r.next++ {
		ep, ok := r.from[r.next].(*wgconn.StdNetEndpoint)
		if r.size[r.next] == 0 || !ok {
			continue
		}
		m := &msgs[n]
		m.Err = nil
		m.Segment = 0
		m.Remote = ep.AddrPort
		m.Local = netip.Addr{}
		m.N = copy(m.Buf, r.bufs[r.next][:r.size[r.next]])
		if m.N < r.size[r.next] {
			m.N = 0
			r.bind.truncated.Add(1)
		} else {
			r.bind.received.Add(1)
		}
		n++
	}
	return n
}
