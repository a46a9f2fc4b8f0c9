package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Where the search begins: somewhere in the first round, then near the last result.
const (
	firstRate     = 50_000
	firstFactor   = 2
	nearby        = 0.9
	furtherFactor = 1.25
)

// measureUDP searches each size's highest rate and measures what a datagram costs.
func measureUDP(ctx context.Context, r *rig, t *turn) error {
	for _, size := range r.opt.UDPSizes {
		start, factor := float64(firstRate), float64(firstFactor)
		if last, ok := t.last(udpKey(size, "rate")); ok && last > 0 {
			start, factor = last*1000*nearby, furtherFactor
		}
		best, err := search(start, factor, func(rate float64) (trial, error) {
			return r.datagrams(ctx, size, rate, r.opt.Time/2)
		})
		if err != nil {
			return fmt.Errorf("UDP, %d bytes: %w%s", size, err, r.said())
		}
		t.set(udpKey(size, "rate"), best.Received/1000)
		limited := ""
		if best.Limited {
			limited = ", all that the generator can"
			t.set(udpKey(size, "limited"), 1)
		}
		t.say("UDP %d B: %.0f thousand a second after %d trials%s", size, best.Received/1000, best.Trials, limited)
		if len(r.ends) == 0 {
			continue
		}
		before, err := r.used()
		if err != nil {
			return err
		}
		fixed, err := r.datagrams(ctx, size, r.opt.UDPRate, r.opt.Time)
		if err != nil {
			return fmt.Errorf("UDP, %d bytes: %w%s", size, err, r.said())
		}
		after, err := r.used()
		if err != nil {
			return err
		}
		cpu := after.minus(before)
		arrived := fixed.Received * r.opt.Time.Seconds()
		t.set(udpKey(size, "loss"), fixed.loss()*100)
		t.set(udpKey(size, "cpu"), cpu.ends/arrived*1e6)
		if len(r.relays) > 0 {
			t.set(udpKey(size, "relay"), cpu.relays/float64(len(r.relays))/arrived*1e6)
		}
	}
	return nil
}

// udpKey names a figure of the datagrams of a size.
func udpKey(size int, what string) string { return fmt.Sprintf("udp%d.%s", size, what) }

// datagrams sends datagrams of a size at a rate from the near end to the far one.
func (r *rig) datagrams(ctx context.Context, size int, rate float64, d time.Duration) (trial, error) {
	cfg := generatorConfig{
		Job: jobReceive, Addr: netip.AddrPortFrom(r.addr, generatorPort), Run: rand.Uint64(),
		Size: size, Rate: rate, Seconds: d.Seconds(),
	}
	receiver, err := generatorStart(ctx, r.to, cfg)
	if err != nil {
		return trial{}, err
	}
	defer receiver.stop()
	cfg.Job = jobSend
	sent, err := generatorRun(ctx, r.from, cfg)
	if err != nil {
		return trial{}, err
	}
	receiver.stdin.Close()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := receiver.wait(ctx); err != nil {
		return trial{}, fmt.Errorf("the receiver does not end: %w", err)
	}
	received, err := parseReceiver(receiver.out.lines(1))
	if err != nil {
		return trial{}, err
	}
	return trial{Offered: float64(sent.Sent) / sent.Seconds, Received: float64(received.Received) / sent.Seconds}, nil
}

// parseReceiver reads the last line of a receiver.
func parseReceiver(line string) (generatorResult, error) {
	var r generatorResult
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return r, fmt.Errorf("the receiver said %q: %w", line, err)
	}
	return r, nil
}
