package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// The pings of a round: idle every 10 ms, under load every millisecond; as many a
// second of measuring time that 7 rounds of the default make 2100 and 10 500.
const (
	idleEvery, loadEvery         = 10 * time.Millisecond, time.Millisecond
	idlePerSecond, loadPerSecond = 150, 750
)

// The payload of pings and requests, bytes.
const pingSize, requestSize = 56, 64

// measureLatency measures round trips idle and beside a TCP stream at full speed.
func measureLatency(ctx context.Context, r *rig, t *turn) error {
	if err := r.roundTrips(ctx, t, "idle", idleEvery, idlePerSecond); err != nil {
		return err
	}
	loadCtx, stop := context.WithCancel(ctx)
	defer stop()
	type ended struct {
		result tcpResult
		err    error
	}
	load := make(chan ended, 1)
	const before = 300 * time.Millisecond // for the stream to be at full speed
	length := before + r.opt.Time*loadPerSecond*loadEvery/time.Second + answerTimeout + r.opt.Time/2 + time.Second/2
	go func() { // ends with iperf3, which ends with loadCtx at the latest
		result, err := r.iperf(loadCtx, 1, false, length)
		load <- ended{result, err}
	}()
	err := pause(ctx, before)
	if err == nil {
		err = r.roundTrips(ctx, t, "load", loadEvery, loadPerSecond)
	}
	if err != nil {
		stop()
		<-load
		return err
	}
	l := <-load
	if l.err != nil {
		return fmt.Errorf("TCP as load: %w%s", l.err, r.said())
	}
	t.set("load.tcp", l.result.BitsPerSecond/1e9)
	return nil
}

// roundTrips measures pings and requests.
func (r *rig) roundTrips(ctx context.Context, t *turn, when string, every time.Duration, perSecond int) error {
	cfg := generatorConfig{
		Job: jobPing, Addr: netip.AddrPortFrom(r.addr, generatorPort), Run: rand.Uint64(), Size: pingSize,
		Count: max(1, int(float64(perSecond)*r.opt.Time.Seconds())), EveryNs: every.Nanoseconds(),
	}
	pings, err := generatorRun(ctx, r.from, cfg)
	if err != nil {
		return err
	}
	echoes, err := generatorStart(ctx, r.to, generatorConfig{Job: jobEcho, Addr: cfg.Addr, Size: requestSize})
	if err != nil {
		return err
	}
	defer echoes.stop()
	cfg.Job, cfg.Run, cfg.Size, cfg.Count, cfg.EveryNs = jobRequest, rand.Uint64(), requestSize, 0, 0
	cfg.Seconds = (r.opt.Time / 2).Seconds()
	requests, err := generatorRun(ctx, r.from, cfg)
	if err != nil {
		return err
	}
	for _, one := range []struct {
		kind   string
		result generatorResult
	}{{"ping", pings}, {"request", requests}} {
		if len(one.result.Samples) == 0 {
			return fmt.Errorf("%s, %s: %w%s", one.kind, when, errors.New("no answer came"), r.said())
		}
		samples := slices.Sorted(slices.Values(one.result.Samples))
		for _, p := range percentiles {
			t.set(latencyKey(one.kind, when, p.name), percentile(samples, p.share)/1000)
		}
		t.set(latencyKey(one.kind, when, "lost"), 100*(1-float64(one.result.Received)/float64(one.result.Sent)))
	}
	t.set(latencyKey("request", when, "rate"), float64(requests.Received)/requests.Seconds/1000)
	t.pool(latencyKey("ping", when, ""), pings.Samples)
	t.say("ping, %s: median %.0f µs, 99 %% within %.0f µs", when,
		percentile(slices.Sorted(slices.Values(pings.Samples)), 0.5)/1000, percentile(slices.Sorted(slices.Values(pings.Samples)), 0.99)/1000)
	return nil
}

// percentiles are those shown of round trips.
var percentiles = [...]struct {
	name  string
	share float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}}

// latencyKey names a figure of round trips.
func latencyKey(kind, when, what string) string { return kind + "." + when + "." + what }
