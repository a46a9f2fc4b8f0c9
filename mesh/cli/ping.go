package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"ripstop/mesh/api"
)

const pingText = `
Measures how long another host of the network takes to answer, through ripstop itself: no address
of the overlay is needed there, and no container. Each answer is shown with the way it took: a path
over UDP by its underlay address, the TCP connection, or relayed, and over which neighbour.

HOST is a nickname or a name, as ` + "`ripstop status peers`" + ` lists them. Each question goes as frames for that
host go at that moment, or by --path on one path of the two: udp, tcp, or the underlay address and
port of one over UDP. What is asked for over UDP and TCP are the probes by which paths are found good or
bad anyway; nothing goes to an address that is no path of the two hosts.

It ends after --count questions, or by Ctrl-C; the last lines say how many were answered, and the
least, the median and the most time that took. At most 100 leave this host in a second, whoever asks.

The exit code is 0 if an answer came and 1 if none did, or there was no way to the host.

Examples:
  ripstop ping vm2
  ripstop ping vm2 --count 0 --interval 200ms     until Ctrl-C
  ripstop ping vm2 --path tcp
  ripstop ping vm2 --path 192.0.2.7:6783 --json`

// Bounds of a series of pings.
const (
	maxPingCount = 100_000
	minPingPause = 10 * time.Millisecond
	maxPingPause = time.Hour
)

// pingPlan is what to ask, and how often.
type pingPlan struct {
	host, path        string
	count             int // 0: maxPingCount
	interval, timeout time.Duration
}

func pingCommand() command {
	return command{
		name: "ping", args: "HOST [flags]", short: "measure how long another host takes to answer, and by which way", client: true, text: pingText,
		setup: func(flags *pflag.FlagSet) action {
			var p pingPlan
			flags.IntVarP(&p.count, "count", "c", 5, "`N` questions; 0: until Ctrl-C")
			flags.DurationVar(&p.interval, "interval", time.Second, "`DURATION` from one question to the next, if it is answered by then")
			flags.DurationVar(&p.timeout, "timeout", api.DefaultPingTimeout, "`DURATION` how long an answer may take")
			flags.StringVar(&p.path, "path", "", "`WAY` ask on this one: udp, tcp, or an underlay address with its port")
			return func(ctx context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("ping whom? HOST is missing")
				}
				if err := noArguments(args[1:]); err != nil {
					return err
				}
				p.host = args[0]
				if err := p.check(in.json); err != nil {
					return err
				}
				return runPing(ctx, in, p)
			}
		},
	}
}

// check refuses what makes no sense.
func (p pingPlan) check(json bool) error {
	if p.host == "" {
		return misuse("an empty host: `ripstop status peers` lists them")
	}
	if err := checkWord("host", p.host); err != nil {
		return err
	}
	if err := checkWord("path", p.path); err != nil {
		return err
	}
	switch {
	case p.count < 0 || p.count > maxPingCount:
		return misuse("--count %d: it is 1 to %d, or 0 for no end", p.count, maxPingCount)
	case p.count == 0 && json:
		return misuse("--json prints one object at the end: say by --count after how many questions that is")
	case p.interval < minPingPause || p.interval > maxPingPause:
		return misuse("--interval %v: it is %v to %v", p.interval, minPingPause, maxPingPause)
	case p.timeout < time.Millisecond || p.timeout > api.MaxPingTimeout:
		return misuse("--timeout %v: it is 1ms to %v", p.timeout, api.MaxPingTimeout)
	}
	return nil
}

// pinged is what --json prints.
type pinged struct {
	versioned
	Host        string      `json:"host"` // name
	Nickname    string      `json:"nickname"`
	Sent        int         `json:"sent"`
	Answered    int         `json:"answered"`
	Loss        float64     `json:"loss"` // 0 to 1
	MinMicro    int64       `json:"min_us"`
	MedianMicro int64       `json:"median_us"`
	MaxMicro    int64       `json:"max_us"`
	Pings       []pingedOne `json:"pings"`
}

// pingedOne is one question.
type pingedOne struct {
	Answered bool         `json:"answered"`
	RTTMicro int64        `json:"rtt_us"` // of one that was answered
	Way      *api.PingWay `json:"way,omitempty"`
	Back     *api.PingWay `json:"back,omitempty"`  // the way of the answer
	Error    string       `json:"error,omitempty"` // why it could not leave
}

