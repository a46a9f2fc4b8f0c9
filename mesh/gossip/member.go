package gossip

import (
	"slices"
	"time"

	"ripstop/crypto"
)

const (
	offerFor   = time.Hour           // since an origin was last a member
	purgeAfter = 24 * time.Hour      // since then
	graveFor   = 30 * 24 * time.Hour // since the purge
	sweepEvery = time.Minute

	// refreshEvery and refreshPer say how often membership is computed again:
	// after the first change at once, then not before these, per host and per known host.
	refreshEvery = 200 * time.Millisecond
	refreshPer   = 2 * time.Millisecond
)

// Member is a host that is a member, or was one less than 24 h ago.
type Member struct {
	Name     crypto.Name
	Keys     crypto.PublicKeys // zero when only others' links name it so far
	Peer     PeerBody          // zero when it has not arrived
	Known    bool              // Peer is there
	Alive    bool              // a member with links reports a link to it, or it is a neighbour
	HasLinks bool              // it is alive and reports links itself
	Gone     time.Time         // when it was last alive; zero while it is
}

// grave is what is left of an origin that was purged.
type grave struct {
	keys  crypto.PublicKeys
	head  head
	until time.Time
}

// dirty notes that membership may have changed.
func (s *State) dirty() { s.stale = true }

// relink notes a new links record of o (old or now may be nil): membership may
// change if o is a member and names somebody who was none, or names somebody no longer.
func (s *State) relink(o *origin, old, now *stored) {
	if s.stale || !o.alive {
		return
	}
	var before []crypto.Name
	if old != nil && old.known && !old.Deleted {
		linkPeers(old.Body, func(n crypto.Name) bool {
			before = append(before, n)
			return true
		})
	}
	kept := 0
	if now != nil && now.known && !now.Deleted {
		linkPeers(now.Body, func(n crypto.Name) bool {
			if i, was := slices.BinarySearchFunc(before, n, crypto.Name.Compare); was && before[i] == n {
				kept++
			} else if _, member := s.alive[n]; !member {
				s.dirty()
			}
			return !s.stale
		})
	}
	if kept < len(before) {
		s.dirty()
	}
}

// links returns the body of the host's links record, nil if there is none.
func (s *State) links(name crypto.Name) []byte {
	if r, there := s.Get(name, KindLinks, ""); there {
		return r.Body
	}
	return nil
}

func (s *State) isAlive(name crypto.Name) bool {
	if s.neighbours[name] != nil {
		return true
	}
	_, alive := s.alive[name]
	return alive
}

// refresh computes the members: whoever is reached from this host over
// neighbours and reported links, nearest first, up to MaxMembers.
func (s *State) refresh() {
	s.stale = false
	s.fresh = s.now.Add(refreshEvery + refreshPer*time.Duration(len(s.order)))
	alive := make(map[crypto.Name]struct{}, len(s.alive)+1)
	excess := make(map[crypto.Name]struct{})
	var level, next []crypto.Name
	known := 0 // of the origins, how many are reached
	reach := func(name crypto.Name) bool {
		if _, there := alive[name]; there {
			return true
		}
		if len(alive) >= s.cfg.MaxMembers {
			if len(excess) < s.cfg.MaxMembers {
				excess[name] = struct{}{}
			}
			return true
		}
		alive[name] = struct{}{}
		next = append(next, name)
		if s.origins[name] != nil {
			known++
		}
		return true
	}
	reach(s.self)
	for _, n := range s.ring {
		reach(n.name)
	}
	for len(next) > 0 {
		level, next = next, level[:0]
		slices.SortFunc(level, crypto.Name.Compare)
		for _, name := range level {
			if links := s.links(name); links != nil {
				linkPeers(links, reach)
			}
		}
	}
	s.stats.ExcessMembers = len(excess)
	changed := len(alive) != len(s.alive)
	for name := range alive {
		if _, was := s.alive[name]; !was {
			changed = true
			break
		}
	}
	s.alive = alive
	for _, o := range s.order {
		_, is := alive[o.name]
		if is != o.alive {
			o.alive = is
			o.deadSince = s.now
			changed = true
		}
	}
	if changed {
		s.members, s.dial = true, nil
	}
}

// offered reports whether o is told to others: for an hour after it was last a member.
func (s *State) offered(o *origin) bool {
	return o.alive || s.now.Sub(o.deadSince) < offerFor
}

// quiet is for how many minutes o has been no member.
func (s *State) quiet(o *origin) uint16 {
	if o.alive {
		return 0
	}
	return uint16(min(s.now.Sub(o.deadSince)/time.Minute, 1<<16-1))
}

// expire purges origins that have been no member for 24 h and forgets graves.
func (s *State) expire() {
	if s.stale {
		s.refresh()
	}
	for _, o := range slices.Clone(s.order) {
		if !o.alive && s.now.Sub(o.deadSince) >= purgeAfter {
			s.stats.Purged++
			s.remove(o)
		}
	}
	for name, g := range s.buried {
		if !s.now.Before(g.until) {
			delete(s.buried, name)
		}
	}
}

// bury keeps o's last head; of more than MaxMembers graves the oldest goes.
func (s *State) bury(o *origin) {
	if len(s.buried) >= s.cfg.MaxMembers {
		var oldest crypto.Name
		for name, g := range s.buried {
			if oldest.IsZero() || g.until.Before(s.buried[oldest].until) ||
				g.until.Equal(s.buried[oldest].until) && name.Compare(oldest) < 0 {
				oldest = name
			}
		}
		delete(s.buried, oldest)
	}
	s.buried[o.name] = &grave{keys: o.keys, head: *o.head, until: s.now.Add(graveFor)}
}

// Members lists this host, all members, and the hosts that were members less
// than 24 h ago, by name.
func (s *State) Members() []Member {
	if s.stale {
		s.refresh()
	}
	list := make([]Member, 0, len(s.order))
	for _, o := range s.order {
		m := Member{Name: o.name, Keys: o.keys, Alive: o.alive}
		if !o.alive {
			m.Gone = o.deadSince
		}
		if r, there := s.Get(o.name, KindPeer, ""); there {
			m.Peer, _ = ParsePeerBody(r.Body)
			m.Known = true
		}
		links := s.links(o.name)
		m.HasLinks = o.alive && len(links) > linksHeaderLen
		list = append(list, m)
	}
	for name := range s.alive {
		if s.origins[name] == nil {
			m := Member{Name: name, Alive: true}
			if n := s.neighbours[name]; n != nil {
				m.Keys = n.keys
			}
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return a.Name.Compare(b.Name) })
	return list
}
