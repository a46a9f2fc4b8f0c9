package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ripstop/crypto"
	"ripstop/route"
	"ripstop/transport"
	"ripstop/tun"
	"ripstop/tun/netns"
	"ripstop/tun/tuntest"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// source is a pipe that stands for a queue or a socket: what is read from it is told.
type source struct {
	tun.Queue
	r, w *os.File
	name string
	took chan<- string
}

func newSource(t *testing.T, name string, took chan<- string) *source {
	r, w := pipe(t)
	return &source{r: r, w: w, name: name, took: took}
}

func (s *source) Descriptor() syscall.RawConn {
	raw, err := s.r.SyscallConn()
	if err != nil {
		panic(err)
	}
	return raw
}

// take tells what it reads, and nothing when it is looked at in vain.
func (s *source) take() (n int, err error) {
	err = errors.Join(s.Descriptor().Control(func(fd uintptr) {
		if ready, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); ready > 0 {
			n, err = unix.Read(int(fd), make([]byte, 1))
		}
	}), err)
	if n > 0 {
		s.took <- s.name
	}
	return 0, err
}

func (s *source) TryReadBatch([]tun.Frame) (int, error) { return s.take() }

// fakeDevice has the queues given, fakeSocket the receivers.
type fakeDevice struct {
	*tuntest.Device
	queues []tun.Queue
}

func (d fakeDevice) Queues() []tun.Queue { return d.queues }

type fakeSocket struct{ polled []transport.PolledReceiver }

func (s fakeSocket) Polled() []transport.PolledReceiver { return s.polled }
func (s fakeSocket) Receivers() []transport.ReceiveFunc { panic("receivers that can be polled are") }
func (s fakeSocket) Send([]transport.Message) int       { return 0 }
func (s fakeSocket) MaxSegments() int                   { return 1 }
func (s fakeSocket) Port() uint16                       { return 0 }
func (s fakeSocket) SetDF(bool) error                   { return nil }
func (s fakeSocket) Stats() transport.SocketStats       { return transport.SocketStats{} }
func (s fakeSocket) Close() error                       { return nil }

// planeOf is a plane that drops everything.
func planeOf(device tun.Device, socket transport.Socket) *Plane {
	return New(Config{
		Device: device, Socket: socket, Switch: route.NewSwitch(route.SwitchConfig{}),
		Self: crypto.Name{1}, Events: new(recorder), Log: slog.New(slog.DiscardHandler),
	})
}

// ended waits for the end of Run.
func ended(t *testing.T, run <-chan error) error {
	t.Helper()
	select {
	case err := <-run:
		return err
	case <-time.After(patience):
		t.Fatal("the plane does not end")
	}
	return nil
}

