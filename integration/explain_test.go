package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ripstop/integration/lab"
	"ripstop/mesh/api"
)

// explain is what a host says of the way to a place, which it exits with the code of.
func (s *story) explain(host string, args ...string) (api.Explanation, error) {
	s.Helper()
	r, err := s.Host(host).Ripstop(s.ctx, append([]string{"explain", "--json"}, args...)...)
	if err != nil {
		s.Fatal(err)
	}
	var e api.Explanation
	if err := json.Unmarshal([]byte(r.Out), &e); err != nil {
		return e, fmt.Errorf("exit code %d: %s%s", r.Code, r.Out, r.Err)
	}
	if e.Arrives != (r.Code == 0) || e.Arrives != (r.Err == "") || r.Code > 1 || e.Version != api.Version {
		s.Fatalf("%s: explain %v: exit code %d, stderr %q\n%s", host, args, r.Code, r.Err, r.Out)
	}
	return e, nil
}

// says wants an explanation to be so, with steps that hold the texts, and its way by nickname.
func (s *story) says(e api.Explanation, err error, arrives bool, way string, steps ...string) error {
	s.Helper()
	if err != nil {
		return err
	}
	nick := make(map[string]string)
	for _, h := range s.names() {
		nick[s.status(h).Name] = h
	}
	var hosts, text []string
	for _, name := range e.Way {
		hosts = append(hosts, nick[name])
	}
	for _, step := range e.Steps {
		text = append(text, fmt.Sprintf("%s %s: %s", step.What, step.State, step.Text))
	}
	var errs []error
	if e.Arrives != arrives || strings.Join(hosts, "–") != way {
		errs = append(errs, fmt.Errorf("arrives %v, over %v: %s", e.Arrives, hosts, e.Verdict))
	}
	for _, want := range steps {
		if !slices.ContainsFunc(text, func(have string) bool { return strings.Contains(have, want) }) {
			errs = append(errs, fmt.Errorf("no step says %q", want))
		}
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New(strings.Join(text, "\n")))
	}
	return errors.Join(errs...)
}

