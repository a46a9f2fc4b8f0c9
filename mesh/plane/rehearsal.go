package plane

import (
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
)

// rehearsal takes the last frame of a queue, or what is left of it in its buffer, the way of
// a turn once more, up to the seal, and lets nothing out, so that the next frame finds code, tables and keys near the
// processor:
//
//	frames[0] ──onlooker──▶ to a peer on a direct path? ──▶ arena ──▶ seal ──▶ nothing
//
// It learns nothing, counts nothing and wakes nobody. What it uses up is a counter of the
// session, as a datagram does that is lost.
type rehearsal struct {
	out      *outbound
	onlooker *route.Switch
	lone     bool // the last turn was of one frame
}

func newRehearsal(out *outbound) *rehearsal {
	return &rehearsal{out: out, onlooker: out.p.cfg.Switch.Onlooker()}
}

// run rehearses. The arena is empty before and after.
func (r *rehearsal) run() {
	out := r.out
	s, f := out.p.snapshot.Load(), &out.frames[0]
	if !r.lone || s.Table == nil || f.Offload.Type != tun.GSONone {
		return
	}
	d, _ := r.onlooker.FromLocal(s.Table, out.p.Now(), out.p.cfg.VNI, f.Bytes(), nil)
	if d.Verdict != route.ToPeer {
		return
	}
	to := s.outlet(d.Peer)
	if to == nil || to.Session == nil || s.hop(to, d.Flow) != to || overhead+f.Len > limit(to, to) {
		return
	}
	out.plain(to, to, d.Flow, f.Bytes(), transport.RecordPartial)
	out.seal(&out.open)
	out.open, out.at = datagram{}, 0
}
