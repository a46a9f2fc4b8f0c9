package ipam

import (
	"errors"
	"slices"
	"time"
)

var errStopped = errors.New("the host stops here")

// pump does what the machine wants, until it wants nothing or waits for the disk.
func (h *simHost) pump() {
	for h.m != nil && h.w.err == nil {
		r := h.m.Ready(h.w.now)
		if r.Empty() {
			break
		}
		for _, a := range r.Refusals {
			h.answer(a)
		}
		if r.Save == nil && r.Snapshot == nil {
			h.release(&r)
			continue
		}
		if h.m.planted(bugSendBeforeSave) {
			h.release(&Ready{Send: r.Send, Answers: r.Answers})
		}
		h.saving = &r
		run := h.run
		h.w.after(h.w.between(time.Millisecond, 12*time.Millisecond), func() {
			if h.run == run && h.m != nil {
				h.saved(&r)
			}
		})
	}
	if h.m != nil {
		h.follow()
		h.chat()
		h.check()
	}
}

// saved is when a write has ended.
func (h *simHost) saved(r *Ready) {
	if h.paused {
		run := h.run
		h.w.after(100*time.Millisecond, func() {
			if h.run == run && h.m != nil {
				h.saved(r)
			}
		})
		return
	}
	h.saving = nil
	err := h.write(r)
	h.m.Done(h.w.now, err)
	if err == nil {
		h.release(r)
	}
	h.pump()
}

func (h *simHost) write(r *Ready) error {
	if r.Snapshot != nil {
		return h.log.Rotate(r.Snapshot)
	}
	if err := h.log.Append(r.Save); err != nil {
		return err
	}
	return h.log.Sync()
}

func (h *simHost) release(r *Ready) {
	for _, e := range r.Events {
		h.w.note("event %d %v", e.Kind, e.Addr)
	}
	for _, s := range r.Send {
		if len(s.Bytes) > MaxMessage {
			h.w.fail(13, "message of %d bytes, type %d", len(s.Bytes), s.Bytes[1])
		}
		h.w.trace.Write(s.Bytes)
		to := slices.DeleteFunc(slices.Clone(h.w.byName[s.To]), func(o *simHost) bool {
			return o.clone && o.destroyed // whoever has its name is asked from now on
		})
		if len(to) == 0 {
			continue
		}
		o := to[h.w.rng.IntN(len(to))]
		h.transmit(o, func() {
			if err := o.m.Step(h.w.now, h.name, s.Bytes); err != nil {
				h.w.fail(12, "message of type %d: %v", s.Bytes[1], err)
			}
		})
	}
	for _, a := range r.Answers {
		h.answer(a)
	}
	for _, d := range r.Announce {
		if err := h.g.Announce(h.w.now, datasetName, d); err != nil {
			h.w.fail(13, "%v", err)
		}
	}
}

// crash stops a host. What is being written may be durable, torn, or lost.
func (h *simHost) crash(workloadsDie bool) {
	if h.m == nil {
		return
	}
	h.w.note("crash %d", h.i)
	if h.saving != nil { // it came to any of the operations of the write
		left := h.w.rng.IntN(8)
		h.disk.Fail = func(string) error {
			if left--; left < 0 {
				return errStopped
			}
			return nil
		}
		h.write(h.saving)
		h.disk.Fail = nil
	}
	h.disk.Crash(h.w.rng)
	h.m, h.g, h.saving, h.pending = nil, nil, nil, nil
	h.run++
	if workloadsDie {
		for _, a := range sortedAddrs(h.work) {
			h.stop(h.work[a])
		}
	}
}

// answer is what the caller of the API sees.
func (h *simHost) answer(a Answer) {
	r := h.pending[a.Request]
	if r == nil {
		return
	}
	delete(h.pending, a.Request)
	h.w.note("answer %d %v %v", a.Request, a.Addr, a.Err)
	if late := h.w.now.Sub(r.deadline); late > 2*time.Second && !h.bornOld {
		h.w.stats.late++
		h.w.fail(9, "host %d: %s answered %v after its deadline", h.i, r.kind, late)
	}
	if r.kind != "allocate" && r.kind != "claim" {
		return
	}
	if r.kind == "allocate" {
		h.w.stats.requests++
		if r.calm {
			h.w.stats.reachable++
		}
	}
	if a.Err != nil {
		if r.kind == "allocate" {
			h.w.stats.failed++
			var e *Error
			if r.local && errors.As(a.Err, &e) && e.Cause != CauseDisk && e.Cause != CauseLeft && e.Cause != CauseClone {
				h.w.fail(10, "host %d has a free address and answers: %v", h.i, a.Err)
			}
		}
		return
	}
	if r.kind == "allocate" {
		h.w.stats.granted++
		if r.calm && h.w.now.Sub(r.made) <= 5*time.Second {
			h.w.stats.reached++
		}
	}
	addr := a.Addr.Addr()
	if old := h.work[addr]; old != nil {
		if old.id != r.id {
			h.w.fail(1, "host %d: %v is given to %s, and %s has it", h.i, addr, r.id, old.id)
		}
		return
	}
	if t, ok := h.w.ended[addr]; ok && r.kind == "allocate" && !r.sticky && h.w.now.Sub(t) < 59*time.Second {
		l, _ := newLayout(h.w.prefix)
		if b, _ := l.block(addr); !h.w.tainted[b] && !h.w.twofold && len(h.w.maps) < 2 {
			h.w.fail(7, "host %d gives %v %v after its release", h.i, addr, h.w.now.Sub(t))
		}
	}
	if e := h.m.entries[addr]; !h.told.IsZero() && e != nil && e.kind == kindUsed && r.kind == "allocate" &&
		h.w.now.Sub(h.told) > 200*time.Millisecond && h.w.now.Sub(h.told) < 55*time.Second {
		h.w.fail(1, "host %d gives out %v of its own %v after it was told that its disk is old", h.i, addr, h.w.now.Sub(h.told))
	}
	k := &workload{host: h, id: r.id, addr: addr}
	if h.m != nil && h.m.genesis != nil {
		k.origin = h.m.genesis.hash
	}
	h.work[addr] = k
	h.publish()
	h.w.begin(k)
}

func (h *simHost) stop(k *workload) {
	delete(h.work, k.addr)
	w := h.w
	w.live[k.addr] = slices.DeleteFunc(w.live[k.addr], func(o *workload) bool { return o == k })
}