// TestExplain: in a row of hosts, the way to an endpoint at its end is told by address, name
// and MAC, and why there is none when a link of it is cut; what nobody has, is free or is
// here is told apart, and what is told is what happens.
func TestExplain(t *testing.T) {
	s := tell(t, line("a", "b", "c"))
	s.upAll()
	s.reach("a", "b", "c")
	addrs := s.joinWith("a1")
	c1 := s.joinWith("c1")
	s.join("b1")
	s.known(3)
	mac := ""
	for _, e := range s.status("a").Endpoints {
		if e.Name == "c1" {
			mac = e.MAC
		}
	}
	s.answered("a1", c1[0], s.ping("a1", c1[0], lab.PingConfig{Count: 3}))

	over := []string{"endpoint ok: c1, " + mac, "on c; claim 1", "host ok: c, ", "way ok: a–b–c: 2 links", "there is no other", "link ok: with b: udp ", "session ok: with c, end to end: ", "confirmed", "mtu ok: ", "offloads ok: "}
	for _, to := range []string{c1[0].String(), c1[1].String(), "c1", "C1.c.ripstop.internal.", mac, strings.ToUpper(mac)} {
		// What a link measures takes a moment to settle.
		s.eventually("the way to "+to+" is told", func() error {
			e, err := s.explain("a", to)
			return s.says(e, err, true, "a–b–c", over...)
		})
	}
	e, err := s.explain("a", "a1", "c1")
	if err := s.says(e, err, true, "a–b–c", "from ok: a1 here, port ripv", "may send as ", "with "+addrs[0].String(), "name ok: c1.ripstop.internal is "+c1[0].String(), "up to the 1500 bytes that are sent"); err != nil {
		t.Error(err)
	}
	t.Logf("explain a1 c1:\n%s", s.run("a", "explain", "a1", "c1"))
	for _, c := range []struct {
		to      []string
		arrives bool
		way     string
		step    string
	}{
		{[]string{"a1"}, true, "a", "way ok: the bridge ripstop carries it"},
		{[]string{"a1", addrs[0].String()}, true, "a", "endpoint ok: a1, "},
		{[]string{"c"}, true, "a–b–c", "name ok: c is a host"},
		{[]string{"b"}, true, "a–b", "way ok: a–b: 1 link"},
		{[]string{"a"}, true, "a", "endpoint ok: a itself has no address"},
		{[]string{"169.254.83.53"}, true, "a", "every host answers"},
		{[]string{"ff:ff:ff:ff:ff:ff"}, true, "", "a copy goes to each host that can be reached, 2 of them: b, c"},
		{[]string{"192.0.2.9"}, false, "", "address fail: nobody is known to have 192.0.2.9"},
		{[]string{"02:00:5e:00:53:99"}, false, "", "frames for it go as copies to 2 hosts (b, c)"},
		{[]string{s.Link("a", "b").End("b").IPv4().String()}, false, "", "is an address of the host b outside this network"},
		{[]string{"nobody"}, false, "", "name fail: no name, endpoint or host on this network is called nobody"},
	} {
		e, err := s.explain("a", c.to...)
		if err := s.says(e, err, c.arrives, c.way, c.step); err != nil {
			t.Errorf("%v: %v", c.to, err)
		}
	}
	s.free()
	for args, code := range map[string]int{"10.32.0.1/12": 1, "c1 a1": 1, "": 2} {
		if r, err := s.Host("a").Ripstop(s.ctx, append([]string{"explain"}, strings.Fields(args)...)...); err != nil || r.Code != code || r.Out != "" || !strings.HasPrefix(r.Err, "ripstop: ") {
			t.Errorf("explain %s: exit code %d, %v: %s%s", args, r.Code, err, r.Out, r.Err)
		}
	}

	if err := s.Link("b", "c").Cut(); err != nil {
		t.Fatal(err)
	}
	cut := []string{"host warn: c, ", "no host has a link with it, for ", "way fail: there is no way from a to c: the link b–c is missing", "missing fail: link b–c: the record of c tells of it, that of b does not"}
	for _, to := range []string{"c1", c1[0].String(), mac, "c"} {
		s.eventually("that the way to "+to+" is cut is told", func() error {
			e, err := s.explain("a", to)
			return s.says(e, err, false, "", cut...)
		})
	}
	r, err := s.Host("a").Ripstop(s.ctx, "explain", "a1", "c1")
	if err != nil || r.Code != 1 || !strings.Contains(r.Err, "ripstop: from a1 to c1: it does not get there: there is no way from a to c: the link b–c is missing\n") || !strings.Contains(r.Out, "VERDICT  NO ") {
		t.Errorf("exit code %d, %v: %s", r.Code, err, r.Err)
	}
	t.Logf("explain a1 c1, b–c cut:\n%s%s", r.Out, r.Err)
	if err := s.Link("b", "c").Heal(); err != nil {
		t.Fatal(err)
	}
	s.eventually("the way back is told", func() error {
		e, err := s.explain("a", "c1")
		return s.says(e, err, true, "a–b–c", over...)
	})
}

// free wants what is told of an address that nobody has to be what the map says.
func (s *story) free() {
	s.Helper()
	all := s.ipam("a")
	for _, r := range all.Ranges {
		want := "free: in a block of this host"
		for _, h := range all.Hosts {
			if h.Host == r.Host && h.Nickname != "a" {
				want = "in a block of " + h.Nickname + ", which alone knows"
			}
		}
		// The last address but one of a part is given last.
		address := r.Last.Prev().String()
		e, err := s.explain("a", address)
		if err := s.says(e, err, false, "", "address ok: "+address+" is "+want, "address fail: nobody is known to have "+address); err != nil {
			s.Errorf("%s: %v", address, err)
		}
	}
}
