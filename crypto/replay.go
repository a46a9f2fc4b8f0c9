package crypto

// ReplayWindow is how many counters below the highest opened one are still
// accepted, once each.
const ReplayWindow = 16384

// windowWords holds one word more than the window, so that a counter and the
// one ReplayWindow below it never share a word (as in RFC 6479).
const windowWords = ReplayWindow/64 + 1

// replayWindow remembers which counters were opened. The words are a ring: the
// word of counter c is c/64 modulo windowWords.
//
//	 not below            top = highest opened + 1
//	     │◀─── ReplayWindow ───▶│
//	─────┴──────────────────────┴──────────────▶ counter
//	 too old     bit set: replay        new
//
// The zero value is an empty window. Not safe for concurrent use.
type replayWindow struct {
	top  uint64
	bits [windowWords]uint64
}

// fresh reports whether the counter may be opened. It changes nothing.
func (w *replayWindow) fresh(counter uint64) bool {
	switch {
	case counter >= maxMessages:
		return false
	case counter >= w.top:
		return true
	case w.top-counter > ReplayWindow:
		return false
	}
	return w.bits[counter/64%windowWords]&(1<<(counter%64)) == 0
}

// mark notes that the counter was opened; false when it isn't fresh (any more).
func (w *replayWindow) mark(counter uint64) bool {
	if !w.fresh(counter) {
		return false
	}
	word := counter / 64
	if counter >= w.top {
		// Words that come into the window now are cleared; with an empty window
		// none is set.
		if w.top > 0 {
			last := (w.top - 1) / 64
			if word-last >= windowWords {
				w.bits = [windowWords]uint64{}
			} else {
				for i := last + 1; i <= word; i++ {
					w.bits[i%windowWords] = 0
				}
			}
		}
		w.top = counter + 1
	}
	w.bits[word%windowWords] |= 1 << (counter % 64)
	return true
}
