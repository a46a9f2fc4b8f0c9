package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// attemptTime is how long one upstream may take, forwardTime all of them: a stub
	// resolver gives up after 5 s (resolv.conf(5), timeout).
	attemptTime = 1500 * time.Millisecond
	forwardTime = 4500 * time.Millisecond
	// restTime is how long an upstream that did not answer is asked last.
	restTime = 30 * time.Second
	// rereadEvery is how often it is looked whether the resolver file has changed.
	rereadEvery = 2 * time.Second
	// maxAlike is how many questions of one client for one name and type are under way at
	// once when they differ in other things: more come only from a loop that changes them.
	// It is counted by client, so that none keeps a name from the others.
	maxAlike = 8
)

// resolvedFile is where systemd-resolved keeps the servers that it asks itself.
const resolvedFile = "/run/systemd/resolve/resolv.conf"

var (
	errNoUpstream = errors.New("dns: this host's resolver file names no server")
	errLoop       = errors.New("dns: the question came back from the upstream it was sent to")
	errAlike      = errors.New("dns: too many questions for one name are under way")
)

// forwarder asks the host's resolvers.
//
// A question under way is never asked again: whoever asks the same waits for the same
// answer. So a loop through other servers, whichever way it takes, ends here and costs
// one question; one that comes straight back from an upstream is refused at once.
type forwarder struct {
	file    string                // the host's resolver file
	own     func(netip.Addr) bool // addresses that this server has itself: never asked
	port    uint16                // of the upstreams: Port, but for tests
	refused atomic.Uint64         // questions that were in a loop
	failed  atomic.Uint64         // that no upstream answered

	mu        sync.Mutex // guards the rest
	looked    time.Time  // when the files were last looked at
	stamps    [2]stamp   // of file, and of resolvedFile where that is used
	resolver  Resolver
	upstreams []*upstream // in the file's order
	flights   map[string][]*flight
}

// stamp tells one state of a file from another.
type stamp struct {
	size     int64
	modified time.Time
}

// upstream is a server to ask.
type upstream struct {
	addr    netip.Addr
	resting time.Time // until when it is asked last; zero = it answers
}

// flight is a question under way.
type flight struct {
	query  []byte        // without its number; name in lower case
	tcp    bool          // it was asked over TCP
	from   netip.Addr    // who asked first
	done   chan struct{} // closed when the next two hold
	answer []byte
	err    error
}

// ask returns the answer to a query. from is who asked.
func (f *forwarder) ask(ctx context.Context, query []byte, tcp bool, from netip.Addr) ([]byte, error) {
	end, ok := questionEnd(query)
	if !ok {
		return nil, errors.New("dns: the query has no question to forward")
	}
	plain := bytes.Clone(query)
	copy(plain[headerLen:end], bytes.ToLower(plain[headerLen:end]))
	plain[0], plain[1] = 0, 0
	key := string(plain[headerLen:end])

	f.mu.Lock()
	f.rereadLocked(time.Now())
	alike := 0
	for _, other := range f.flights[key] {
		if other.from == from {
			alike++
		}
		if f.asksLocked(from) {
			f.mu.Unlock()
			f.refused.Add(1)
			return nil, errLoop
		}
		if other.tcp == tcp && bytes.Equal(other.query, plain) {
			f.mu.Unlock()
			return other.wait(ctx, query)
		}
	}
	if alike >= maxAlike {
		f.mu.Unlock()
		f.refused.Add(1)
		return nil, errAlike
	}
	fl := &flight{query: plain, tcp: tcp, from: from, done: make(chan struct{})}
	f.flights[key] = append(f.flights[key], fl)
	f.mu.Unlock()

	fl.answer, fl.err = f.fly(ctx, bytes.Clone(query), tcp)
	f.mu.Lock()
	if f.flights[key] = slices.DeleteFunc(f.flights[key], func(o *flight) bool { return o == fl }); len(f.flights[key]) == 0 {
		delete(f.flights, key)
	}
	f.mu.Unlock()
	close(fl.done)
	return fl.wait(ctx, query)
}

