package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// streamCounts are how many TCP streams run at once.
var streamCounts = [...]int{1, 4, 16}

// tcpResult is one run of iperf3.
type tcpResult struct {
	BitsPerSecond float64 // received
	Bytes         float64 // received
	Retransmits   float64
	Segments      float64 // sent, about: bytes by the segment size
}

// gbits is what arrived, in Gbit.
func (t tcpResult) gbits() float64 { return t.Bytes * 8 / 1e9 }

// parseIperf reads what `iperf3 --json` writes at the client.
func parseIperf(text []byte) (tcpResult, error) {
	var report struct {
		Error string `json:"error"`
		Start struct {
			MSS float64 `json:"tcp_mss_default"`
		} `json:"start"`
		End struct {
			Sent struct {
				Bytes       float64 `json:"bytes"`
				Retransmits float64 `json:"retransmits"`
			} `json:"sum_sent"`
			Received struct {
				Bytes         float64 `json:"bytes"`
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return tcpResult{}, fmt.Errorf("iperf3: its report is no JSON: %w", err)
	}
	if report.Error != "" {
		return tcpResult{}, fmt.Errorf("iperf3: %s", report.Error)
	}
	if report.End.Received.Bytes <= 0 || report.Start.MSS <= 0 {
		return tcpResult{}, errors.New("iperf3: nothing was received")
	}
	return tcpResult{
		BitsPerSecond: report.End.Received.BitsPerSecond,
		Bytes:         report.End.Received.Bytes,
		Retransmits:   report.End.Sent.Retransmits,
		Segments:      report.End.Sent.Bytes / report.Start.MSS,
	}, nil
}

// maxCongestion is the room for a congestion control's name, its end included
// (TCP_CA_NAME_MAX in include/net/tcp.h).
const maxCongestion = 16

// hasCongestion reports what is wrong with streams of that congestion control.
func hasCongestion(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("try congestion control %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
		return fmt.Errorf("congestion control %s: %w: load tcp_%[1]s, or choose by -congestion of: %[3]s",
			name, err, readText("/proc/sys/net/ipv4/tcp_available_congestion_control"))
	}
	return nil
}

// iperfSeconds is a time as iperf3 takes it.
func iperfSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// iperf runs TCP streams from the near end to the far one, or back. Each run has its
// own server: one that still tidies up after the last client resets the next.
func (r *rig) iperf(ctx context.Context, streams int, back bool, d time.Duration) (tcpResult, error) {
	server, err := start(ctx, processConfig{
		Place: r.to, Program: needIperf.program, Args: []string{"--server", "--one-off", "--forceflush"}, Ready: "listening",
	})
	if err != nil {
		return tcpResult{}, err
	}
	defer server.stop()
	args := []string{
		"--client", r.addr.String(), "--json", "--interval", "0", "--connect-timeout", "3000",
		"--time", strconv.Itoa(iperfSeconds(d)), "--parallel", strconv.Itoa(streams), "--congestion", r.opt.Congestion,
	}
	if back {
		args = append(args, "--reverse")
	}
	ctx, cancel := context.WithTimeout(ctx, d+readyTimeout)
	defer cancel()
	out, err := run(ctx, r.from, needIperf.program, args...)
	if result, parseErr := parseIperf([]byte(out)); out != "" {
		return result, parseErr // its own word of what went wrong is the better one
	}
	return tcpResult{}, err
}

// measureTCP runs every number of streams, both ways.
func measureTCP(ctx context.Context, r *rig, t *turn) error {
	for _, n := range streamCounts {
		var gbits, retransmits, segments float64
		var rates [2]float64
		var cpu usage
		for i, back := range []bool{false, true} {
			before, err := r.used()
			if err != nil {
				return err
			}
			result, err := r.iperf(ctx, n, back, r.opt.Time)
			if err != nil {
				return fmt.Errorf("TCP, %d streams: %w%s", n, err, r.said())
			}
			after, err := r.used()
			if err != nil {
				return err
			}
			rates[i] = result.BitsPerSecond / 1e9
			gbits += result.gbits()
			retransmits += result.Retransmits
			segments += result.Segments
			cpu = cpu.plus(after.minus(before))
		}
		t.set(tcpKey(n, "out"), rates[0])
		t.set(tcpKey(n, "back"), rates[1])
		t.set(tcpKey(n, "mean"), (rates[0]+rates[1])/2)
		t.set(tcpKey(n, "retransmits"), retransmits/segments*1e5)
		t.set(tcpKey(n, "machine"), cpu.machine/gbits)
		if len(r.ends) > 0 {
			t.set(tcpKey(n, "cpu"), cpu.ends/gbits)
		}
		if len(r.relays) > 0 {
			perRelay := cpu.relays / float64(len(r.relays))
			t.set(tcpKey(n, "relay"), perRelay/gbits)
			t.set(tcpKey(n, "relayshare"), perRelay/(cpu.ends/float64(len(r.ends))))
		}
		t.say("TCP, streams %d: %.2f and %.2f Gbit/s", n, rates[0], rates[1])
	}
	return nil
}

// tcpKey names a figure of the runs with n streams.
func tcpKey(n int, what string) string { return fmt.Sprintf("tcp%d.%s", n, what) }
