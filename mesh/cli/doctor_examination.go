package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"ripstop/mesh/api"
)

// subject is what a check is about.
type subject string

const (
	aboutHost   subject = "host"
	aboutDaemon subject = "daemon"
)

// How long things may take: the first question to the daemon, and every check after it,
// all of which run at once. Together they stay below the five seconds that help promises.
const (
	askTime   = 1500 * time.Millisecond
	checkTime = 2500 * time.Millisecond
)

// check is one thing that is looked at. run returns at least one finding; it changes
// nothing, and ends soon after its context has. It runs beside the others.
type check struct {
	name  string
	about subject
	run   func(ctx context.Context, x *examination) []finding
}

// hostChecks need no daemon.
var hostChecks = []check{
	{"kernel", aboutHost, checkKernel},
	{"tun", aboutHost, checkTun},
	{"capabilities", aboutHost, checkCapabilities},
	{"forwarding", aboutHost, checkForwarding},
	{"buffers", aboutHost, checkBuffers},
	{"overlap", aboutHost, checkOverlap},
	{"port", aboutHost, checkPort},
	{"state", aboutHost, checkState},
	{"secret", aboutHost, checkSecret},
	{"disk", aboutHost, checkDisk},
}

// daemonChecks need the status of a daemon.
var daemonChecks = []check{
	{"targets", aboutDaemon, checkTargets},
	{"links", aboutDaemon, checkLinks},
	{"udp", aboutDaemon, checkUDP},
	{"loss", aboutDaemon, checkLoss},
	{"mtu", aboutDaemon, checkMTU},
	{"peers", aboutDaemon, checkPeersReached},
	{"versions", aboutDaemon, checkVersions},
	{"endpoints", aboutDaemon, checkEndpoints},
	{"addresses", aboutDaemon, checkAddresses},
	{"gateway", aboutDaemon, checkGateway},
	{"offloads", aboutDaemon, checkOffloads},
	{"drops", aboutDaemon, checkDrops},
	{"names", aboutDaemon, checkNames},
	{"resolved", aboutDaemon, checkResolved},
	{"warnings", aboutDaemon, checkWarnings},
}

// daemonClient is what the checks ask of a running daemon.
type daemonClient interface {
	Status(ctx context.Context) (api.Status, error)
	Names(ctx context.Context) (api.Names, error)
}

// examination is one run of all checks. Checks only read it.
type examination struct {
	host   host
	client daemonClient
	socket string
	surroundings
	now time.Time

	status  *api.Status // nil: no daemon answers
	refusal error       // why there is no status
}

// run asks the daemon, then lets all checks look at once, and returns what they found
// in the order of the tables.
func (x *examination) run(ctx context.Context) []finding {
	x.ask(ctx)
	checks := append(append([]check(nil), hostChecks...), check{"daemon", aboutDaemon, checkDaemon})
	if x.status != nil {
		checks = append(checks, daemonChecks...)
	}
	found := make([][]finding, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { found[i] = c.within(ctx, x, checkTime) })
	}
	wg.Wait()
	var all []finding
	for _, f := range found {
		all = append(all, f...)
	}
	return all
}

// ask takes the daemon's status, and what it says of its surroundings.
func (x *examination) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	s, err := x.client.Status(ctx)
	if err != nil {
		x.refusal = err
		return
	}
	x.status = &s
	x.surroundings.bridge, x.surroundings.device, x.surroundings.port = s.Bridge, s.Device, s.Port
	if s.StateDir != "" {
		x.surroundings.state, x.surroundings.secret = s.StateDir, s.SecretFile
	}
	if s.IPAM != nil {
		x.surroundings.overlay = s.IPAM.Range
	}
}

// hidden reports whether a daemon may run that this user may not ask.
func (x *examination) hidden() bool { return errors.Is(x.refusal, fs.ErrPermission) }

// maxFindings bounds what one check says; what is more is one line.
const maxFindings = 8

// graceTime is how long a check has to tell what it found when its time is over: that
// there was no answer is a finding, and the better one.
const graceTime = 200 * time.Millisecond

// within runs the check for so long at most. One that does not end, such as one that
// asks for the space of a dead file server, is left behind: the program ends soon.
func (c check) within(ctx context.Context, x *examination, limit time.Duration) []finding {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []finding, 1)
	go func() { done <- c.run(ctx, x) }()
	var found []finding
	select {
	case found = <-done:
	case <-ctx.Done():
		select {
		case found = <-done:
		case <-time.After(graceTime):
			found = []finding{warning("run it again; if it stays so, what it looks at hangs", "nothing was found out within %v", limit)}
		}
	}
	if more := len(found) - maxFindings; more > 0 {
		last := found[maxFindings]
		last.Found = fmt.Sprintf("%d more like these", more)
		found = append(found[:maxFindings:maxFindings], last)
	}
	for i := range found {
		found[i].Check, found[i].About = c.name, c.about
	}
	return found
}

// one is what a check returns that found one thing.
func one(f finding) []finding { return []finding{f} }

// orGood is found, or f when nothing was.
func orGood(found []finding, format string, args ...any) []finding {
	if len(found) > 0 {
		return found
	}
	return one(good(format, args...))
}

// checkDaemon says whether a daemon answers.
func checkDaemon(_ context.Context, x *examination) []finding {
	switch {
	case x.status != nil:
		s := x.status
		return one(good("%s answers, as %s %s, for %v", s.Software, s.Nickname, s.Name, time.Duration(s.UptimeSec)*time.Second))
	case x.hidden():
		return one(skipped("be root (sudo ripstop doctor) or in the socket's group, which `ripstop up --socket-group` sets", "this user may not open the socket %s", x.socket))
	case errors.Is(x.refusal, api.ErrUnreachable):
		return one(failure("start one by `ripstop up`, or say by --socket where it listens", "none answers at %s", x.socket))
	case errors.Is(x.refusal, context.DeadlineExceeded):
		return one(failure("end it by its process number and start it again by `ripstop up`; its log may say what it waits for", "one listens at %s and says nothing within %v", x.socket, askTime))
	}
	return one(failure("`ripstop version` here and the version that runs should be the same", "it gives no status: %v", x.refusal))
}