// TestWorkersShare: each queue has a worker, the receivers go round among them, each is
// served when it has something, and all end with the plane.
func TestWorkersShare(t *testing.T) {
	for _, c := range []struct {
		queues, receivers int
		want              [][]string // of each worker
	}{
		{0, 0, nil},
		{1, 0, [][]string{{"queue 0"}}},
		{0, 3, [][]string{{"receiver 0", "receiver 1", "receiver 2"}}},
		{1, 2, [][]string{{"queue 0", "receiver 0", "receiver 1"}}},
		{2, 4, [][]string{{"queue 0", "receiver 0", "receiver 2"}, {"queue 1", "receiver 1", "receiver 3"}}},
		{3, 2, [][]string{{"queue 0", "receiver 0"}, {"queue 1", "receiver 1"}, {"queue 2"}}},
		{1, 40, nil}, // more than one call of epoll tells
	} {
		took := make(chan string)
		var all []*source
		var device fakeDevice
		var socket fakeSocket
		device.Device = tuntest.NewDevice(tuntest.Config{})
		for i := range c.queues {
			s := newSource(t, fmt.Sprint("queue ", i), took)
			all, device.queues = append(all, s), append(device.queues, s)
		}
		for i := range c.receivers {
			s := newSource(t, fmt.Sprint("receiver ", i), took)
			all = append(all, s)
			socket.polled = append(socket.polled, transport.PolledReceiver{
				Descriptor: s.Descriptor(), Try: func([]transport.Message) (int, error) { return s.take() },
			})
		}
		p := planeOf(device, socket)
		if c.want != nil {
			checkShares(t, p, socket, c.want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		run := make(chan error, 1)
		go func() { run <- p.Run(ctx) }()
		missing := make(map[string]bool)
		for _, s := range all {
			missing[s.name] = true
			s.w.Write([]byte{1})
		}
		for len(missing) > 0 {
			select {
			case name := <-took:
				if !missing[name] {
					t.Fatalf("%s was served without cause", name)
				}
				delete(missing, name)
			case <-time.After(patience):
				t.Fatalf("%d queues, %d receivers: %v are not served", c.queues, c.receivers, missing)
			}
		}
		cancel()
		if err := ended(t, run); err != nil {
			t.Errorf("the end: %v", err)
		}
	}
}

// checkShares compares what newWorkers shares out.
func checkShares(t *testing.T, p *Plane, socket fakeSocket, want [][]string) {
	t.Helper()
	workers, err := p.newWorkers()
	if err != nil {
		t.Fatal(err)
	}
	defer closeWorkers(workers)
	var got [][]string
	for _, w := range workers {
		var share []string
		if w.queue != nil {
			share = append(share, w.queue.(*source).name)
			if p.queues[w.out.queue] != tun.Queue(w.queue) {
				t.Errorf("%s answers on queue %d", share[0], w.out.queue)
			}
		}
		for _, r := range w.receivers {
			for i, have := range socket.polled {
				if have.Descriptor == r.Descriptor {
					share = append(share, fmt.Sprint("receiver ", i))
				}
			}
		}
		got = append(got, share)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("shared out as %q, want %q", got, want)
	}
}

// brokenQueue has some frames, and its descriptor is in error.
type brokenQueue struct {
	*source
	frames int
}

func (q *brokenQueue) Descriptor() syscall.RawConn {
	q.r.Close() // who writes into a pipe that nobody reads meets an error
	raw, err := q.w.SyscallConn()
	if err != nil {
		panic(err)
	}
	return raw
}

func (q *brokenQueue) TryReadBatch([]tun.Frame) (int, error) {
	if q.frames == 0 {
		return 0, nil
	}
	q.frames--
	return 1, nil
}

// TestWorkerMeetsError: a descriptor in error ends the plane, after the last frame; a
// failure of a socket does too.
func TestWorkerMeetsError(t *testing.T) {
	q := &brokenQueue{newSource(t, "queue", nil), 3}
	p := planeOf(fakeDevice{tuntest.NewDevice(tuntest.Config{}), []tun.Queue{q}}, fakeSocket{})
	if err := p.Run(t.Context()); !errors.Is(err, tun.ErrDeleted) || q.frames != 0 {
		t.Errorf("the device: %v; %d frames are left", err, q.frames)
	}
	s := newSource(t, "socket", nil)
	s.w.Write([]byte{1})
	failed := errors.New("no more")
	p = planeOf(fakeDevice{tuntest.NewDevice(tuntest.Config{}), nil}, fakeSocket{[]transport.PolledReceiver{{
		Descriptor: s.Descriptor(), Try: func([]transport.Message) (int, error) { return 0, failed },
	}}})
	if err := p.Run(t.Context()); !errors.Is(err, failed) {
		t.Errorf("the socket: %v", err)
	}
}

// openDescriptors counts this process's descriptors.
func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestWorkerEnds: with the kernel's TAP and sockets, and datagrams coming all the time, the
// plane ends when it is asked to, and by itself when the device is deleted. Nothing stays
// open.
func TestWorkerEnds(t *testing.T) {
	tuntest.NeedRoot(t)
	if c, err := net.ListenPacket("udp4", "127.0.0.1:0"); err == nil {
		c.Close() // Go's own poller is there from now on
	}
	for _, deleted := range []bool{false, true} {
		ns, err := netns.NewAnonymous()
		if err != nil {
			t.Fatal(err)
		}
		before := openDescriptors(t)
		var device tun.Device
		if err := ns.Do(func() (err error) {
			device, err = tun.OpenTAP(tun.Config{Name: "rs0", Queues: 2})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		socket, err := transport.Bind(transport.BindConfig{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Sockets: 2})
		if err != nil {
			t.Fatal(err)
		}
		p := planeOf(device, socket)
		p.SetSnapshot(&Snapshot{Table: route.Build(route.TableConfig{Self: crypto.Name{1}})})
		ctx, cancel := context.WithCancel(t.Context())
		run := make(chan error, 1)
		go func() { run <- p.Run(ctx) }()
		out, err := net.Dial("udp4", fmt.Sprint("127.0.0.1:", socket.Port()))
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for {
				select {
				case <-stop:
					return
				default:
					out.Write([]byte("nonsense"))
				}
			}
		}()
		for deadline := time.Now().Add(patience); p.Counters().All()["drop_datagram_short"] < 1000; {
			if time.Now().After(deadline) {
				t.Fatalf("nothing comes: %v", p.Counters().All())
			}
		}
		began := time.Now()
		if deleted {
			err := ns.Do(func() error {
				link, err := netlink.LinkByName("rs0")
				if err != nil {
					return err
				}
				return netlink.LinkDel(link)
			})
			if err != nil {
				t.Fatal(err)
			}
		} else {
			cancel()
		}
		err = ended(t, run)
		if deleted != errors.Is(err, tun.ErrDeleted) || !deleted && err != nil {
			t.Errorf("deleted: %t, the end: %v", deleted, err)
		}
		t.Logf("deleted: %t, the end took %v", deleted, time.Since(began))
		cancel()
		close(stop)
		<-sent
		out.Close()
		if after := openDescriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
		ns.Close()
	}
}

// TestAskGrows: a receiver is asked for a few messages, and for more while it has more.
func TestAskGrows(t *testing.T) {
	p := planeOf(fakeDevice{Device: tuntest.NewDevice(tuntest.Config{})}, fakeSocket{})
	w := &worker{p: p, in: p.newInbound(socketBatch), ask: leastAsk}
	var asked []int
	give := 0
	w.receivers = []transport.PolledReceiver{{Try: func(msgs []transport.Message) (int, error) {
		asked = append(asked, len(msgs))
		return min(give, len(msgs)), nil
	}}}
	for _, give = range []int{99, 99, 99, 99, 99, 10, 1, 0} {
		if _, err := w.inbound(0); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := fmt.Sprint(asked), "[4 8 16 32 32 32 20 4]"; got != want {
		t.Errorf("asked for %v messages, want %v", got, want)
	}
}
