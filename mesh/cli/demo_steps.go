package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ripstop/crypto"
	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// join starts a daemon on every host and waits until each has a way to all others.
func (d *demo) join(ctx context.Context) error {
	network, _, err := crypto.NewNetwork(rand.Reader, crypto.CipherAuto)
	if err != nil {
		return err
	}
	token, err := network.Token()
	if err != nil {
		return err
	}
	d.say("Each host runs `ripstop up` with one secret and its neighbours' addresses ...")
	started := time.Now()
	err = each(demoHosts[:], func(name string) error {
		var peers []string
		for _, link := range demoLinks {
			if i := slices.Index(link[:], name); i >= 0 {
				peers = append(peers, link[1-i])
			}
		}
		_, err := d.lab.Host(name).Start(lab.StartConfig{Secret: token, Peers: peers})
		return err
	})
	if err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	took := time.Since(started)
	d.facts.JoinMillis = took.Milliseconds()
	d.say("... and %.1f s later everybody knows everybody, by gossip:\n", took.Seconds())
	for _, name := range demoHosts {
		s, err := d.status(ctx, name)
		if err != nil {
			return err
		}
		var links []string
		for _, l := range s.Links {
			if l.State == api.LinkUp {
				links = append(links, l.Nickname)
			}
		}
		slices.Sort(links)
		d.say("  %s  is %s, linked with %s, reaches %d hosts", s.Nickname, s.Name, and(links), len(s.Peers))
	}
	return nil
}

