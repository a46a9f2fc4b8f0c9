package cli

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"ripstop/mesh/api"
)

// sampleWay is a way with something of each kind, some of it of other hosts' choosing.
func sampleWay() api.Explanation {
	return api.Explanation{
		Version: 1, From: "db", To: "web", Way: []string{"02:00:00:00:00:0a", "02:00:00:00:00:0b"}, Arrives: true, Verdict: "it gets there directly",
		Steps: []api.Step{
			{What: api.StepFrom, State: api.StepOK, Text: "db here, port ripv1: may send as 02:00:5e:00:53:01"},
			{What: api.StepEndpoint, State: api.StepOK, Text: "web, on b\x1b[2J; claim 1"},
			{What: api.StepLink, State: api.StepWarn, Text: "with b\nVERDICT no: tcp", Advice: "let UDP port 6783 through between both"},
		},
	}
}

func TestExplainForPeople(t *testing.T) {
	d := &daemon{way: sampleWay()}
	run := serve(t, d)
	code, out, errOut := run("explain", "db", "web")
	want := `        to        web, from db
      from  ok    db here, port ripv1: may send as 02:00:5e:00:53:01
  endpoint  ok    web, on b?[2J; claim 1
      link  WARN  with b?VERDICT no: tcp
                  > let UDP port 6783 through between both
   VERDICT  yes   it gets there directly
`
	if code != ExitOK || errOut != "" || out != want || !reflect.DeepEqual(d.asked, []any{api.ExplainRequest{From: "db", To: "web"}}) {
		t.Errorf("code %d, stderr %q, asked %+v\ngot:\n%s\nwant:\n%s", code, errOut, d.asked, out, want)
	}

	// One that does not get there: its advice is shown once, its reason on stderr too.
	way := sampleWay()
	way.Steps = append(way.Steps[:2], api.Step{What: api.StepWay, State: api.StepFail, Text: "there is no way from a to b", Advice: "look there"})
	way.Way, way.Arrives, way.Verdict, way.Advice = nil, false, "it does not get there: there is no way from a to b\x07", "look there"
	d = &daemon{way: way}
	code, out, errOut = serve(t, d)("explain", "web")
	want = `        to        web, from db
      from  ok    db here, port ripv1: may send as 02:00:5e:00:53:01
  endpoint  ok    web, on b?[2J; claim 1
       way  FAIL  there is no way from a to b
   VERDICT  NO    it does not get there: there is no way from a to b?
                  > look there
`
	if code != ExitFailed || errOut != "ripstop: from db to web: it does not get there: there is no way from a to b?\n" || out != want || !reflect.DeepEqual(d.asked, []any{api.ExplainRequest{To: "web"}}) {
		t.Errorf("code %d, stderr %q, asked %+v\ngot:\n%s\nwant:\n%s", code, errOut, d.asked, out, want)
	}
	code, out, errOut = serve(t, d)("explain", "web", "--json")
	var e api.Explanation
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != ExitFailed || e.Arrives || e.Version != api.Version || len(e.Steps) != 3 || strings.Count(errOut, "\n") != 1 {
		t.Errorf("code %d, %v, stderr %q: %s", code, err, errOut, out)
	}
}

func TestExplainForPrograms(t *testing.T) {
	code, out, errOut := serve(t, &daemon{way: sampleWay()})("explain", "web", "--json")
	var e api.Explanation
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != ExitOK || errOut != "" || !reflect.DeepEqual(e, sampleWay()) {
		t.Errorf("code %d, %v, stderr %q: %s", code, err, errOut, out)
	}
	d := &daemon{refusal: api.Errorf(api.CodeNotFound, "db is not attached to this host")}
	if code, out, errOut := serve(t, d)("explain", "db", "web"); code != ExitFailed || out != "" || errOut != "ripstop: db is not attached to this host\n" {
		t.Errorf("a refusal: code %d, out %q, stderr %q", code, out, errOut)
	}
}

func TestExplainRequest(t *testing.T) {
	long := strings.Repeat("x", api.MaxPlace)
	for _, c := range []struct {
		args []string
		want string // in the refusal; empty: it is taken
	}{
		{[]string{"web"}, ""}, {[]string{"db", "web"}, ""}, {[]string{long}, ""}, {[]string{"größe"}, ""},
		{nil, "TO is missing"}, {[]string{"a", "b", "c"}, "unexpected argument"}, {[]string{"", "web"}, "an empty place"}, {[]string{""}, "an empty place"},
		{[]string{long + "x"}, "254 are the most"}, {[]string{"a\x1bb"}, "no place has"}, {[]string{"a\xff"}, "no place has"},
	} {
		_, err := explainRequest(c.args)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}
