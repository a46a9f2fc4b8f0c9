package transport

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
)

// PathKind says how a session's datagrams travel. The numbers go over the wire
// and are never reused.
type PathKind uint8

const (
	PathDirect PathKind = 1 // UDP from host to host
	PathTCP    PathKind = 2 // inside the TCP control connection
	PathRelay  PathKind = 3 // over other hosts; never a path of Paths: the routing table decides it
)

// String is the word that status shows.
func (k PathKind) String() string {
	switch k {
	case PathDirect:
		return "udp"
	case PathTCP:
		return "tcp"
	case PathRelay:
		return "relay"
	}
	return fmt.Sprintf("path kind %d", uint8(k))
}

// Path is one way for the datagrams of a pair of hosts. It can be compared and
// used as a key. Remote is set for PathDirect only and never an IPv4 address in
// IPv6 form.
type Path struct {
	Kind   PathKind
	Remote netip.AddrPort
}

// String is the kind and, for UDP, the address.
func (p Path) String() string {
	if p.Kind == PathDirect {
		return p.Kind.String() + " " + p.Remote.String()
	}
	return p.Kind.String()
}

// DirectPath is the UDP path to remote, with an IPv4 address in IPv6 form unmapped.
func DirectPath(remote netip.AddrPort) Path {
	return Path{Kind: PathDirect, Remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}
}

// PathStatus is what is known of one path.
type PathStatus struct {
	Path
	RTT       time.Duration // smoothed; 0 before the first answer
	Loss      float64       // 0 to 1: share of the last probes that stayed unanswered
	Up        bool          // answered, and not given up since
	Best      bool          // the one in use
	LastHeard time.Time     // zero before anything was heard
	Limit     int           // bytes of UDP payload that fit into one packet; BaseLimit before more is known
	Train     int           // datagrams that may leave by one call to the kernel, at least 1
}

// ProbeOut is a probe that is due.
type ProbeOut struct {
	ID       uint64 // returned by the answer
	Path     Path
	HearsYou bool // we have had an answer on this path lately: the other end is heard
	Pad      int  // bytes of UDP payload that the probe is to be padded to, header and tag included; 0: no padding
}

// PathsConfig tunes a Paths. The zero value of every field but Random is the default.
type PathsConfig struct {
	Random      *rand.Rand    // of probe numbers and idle pauses; required
	ProbeActive time.Duration // silence on a link in use before a probe, and pause between probes that stay unanswered; 0: 200 ms
	ProbeIdle   time.Duration // mean pause between probes of an idle link; 0: 5 s
	Lost        int           // unanswered probes in a row that end a path; 0: 4
	TCPPenalty  time.Duration // added to the round trip of the TCP path by Cost; 0: 25 ms
	Budget      *ProbeBudget  // shared by all Paths of the host; nil: one of its own
	Fragmenting bool          // datagrams may be cut on their way (Socket.SetDF is off): sizes and trains are not measured
}

