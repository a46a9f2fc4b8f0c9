package plane

// tally counts what came from one peer until it is added to the peer's own counts, once a
// train and not once a datagram: an addition that other threads see is a dear one.
type tally struct {
	peer                   *Peer // nil: nothing is counted
	frames, bytes, relayed uint64
}

// of is the tally of p; what was counted of another is added up.
func (t *tally) of(p *Peer) *tally {
	if t.peer != p {
		t.flush()
		t.peer = p
	}
	return t
}

// flush adds what is counted to the peer's counts.
func (t *tally) flush() {
	if t.frames > 0 {
		t.peer.FramesIn.Add(t.frames)
		t.peer.BytesIn.Add(t.bytes)
	}
	if t.relayed > 0 {
		t.peer.Relayed.Add(t.relayed)
	}
	*t = tally{}
}
