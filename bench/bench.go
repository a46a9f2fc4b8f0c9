// Bench measures ripstop side by side with what else joins containers of two hosts,
// all in one run on one machine:
//
//	go run ./bench                                  everything, 7 rounds; about an hour
//	go run ./bench -smoke                           one short round: does the rig still work?
//	go run ./bench -systems ripstop,wireguard-go -only tcp -rounds 3
//	go run ./bench -json result.json -svg chart.svg
//
// The rig is made of network namespaces, anew for every system and round:
//
//	container a1          host a                              host b          container b1
//	┌──────────┐   ┌───────────────────┐   underlay   ┌───────────────────┐   ┌──────────┐
//	│ iperf3   ├───┤ bridge or routes  │  (one veth   │ bridge or routes  ├───┤ iperf3   │
//	│ generator│   │ the system's      ├─── pair) ────┤ the system's      │   │ generator│
//	└──────────┘   │ daemon            │  198.18.1.0  │ daemon            │   └──────────┘
//	               └───────────────────┘              └───────────────────┘
//
// Layer 2 systems (ripstop, VXLAN, OpenVPN and tinc on a TAP) have the containers on a
// bridge in each host, layer 3 systems (wireguard-go, Nebula) route them through their
// TUN. Relayed ripstop has one or two more hosts between, each with a link only to its
// neighbours. The bare underlay is measured between the hosts themselves. A container's
// MTU is what the system carries without fragments, ripstop's its own default. The whole
// runs in a network and a mount namespace of its own: nothing is left behind, also after
// Ctrl-C, and no packet leaves it.
//
// A round takes each system in turn, starting with another one each time; so what the
// machine does meanwhile meets all of them. The figures of a round are compared with one
// another only: a ratio is made in each round, and what is shown is the median of these
// ratios with its range. Medians of different runs are not to be compared.
//
// How the figures are to be read:
//
//   - Both hosts, their daemons, the containers and the load generators share one machine.
//     A throughput is therefore the inverse of all the processor time a byte costs, on both
//     sides together; no network card is there to take work off it.
//   - tcp: iperf3, TCP streams one way at a time, of Linux's own congestion control unless
//     -congestion says otherwise: one that paces, as BBR does, leaves processors idle that a
//     window would fill, and so measures a model of the path beside its cost. Retransmits are
//     per 100 000 segments.
//   - udp: datagrams of 64, 100 and 1200 bytes of payload (-udp-sizes); the highest rate, found by
//     bisection, at which under 1 % are lost. Counted is what the receiver has within 20 ms
//     of the last being sent: what only waits in a buffer has not arrived. The generator is
//     our own (sendmmsg and recvmmsg), since iperf3 would be what saturates. A rate with ≥ is
//     all that the generator, which shares the processors, could offer without loss. CPU per
//     datagram is measured apart, at one rate for all systems.
//   - latency: ICMP echo from container to container, sent at fixed times whether or not
//     answers came, and request/response, one UDP datagram each way, the next request as
//     soon as the answer is there; idle, and while one TCP stream runs at full speed. What
//     that stream reaches meanwhile is shown beside it: who carries less waits less.
//   - cpu is what the daemons used (/proc/PID/stat), of both hosts together, the relays' by
//     itself; what the kernel does for VXLAN has no daemon, so busy time of the whole machine,
//     load generators included, stands beside it.
//   - ripstop's workers have niceness -10 while super-frames go by (`up --nice`), the other networks'
//     daemons 0 unless -nice says otherwise: -nice -10 and -variant 'nice0=--nice 0' show what that makes.
//   - memory is the daemons' peak resident set (VmHWM), the greatest of both hosts.
//
// Read run.go first, then rig.go and systems.go (the layouts), tcp.go, udp.go and
// latency.go (what is measured), generator.go (the load), report.go (what becomes of it).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == generatorMode {
		os.Exit(generatorMain(os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := benchMain(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
