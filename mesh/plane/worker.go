package plane

import (
	"context"
	"fmt"
	"runtime"

	"ripstop/transport"
	"ripstop/tun"
)

// worker is one goroutine that serves one queue of the device and its share of the
// sockets, whichever is ready, each turn to completion:
//
//	          ┌─▶ tun.Queue     TryReadBatch ──▶ outbound.turn ─┐
//	epoll ────┼─▶ UDP over IPv4 Try ──────────▶ inbound.turn ───┼──▶ epoll
//	          └─▶ UDP over IPv6 Try ──────────▶ inbound.turn ───┘
//
// In traffic it has a thread of its own and sleeps in the kernel, on descriptors that Go's
// poller does not know, without a word to Go's scheduler (poller.wait). Measured on two
// processors: small datagrams at 20 000 a second cost 1.6 times as much processor time
// with goroutines parked in Go's poller, one a descriptor, as with a worker whose every
// sleep is told to the scheduler, and that 1.2 times as much as this one, of which half
// comes of the thread; its idle pings took 1.3 times as long. Polling before the sleep, for
// 20 µs or 200 µs, made neither throughput nor round trips better, and cost that time.
type worker struct {
	p         *Plane
	poller    *poller
	queue     tun.Polled // source 0; nil: none
	out       *outbound
	rehearsal *rehearsal
	receivers []transport.PolledReceiver // source 1 and on
	in        *inbound
	ask       int // messages to ask a receiver for
}

// longTrain is how many frames were a super-frame, or become one, at which a worker goes
// before those whom it wakes up (scheduling).
const longTrain = 16

// leastAsk is how many messages a receiver is asked for where there were few: each has to
// be prepared, whether it is filled or not. After a full answer it is asked for more.
const leastAsk = 4

// maxWorkers bounds the memory of the workers' buffers, 6 MB each at the most.
const maxWorkers = 8

// Workers is how many queues a device should have, and how many sockets an address: one
// for every two processors that Go may use. The other ones are for whom the frames are.
func Workers() int { return min(max(runtime.GOMAXPROCS(0)/2, 1), maxWorkers) }

// newWorkers shares out what can be polled: worker w has queue w, and every receiver
// whose number is w modulo their count.
func (p *Plane) newWorkers() (workers []*worker, err error) {
	defer func() {
		if err != nil {
			closeWorkers(workers)
		}
	}()
	var queues []tun.Polled
	for _, queue := range p.queues {
		if polled, ok := queue.(tun.Polled); ok {
			queues = append(queues, polled)
		}
	}
	var receivers []transport.PolledReceiver
	if socket, ok := p.cfg.Socket.(transport.Polled); ok {
		receivers = socket.Polled()
	}
	for i := range max(len(queues), min(len(receivers), 1)) {
		w := &worker{p: p}
		if w.poller, err = newPoller(p.cfg.Nice); err != nil {
			return workers, err
		}
		workers = append(workers, w)
		if i == len(queues) {
			break // a worker of sockets alone
		}
		w.queue, w.out = queues[i], p.newOutbound(i)
		w.rehearsal = newRehearsal(w.out)
		if err := w.poller.add(w.queue.Descriptor(), 0); err != nil {
			return workers, err
		}
	}
	for i, r := range receivers {
		w := workers[i%len(workers)]
		if w.in == nil {
			w.in, w.ask = p.newInbound(socketBatch), leastAsk
		}
		w.receivers = append(w.receivers, r)
		if err := w.poller.add(r.Descriptor, len(w.receivers)); err != nil {
			return workers, err
		}
	}
	return workers, nil
}

func closeWorkers(workers []*worker) {
	for _, w := range workers {
		w.poller.close()
	}
}

// run serves until the poller is stopped, or the device or a socket fails.
func (w *worker) run() error {
	runtime.LockOSThread() // the thread ends with the goroutine
	for {
		ready, err := w.poller.wait()
		if err != nil {
			return err
		}
		if len(ready) == 0 {
			return context.Canceled
		}
		if err := w.serve(ready); err != nil {
			return err
		}
		w.poller.train = w.tookTrain()
	}
}

// serve looks at what is ready. Where nothing was, it rehearses.
func (w *worker) serve(ready []readiness) error {
	found := 0
	for _, r := range ready {
		var n int
		var err error
		if r.source == 0 {
			n, err = w.outbound(r.broken)
		} else {
			n, err = w.inbound(r.source - 1)
		}
		if err != nil {
			return err
		}
		found += n
	}
	if found == 0 && w.rehearsal != nil {
		w.rehearsal.run()
	}
	return nil
}

// tookTrain reports whether a long train went by since it was asked last.
func (w *worker) tookTrain() bool {
	var out, in bool
	if w.out != nil {
		out, w.out.train = w.out.train, false
	}
	if w.in != nil {
		in, w.in.train = w.in.train, false
	}
	return out || in
}

// outbound serves the queue and returns how many frames there were.
func (w *worker) outbound(broken bool) (int, error) {
	n, err := w.queue.TryReadBatch(w.out.frames)
	if err == nil && n == 0 && broken {
		err = tun.ErrDeleted // which the kernel says to readers when it has taken it apart
	}
	if err != nil {
		return 0, w.p.readError(err)
	}
	if n > 0 {
		w.rehearsal.lone = n == 1
		w.out.turn(n)
	}
	return n, nil
}

// inbound serves a receiver and returns how many messages there were.
func (w *worker) inbound(receiver int) (int, error) {
	n, err := w.receivers[receiver].Try(w.in.msgs[:w.ask])
	if err != nil {
		return 0, w.p.receiveError(err)
	}
	w.ask = min(max(2*n, leastAsk), len(w.in.msgs))
	if n > 0 {
		w.in.turn(n)
	}
	return n, nil
}

// readError is err of the device, nothing but the end of the plane when that has begun.
func (p *Plane) readError(err error) error {
	if p.ending(err) {
		return context.Canceled
	}
	return fmt.Errorf("plane: read %s: %w", p.cfg.Device.Name(), err)
}

// receiveError is the same of a socket.
func (p *Plane) receiveError(err error) error {
	if p.ending(err) {
		return context.Canceled
	}
	return fmt.Errorf("plane: receive: %w", err)
}
