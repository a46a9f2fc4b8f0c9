package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ripstop/mesh/api"
)

// ponger answers pings with the given answers in turn, and then again.
func ponger(answers ...api.Pong) *daemon {
	n := 0
	d := new(daemon)
	d.pong = func(api.PingRequest) api.Pong {
		p := answers[n%len(answers)]
		p.Host = "02:00:00:00:00:0c"
		n++
		return p
	}
	return d
}

// pongOn is an answer that came the way the question went.
func pongOn(w api.PingWay, micro int64) api.Pong {
	return api.Pong{Nickname: "c\x1b[2J", Answered: true, RTTMicro: micro, Way: w, Back: &w}
}

func TestPingForPeople(t *testing.T) {
	udp := api.PingWay{Path: "udp", Remote: "198.18.2.2:6783"}
	back := pongOn(api.PingWay{Path: "relay", Via: "b\n"}, 31400)
	back.Back = &udp
	d := ponger(pongOn(udp, 431), pongOn(api.PingWay{Path: "tcp"}, 1200), pongOn(api.PingWay{Path: "relay", Via: "b"}, 900), back, api.Pong{Nickname: "c", Way: udp})
	code, out, errOut := serve(t, d)("ping", "c", "--interval", "10ms", "--timeout", "50ms")
	want := `c?[2J 1: answer in 0.43 ms, directly by udp 198.18.2.2:6783
c?[2J 2: answer in 1.20 ms, directly by tcp
c?[2J 3: answer in 0.90 ms, relayed over b
c?[2J 4: answer in 31 ms, relayed over b?; the answer came directly by udp 198.18.2.2:6783
c 5: no answer within 50ms, directly by udp 198.18.2.2:6783
c: 5 sent, 4 answered, 20 % lost; min 0.43 ms, median 1.05 ms, max 31 ms
`
	if code != ExitOK || errOut != "" || out != want {
		t.Errorf("code %d, stderr %q\ngot:\n%s\nwant:\n%s", code, errOut, out, want)
	}
	ask := api.PingRequest{Host: "c", Timeout: api.Duration(50 * time.Millisecond)}
	if !reflect.DeepEqual(d.asked, []any{ask, ask, ask, ask, ask}) {
		t.Errorf("asked %+v", d.asked)
	}

	d = ponger(api.Pong{Nickname: "c", Way: api.PingWay{Path: "relay"}})
	code, out, errOut = serve(t, d)("ping", "c", "-c", "1", "--path", "tcp")
	want = "c 1: no answer within 2s, relayed\nc: 1 sent, 0 answered, 100 % lost\n"
	if code != ExitFailed || out != want || errOut != "ripstop: no answer from c: `ripstop explain c` says how the way to it stands\n" || d.asked[0].(api.PingRequest).Path != "tcp" {
		t.Errorf("no answer: code %d, stderr %q, out %q, asked %+v", code, errOut, out, d.asked)
	}
}

func TestPingForPrograms(t *testing.T) {
	udp := api.PingWay{Path: "udp", Remote: "198.18.2.2:6783"}
	code, out, errOut := serve(t, ponger(pongOn(udp, 400), pongOn(udp, 900), api.Pong{Way: udp}))("ping", "c", "-c", "3", "--interval", "10ms", "--json")
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != ExitOK || errOut != "" {
		t.Fatalf("code %d, %v, stderr %q: %s", code, err, errOut, out)
	}
	for field, want := range map[string]any{"version": 1.0, "host": "02:00:00:00:00:0c", "sent": 3.0, "answered": 2.0, "loss": 1.0 / 3, "min_us": 400.0, "median_us": 650.0, "max_us": 900.0} {
		if got[field] != want {
			t.Errorf("%s is %v, want %v", field, got[field], want)
		}
	}
	pings := got["pings"].([]any)
	way := map[string]any{"path": "udp", "remote": "198.18.2.2:6783"}
	want := []any{map[string]any{"answered": true, "rtt_us": 400.0, "way": way, "back": way}, map[string]any{"answered": true, "rtt_us": 900.0, "way": way, "back": way}, map[string]any{"answered": false, "rtt_us": 0.0, "way": way}}
	if !reflect.DeepEqual(pings, want) {
		t.Errorf("pings %v", pings)
	}
}

// TestPingWithoutAWay: at first it is an error, later a loss; another refusal ends the
// series, whose sum is shown all the same.
func TestPingWithoutAWay(t *testing.T) {
	refuse := func(code api.Code, at int) (int, string, string) {
		d := ponger(pongOn(api.PingWay{Path: "tcp"}, 2000))
		answer := d.pong
		n := 0
		d.pong = func(q api.PingRequest) api.Pong {
			d.refusal = nil
			if n++; n == at {
				d.refusal = api.Errorf(code, "there is no way to c now")
			}
			return answer(q)
		}
		return serve(t, d)("ping", "c", "-c", "3", "--interval", "10ms")
	}
	if code, out, errOut := refuse(api.CodeUnavailable, 1); code != ExitFailed || out != "" || errOut != "ripstop: there is no way to c now\n" {
		t.Errorf("at first: code %d, out %q, stderr %q", code, out, errOut)
	}
	if code, out, errOut := refuse(api.CodeUnavailable, 2); code != ExitOK || errOut != "" || !strings.Contains(out, "c?[2J 2: there is no way to c now\n") || !strings.Contains(out, "3 sent, 2 answered, 33 % lost; min 2.00 ms") {
		t.Errorf("later: code %d, out %q, stderr %q", code, out, errOut)
	}
	if code, out, errOut := refuse(api.CodeConflict, 3); code != ExitFailed || errOut != "ripstop: there is no way to c now\n" || !strings.Contains(out, "2 sent, 2 answered, 0 % lost") {
		t.Errorf("another refusal: code %d, out %q, stderr %q", code, out, errOut)
	}
}

// TestPingIsInterrupted: what was found out so far is told.
func TestPingIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := ponger(pongOn(api.PingWay{Path: "tcp"}, 2000))
	answer, n := d.pong, 0
	d.pong = func(q api.PingRequest) api.Pong {
		if n++; n == 3 {
			cancel()
		}
		return answer(q)
	}
	socket := filepath.Join(t.TempDir(), "s")
	serveAt(t, socket, d)
	var out, errOut bytes.Buffer
	code := Main(ctx, []string{"ripstop", "ping", "c", "-c", "0", "--interval", "10ms", "--socket", socket}, Stdio{Out: &out, Err: &errOut, LookupEnv: func(string) (string, bool) { return "", false }})
	if code != ExitOK || errOut.String() != "" || !strings.HasSuffix(out.String(), "2 sent, 2 answered, 0 % lost; min 2.00 ms, median 2.00 ms, max 2.00 ms\n") {
		t.Errorf("code %d, stderr %q\n%s", code, errOut.String(), out.String())
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		sorted []int64
		want   int64
	}{{[]int64{7}, 7}, {[]int64{1, 2, 9}, 2}, {[]int64{1, 2, 4, 9}, 3}} {
		if got := median(c.sorted); got != c.want {
			t.Errorf("%v: %d", c.sorted, got)
		}
	}
}