// runPing asks, shows each answer as it comes, and sums up.
func runPing(ctx context.Context, in *invocation, p pingPlan) error {
	client := in.client()
	defer client.Close()
	sum := pinged{versioned: head(), Host: p.host, Pings: []pingedOne{}}
	var times []int64
	var failed error
	last := p.count
	if last == 0 {
		last = maxPingCount
	}
	for n := 1; n <= last && ctx.Err() == nil; n++ {
		next := time.Now().Add(p.interval)
		pong, err := client.Ping(ctx, api.PingRequest{Host: p.host, Path: p.path, Timeout: api.Duration(p.timeout)})
		if ctx.Err() != nil {
			break // nobody knows what would have come of this one
		}
		// That there is no way at first is for who asked; later it is what he looks for.
		if err != nil && (n == 1 || !api.IsCode(err, api.CodeUnavailable)) {
			failed = err
			break
		}
		one := pingedOne{Answered: pong.Answered, RTTMicro: pong.RTTMicro, Way: &pong.Way, Back: pong.Back}
		if err != nil {
			one = pingedOne{Error: err.Error()}
		} else {
			sum.Host, sum.Nickname = pong.Host, pong.Nickname
		}
		sum.Sent++
		if one.Answered {
			times = append(times, one.RTTMicro)
		}
		if in.json {
			sum.Pings = append(sum.Pings, one)
		} else if err := sum.printOne(in.Out, n, one, p.timeout); err != nil {
			return err
		}
		if n < last {
			pause(ctx, time.Until(next))
		}
	}
	if sum.Sent == 0 {
		return cmp.Or(failed, ctx.Err())
	}
	err := sum.end(in, times)
	return cmp.Or(failed, err)
}

// printOne shows what came of a question.
func (s *pinged) printOne(w io.Writer, n int, one pingedOne, timeout time.Duration) error {
	text := ""
	switch {
	case one.Error != "":
		text = one.Error
	case !one.Answered:
		text = fmt.Sprintf("no answer within %v, %s", timeout, wayText(*one.Way))
	default:
		text = fmt.Sprintf("answer in %s, %s", micros(one.RTTMicro), wayText(*one.Way))
		if b := one.Back; b != nil && (b.Path != one.Way.Path || b.Remote != one.Way.Remote) {
			text += "; the answer came " + wayText(*b)
		}
	}
	_, err := fmt.Fprintf(w, "%s %d: %s\n", printable(s.called()), n, printable(text))
	return err
}

// called is what people call the host.
func (s *pinged) called() string { return nickOr(s.Nickname, s.Host) }

// wayText is a way in words.
func wayText(w api.PingWay) string {
	switch {
	case w.Path == "relay" && w.Via != "":
		return "relayed over " + w.Via
	case w.Path == "relay":
		return "relayed"
	case w.Remote != "":
		return "directly by " + w.Path + " " + w.Remote
	}
	return "directly by " + w.Path
}

// end sums up what was sent. When nothing was answered that is an error, too.
func (s *pinged) end(in *invocation, times []int64) error {
	s.Answered = len(times)
	s.Loss = float64(s.Sent-s.Answered) / float64(s.Sent)
	if len(times) > 0 {
		slices.Sort(times)
		s.MinMicro, s.MedianMicro, s.MaxMicro = times[0], median(times), times[len(times)-1]
	}
	if in.json {
		if err := printJSON(in.Out, s); err != nil {
			return err
		}
	} else {
		text := fmt.Sprintf("%s: %d sent, %d answered, %.0f %% lost", s.called(), s.Sent, s.Answered, 100*s.Loss)
		if len(times) > 0 {
			text += fmt.Sprintf("; min %s, median %s, max %s", micros(s.MinMicro), micros(s.MedianMicro), micros(s.MaxMicro))
		}
		if _, err := fmt.Fprintln(in.Out, printable(text)); err != nil {
			return err
		}
	}
	if s.Answered == 0 {
		who := printable(s.called())
		return fmt.Errorf("no answer from %s: `ripstop explain %s` says how the way to it stands", who, who)
	}
	return nil
}

// median is the middle of what is sorted and not empty.
func median(sorted []int64) int64 {
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