// and lists words for people.
func and(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// each runs f for all names at once and joins the errors.
func each(names []string, f func(name string) error) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = f(name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// settle waits until every host has a way to every other one.
func (d *demo) settle(ctx context.Context) error {
	deadline := time.Now().Add(demoSettle)
	for _, name := range demoHosts {
		for {
			s, err := d.status(ctx, name)
			if err != nil {
				return err
			}
			missing := unsettled(s)
			if missing == "" && len(s.Routes) == len(demoHosts)-1 {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("host %s reaches %d of %d others after %v; %s", name, len(s.Routes), len(demoHosts)-1, demoSettle, missing)
			}
			if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// attach attaches the containers and shows the way between the two ends.
func (d *demo) attach(ctx context.Context) error {
	err := each(demoHosts[:], func(name string) error {
		host := slices.Index(demoHosts[:], name)
		for n := range demoContainersPerHost {
			c := d.lab.Container(fmt.Sprintf("%s%d", name, n+1))
			if err := c.Attach(ctx, d.address(host, n).String()+"/12"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	from, fromAddr := d.container(demoFirst)
	to, toAddr := d.container(demoLast)
	for _, name := range demoHosts {
		for n := range demoContainersPerHost {
			d.facts.Containers = append(d.facts.Containers, fmt.Sprintf("%s%d", name, n+1))
		}
	}
	if err := d.known(ctx); err != nil {
		return err
	}
	way, err := d.way(ctx, demoFirst, demoLast)
	if err != nil {
		return err
	}
	d.facts.Way = way
	d.say("\nTwo containers on each host are attached: %s is %s, %s is %s. A frame from %s to %s goes\n", from.Name(), fromAddr, to.Name(), toAddr, from.Name(), to.Name())
	d.say("    %s → %s → %s\n", from.Name(), arrows(way), to.Name())
	d.say("Host %s seals it for host %s; %s pass it on and cannot read it.", demoFirst, demoLast, and(way[1:len(way)-1]))
	return nil
}

// known waits until every host has heard of every container.
func (d *demo) known(ctx context.Context) error {
	deadline := time.Now().Add(demoSettle)
	want := len(demoHosts) * demoContainersPerHost
	for _, name := range demoHosts {
		for {
			s, err := d.status(ctx, name)
			if err != nil {
				return err
			}
			if len(s.Endpoints) == want {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("host %s has heard of %d containers, not of all %d, after %v", name, len(s.Endpoints), want, demoSettle)
			}
			if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// demoMarker is carried by the pings and looked for on the underlay.
const demoMarker = "thirty-two bytes to be looked up"

// ping pings from end to end and watches the middle link meanwhile.
func (d *demo) ping(ctx context.Context) error {
	d.middle = [2]string(d.facts.Way[1:3])
	watch, err := d.lab.Link(d.middle[0], d.middle[1]).End(d.middle[1]).Capture()
	if err != nil {
		return err
	}
	from, _ := d.container(demoFirst)
	_, to := d.container(demoLast)
	replies, err := from.Ping(ctx, to, lab.PingConfig{Count: demoPings, Interval: 100 * time.Millisecond, Timeout: 2 * time.Second, Payload: []byte(demoMarker), Size: 4 * len(demoMarker)})
	if err := errors.Join(err, watch.Stop()); err != nil {
		return err
	}
	f := &d.facts.Ping
	var sum time.Duration
	f.Sent = len(replies)
	for _, r := range replies {
		if r.Answered {
			f.Answered++
			f.TTL = r.TTL
			sum += r.RTT
		}
	}
	if f.Answered == 0 {
		return fmt.Errorf("none of %d pings from %s to %s was answered", f.Sent, from.Name(), to)
	}
	f.AverageMS = float64((sum / time.Duration(f.Answered)).Microseconds()) / 1e3
	d.facts.Sealed.Frames = len(watch.Frames())
	d.facts.Sealed.InClear = watch.Contains([]byte(demoMarker))
	d.say("\nPing: %d of %d answered, %.2f ms on average, TTL %d: for the containers it is one Ethernet.", f.Answered, f.Sent, f.AverageMS, f.TTL)
	d.say("On the link %s–%s %d frames went by meanwhile; %d of them showed the text that each ping carried.", d.middle[0], d.middle[1], d.facts.Sealed.Frames, d.facts.Sealed.InClear)
	if d.facts.Sealed.InClear > 0 {
		return fmt.Errorf("%d frames crossed the link %s–%s in clear", d.facts.Sealed.InClear, d.middle[0], d.middle[1])
	}
	return nil
}

// throughput sends TCP from end to end.
func (d *demo) throughput(ctx context.Context) error {
	from, _ := d.container(demoFirst)
	to, addr := d.container(demoLast)
	n, took, err := lab.Throughput(ctx, from.Place, to.Place, addr, demoThroughput)
	if err != nil {
		return err
	}
	d.facts.BitsPerSecond = float64(8*n) / took.Seconds()
	d.say("TCP from %s to %s, sealed, relayed and opened all on this machine: %.0f Mbit/s.", from.Name(), to.Name(), d.facts.BitsPerSecond/1e6)
	return nil
}

// demoInterval is the time between two datagrams of the stream that meets the cut.
const demoInterval = 2 * time.Millisecond

// cut cuts the middle link under traffic and measures the pause.
func (d *demo) cut(ctx context.Context) error {
	from, _ := d.container(demoFirst)
	to, addr := d.container(demoLast)
	flow, err := lab.StartFlow(lab.FlowConfig{From: from.Place, To: to.Place, Addr: addr, Interval: demoInterval})
	if err != nil {
		return err
	}
	f := &d.facts.Cut
	way, err := d.cutUnder(ctx, flow)
	f.Link = d.middle[0] + "–" + d.middle[1]
	report := flow.Stop(200 * time.Millisecond)
	if err != nil {
		return err
	}
	f.WayAfter, f.PauseMS = way, report.Gap.Milliseconds()
	f.Sent, f.Lost, f.Duplicates = report.Sent, report.Lost(), report.Duplicates
	d.say("\nNow the link %s is cut, silently, while numbered datagrams run every %v: they paused for %d ms\n(%d of %d lost, %d came twice) and now go\n", f.Link, demoInterval, f.PauseMS, f.Lost, f.Sent, f.Duplicates)
	d.say("    %s → %s → %s", from.Name(), arrows(way), to.Name())
	return nil
}

// cutUnder cuts the link while flow runs and returns the way taken afterwards.
func (d *demo) cutUnder(ctx context.Context, flow *lab.Flow) ([]string, error) {
	if pause(ctx, 500*time.Millisecond); flow.Report().Received == 0 {
		return nil, errors.New("no datagram of the stream arrived before the cut")
	}
	way, err := d.way(ctx, demoFirst, demoLast)
	if err != nil {
		return nil, err
	}
	d.middle = [2]string(way[1:3])
	if err := d.lab.Link(d.middle[0], d.middle[1]).Cut(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(demoReroute)
	pause(ctx, 100*time.Millisecond) // what was under way has arrived
	arrived := flow.Report().Received
	for {
		way, err := d.way(ctx, demoFirst, demoLast)
		cut := err == nil && slices.ContainsFunc(pairs(way), func(p [2]string) bool { return p == d.middle })
		if err == nil && !cut && flow.Report().Received > arrived {
			pause(ctx, 300*time.Millisecond) // traffic on the new way
			return way, ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("traffic did not come back within %v after the cut; the way is %s (%v)", demoReroute, arrows(way), err)
		}
		if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// pairs are the links of a way.
func pairs(way []string) (links [][2]string) {
	for i := range len(way) - 1 {
		links = append(links, [2]string{way[i], way[i+1]})
	}
	return links
}
