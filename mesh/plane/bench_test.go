package plane

import (
	"strings"
	"testing"
	"time"

	"ripstop/transport"
	"ripstop/tun"
)

// offloading is a sink that takes super-frames.
type offloading struct{ *sink }

func (d offloading) Queues() []tun.Queue { return []tun.Queue{d} }
func (offloading) Capabilities() tun.Capabilities {
	return tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true, UDP: true}
}

// hand is a socket that keeps what is sent until it is handed to who receives it.
type hand struct {
	sinkSocket
	msgs []transport.Message
}

func (h *hand) Send(msgs []transport.Message) int {
	h.msgs = append(h.msgs, msgs...)
	return len(msgs)
}

// to hands over what was sent, in one turn of the receiver.
func (h *hand) to(in *inbound, from *host) {
	for i := range h.msgs {
		m, to := &h.msgs[i], &in.msgs[i]
		to.N, to.Segment, to.Remote = copy(to.Buf, m.Bytes()), m.Segment, from.addr
	}
	n := len(h.msgs)
	h.msgs = h.msgs[:0]
	in.turn(n)
}

// BenchmarkSuperFrame: 64 KB of TCP from the sender's device to the receiver's, all that
// the daemons do but for the kernel's part; over a relay, too, whose own part is told.
func BenchmarkSuperFrame(b *testing.B) {
	for _, policy := range policies() {
		for _, way := range []string{"direct", "relayed"} {
			b.Run(way+"/"+policy.String(), func(b *testing.B) {
				l := newLab(b, 3, policy)
				from, relay, to := l.hosts[0], l.hosts[1], l.hosts[2]
				wires := make([]*hand, len(l.hosts))
				for i, h := range l.hosts {
					wires[i] = &hand{sinkSocket: sinkSocket{new(sink)}}
					cfg := h.cfg
					cfg.Socket, cfg.Device = wires[i], offloading{new(sink)}
					h.Plane = New(cfg)
				}
				l.session(from, to, way == "direct")
				if way == "relayed" {
					l.session(from, relay, true)
					l.session(relay, to, true)
				}
				l.trains(64)
				l.publish()
				out, past, in := from.newOutbound(0), relay.newInbound(socketBatch), to.newInbound(socketBatch)
				const payload = 64000
				frame, o := superFrame(from, to, payload, 1280)
				f := &out.frames[0]
				b.SetBytes(payload)
				var relaying time.Duration
				for b.Loop() {
					f.Off, f.Len, f.Offload = tun.Headroom, copy(f.Buf[tun.Headroom:], frame), o // the kernel's copy
					out.turn(1)
					if way == "relayed" {
						began := time.Now()
						wires[0].to(past, from)
						relaying += time.Since(began)
						wires[1].to(in, relay)
					} else {
						wires[0].to(in, from)
					}
				}
				if relaying > 0 {
					b.ReportMetric(float64(relaying.Nanoseconds())/float64(b.N), "relay-ns/op")
				}
				for name, n := range to.Counters().All() {
					if strings.HasPrefix(name, "drop_") {
						b.Errorf("%s: %d", name, n)
					}
				}
			})
		}
	}
}