// Paths knows the ways to one peer: which of them work both ways, how good they are,
// and which one is in use. It is pure: time comes in as an argument, probes to be
// sent come out of Probes. Its times must come from one clock. Not safe for
// concurrent use.
//
//	             an answer              four unanswered
//	candidate ─────────────▶ up ─────────────────────────▶ down ──▶ (retried every 5 s, later every minute)
//	                          │ the best of them is in use;    │
//	                          │ the link is up when the peer   └─ three answers in a row: up again
//	                          ▼ says that it hears us, too
//
// While traffic leaves (Sent), the path in use is probed after 200 ms of silence, and
// then every 200 ms: a dead path is known after 200 + 3 × 200 ms and the time that an
// answer may take, at least 150 ms. On a path known to lose probes more of them are
// sent in the same time, so that loss is not taken for death. When the first answer
// is overdue, the other paths that are up are probed, too; with the second overdue, one
// that has answered is taken. A path that is heard but says that it does not hear us
// is probed as well, and then only an answer counts: so a one-way path ends at both
// ends. With all others nothing is the matter: the one in use is probed once in about 5 s, by
// one end or the other, those not in use every 10 s until they can be compared, and then
// every 20 s, or 60 s over TCP; less often where a host has many of them: see ProbeBudget.
//
// After a pause of the caller (a call more than 100 ms later than Next said) nothing
// expires; every deadline begins again.
//
// What the paths that are up carry is measured as well: see path_mtu.go for the size of
// datagrams and path_train.go for how many may leave at once.
type Paths struct {
	cfg   PathsConfig
	paths []*path // in the order they came
	best  *path   // in use; nil: none

	clock      time.Time // the latest time told
	due        time.Time // what Next said last; zero: nothing was due
	sent       time.Time // traffic left last
	learnt     time.Time // an unknown address was heard last
	challenger *path     // cheaper than best since then
	since      time.Time
	measured   int     // samples of best at since
	tokens     float64 // probes that may be sent now
	tokensAt   time.Time
	out        []ProbeOut
	trains     []TrainOut
	incoming   []trainIn // of which reports are due
	reports    []ReportOut
}

// Bounds and times of a Paths.
const (
	maxCandidates = 16 // direct paths kept
	maxLearnt     = 4  // of them addresses heard from but not answered yet
	maxAsked      = 16 // probes of a path that wait for an answer
	maxLost       = 16 // probes of a path that were given up and may be answered yet
	maxProbeOut   = 64 // probes that wait for the caller
	firstTries    = 3  // quick probes of a new candidate; all that an unknown address gets
	burstLen      = 3  // probes when TCP ends
	answersAgain  = 3  // answers in a row that a failed path must give
	samplesEnough = 4  // answers before a path is compared by cost
	eagerTries    = 10 // quick probes until the peer says that it hears us
	probeRate     = 24 // probes a second in the mean, for the whole peer
	probeBurst    = 24 // and at once
	probeReserve  = 8  // of those, for the path in use

	answerTimeMin    = 150 * time.Millisecond // before an answer is overdue
	answerTimeMinTCP = 400 * time.Millisecond // which retransmits first
	answerTimeMax    = 3 * time.Second
	forgetAfter      = 2 * time.Second // an unanswered probe is counted as lost
	lateTick         = 100 * time.Millisecond
	activeFor        = 5 * time.Second       // a link is in use for so long after it was sent on
	burstPause       = 33 * time.Millisecond // so that three probes leave within 100 ms
	probeSpace       = 50 * time.Millisecond // between probes of one path outside a burst
	postpone         = 50 * time.Millisecond // when probeRate is used up
	deafFor          = time.Second           // the peer says it does not hear us: the path no longer counts as up both ways
	betterFor        = 3 * time.Second       // and samplesEnough answers on the one in use: a cheaper path is taken
	slowerBy         = 5 * time.Millisecond  // and twice the shortest: a round trip is far above it
	slowerPause      = time.Second           // between probes until all of the last ones are
	learnPause       = 100 * time.Millisecond
	retryMax         = time.Minute
	lossCost         = 200 * time.Millisecond // what losing every datagram would add to the round trip, for comparison
)

// NewPaths makes a Paths without any path. It panics without cfg.Random.
func NewPaths(cfg PathsConfig) *Paths {
	if cfg.Random == nil {
		panic("transport: paths without a random source")
	}
	if cfg.ProbeActive <= 0 {
		cfg.ProbeActive = 200 * time.Millisecond
	}
	if cfg.ProbeIdle <= 0 {
		cfg.ProbeIdle = 5 * time.Second
	}
	if cfg.Lost <= 0 {
		cfg.Lost = 4
	}
	if cfg.TCPPenalty <= 0 {
		cfg.TCPPenalty = 25 * time.Millisecond
	}
	if cfg.Budget == nil {
		cfg.Budget = new(ProbeBudget)
	}
	return &Paths{cfg: cfg}
}