// wait returns the flight's answer in the form that answers query: its number, and
// its upper and lower case.
func (fl *flight) wait(ctx context.Context, query []byte) ([]byte, error) {
	select {
	case <-fl.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if fl.err != nil {
		return nil, fl.err
	}
	answer := bytes.Clone(fl.answer)
	copy(answer[:2], query)
	end, _ := questionEnd(query)
	copy(answer[headerLen:end], query[headerLen:end])
	return answer, nil
}

// asksLocked reports whether that address is one of the upstreams.
func (f *forwarder) asksLocked(a netip.Addr) bool {
	return slices.ContainsFunc(f.upstreams, func(u *upstream) bool { return u.addr.WithZone("") == a })
}

// fly asks one upstream after the other until one answers. An answer that says it
// could not find out is given only when no other says more.
func (f *forwarder) fly(ctx context.Context, query []byte, tcp bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	binary.BigEndian.PutUint16(query, uint16(rand.Uint32()))
	var poor []byte
	err := errNoUpstream
	for _, u := range f.order(time.Now()) {
		var answer []byte
		if answer, err = exchange(ctx, netip.AddrPortFrom(u, f.port), query, tcp); err != nil {
			if ctx.Err() != nil {
				break
			}
			f.rest(u, time.Now().Add(restTime))
			continue
		}
		f.rest(u, time.Time{})
		if code := answer[3] & 0xf; code != dns.RcodeServerFailure && code != dns.RcodeRefused && code != dns.RcodeNotImplemented {
			return answer, nil
		}
		poor = answer
	}
	if poor != nil {
		return poor, nil
	}
	f.failed.Add(1)
	return nil, err
}

// order are the upstreams in the order in which to ask them now.
func (f *forwarder) order(now time.Time) []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first, last []netip.Addr
	for _, u := range f.upstreams {
		if u.resting.After(now) {
			last = append(last, u.addr)
		} else {
			first = append(first, u.addr)
		}
	}
	return append(first, last...)
}

// rest notes until when an upstream is asked last.
func (f *forwarder) rest(a netip.Addr, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.upstreams {
		if u.addr == a {
			u.resting = until
		}
	}
}

// rereadLocked takes up what has changed in the resolver file.
func (f *forwarder) rereadLocked(now time.Time) {
	if !f.looked.IsZero() && now.Sub(f.looked) < rereadEvery {
		return
	}
	first := f.looked.IsZero()
	f.looked = now
	stamps := [2]stamp{stampOf(f.file), stampOf(resolvedFile)}
	if !first && stamps == f.stamps {
		return
	}
	f.stamps = stamps
	r := readResolver(f.file)
	if r.stub() {
		if own := readResolver(resolvedFile); len(own.Servers) > 0 {
			r = own
		}
	}
	r.Servers = slices.DeleteFunc(r.Servers, f.own)
	f.resolver = r
	before := f.upstreams
	f.upstreams = nil
	for _, a := range r.Servers {
		u := &upstream{addr: a}
		for _, old := range before {
			if old.addr == a {
				u.resting = old.resting
			}
		}
		f.upstreams = append(f.upstreams, u)
	}
}

// stampOf is the state of the file that path leads to; zero when there is none.
func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime()}
}

// readResolver reads a resolver file; one that is not there says nothing.
func readResolver(path string) Resolver {
	file, err := os.Open(path)
	if err != nil {
		return Resolver{}
	}
	defer file.Close()
	text, _ := io.ReadAll(io.LimitReader(file, maxResolver))
	return ParseResolver(text)
}

// exchange asks one upstream and returns its answer, which is one to query.
func exchange(ctx context.Context, to netip.AddrPort, query []byte, tcp bool) ([]byte, error) {
	network := "udp"
	if tcp {
		network = "tcp"
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, to.String())
	if err != nil {
		return nil, fmt.Errorf("dns: ask %s: %w", to, err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if tcp {
		err = writeMessage(conn, query)
	} else {
		_, err = conn.Write(query)
	}
	if err != nil {
		return nil, fmt.Errorf("dns: ask %s: %w", to, err)
	}
	buf := make([]byte, maxTCP)
	for {
		var n int
		if tcp {
			n, err = readMessage(conn, buf)
		} else {
			n, err = conn.Read(buf)
		}
		if err != nil {
			return nil, fmt.Errorf("dns: ask %s: %w", to, err)
		}
		if sameQuestion(query, buf[:n]) { // else somebody guessed: the true one may follow
			return buf[:n:n], nil
		}
	}
}

// readMessage reads a message and its length in front (RFC 1035 4.2.2).
func readMessage(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n > len(buf) {
		return 0, errors.New("dns: a message of " + strconv.Itoa(n) + " bytes")
	}
	return io.ReadFull(r, buf[:n])
}

// writeMessage writes a message behind its length, in one piece.
func writeMessage(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message))), message...))
	return err
}

// Upstream is a server that is asked for names of others.
type Upstream struct {
	Address netip.Addr
	Resting bool // it did not answer lately, and is asked last
}

// status tells the upstreams, and the search list beside them.
func (f *forwarder) status(now time.Time) (servers []Upstream, search []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rereadLocked(now)
	for _, u := range f.upstreams {
		servers = append(servers, Upstream{Address: u.addr, Resting: u.resting.After(now)})
	}
	return servers, f.resolver.Search
}
