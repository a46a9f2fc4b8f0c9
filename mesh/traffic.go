package mesh

import "ripstop/mesh/plane"

// traffic is how much was exchanged with a peer, or with several: whole frames and
// their bytes, without what sealing adds.
type traffic struct{ framesOut, bytesOut, framesIn, bytesIn uint64 }

// trafficWith is what the plane has counted for p so far.
func trafficWith(p *plane.Peer) traffic {
	return traffic{p.FramesOut.Load(), p.BytesOut.Load(), p.FramesIn.Load(), p.BytesIn.Load()}
}

// plus is the sum of both.
func (t traffic) plus(u traffic) traffic {
	return traffic{t.framesOut + u.framesOut, t.bytesOut + u.bytesOut, t.framesIn + u.framesIn, t.bytesIn + u.bytesIn}
}

// traffic is what was exchanged with all peers since the start, those that are
// forgotten among them: a total that fell would be read as a restart. n.mu must be held.
func (n *node) traffic() traffic {
	all := n.forgotten
	for _, p := range n.peers {
		all = all.plus(trafficWith(p.Peer))
	}
	return all
}
