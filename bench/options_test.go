package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseOptions(t *testing.T) {
	o, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.Rounds != 7 || o.Time != 2*time.Second || !slices.Equal(o.Only, allGroups[:]) || o.MTU != 1500 || !o.Segmentation || o.Congestion != "cubic" || o.Smoke || !slices.Equal(o.UDPSizes, []int{64, 100, 1200}) {
		t.Errorf("defaults: %+v", o)
	}
	o, err = parse(strings.Fields("-smoke -only udp,tcp -systems ripstop,ripstop:x -variant x=--mtu_1280 -segmentation=false -mtu 9000"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.Rounds != 1 || o.Time != smokeTime || !slices.Equal(o.Only, []string{"udp", "tcp"}) || o.Segmentation || o.MTU != 9000 || len(o.Systems) != 2 {
		t.Errorf("%+v", o)
	}
	if o, err = parse([]string{"-smoke", "-rounds", "2", "-time", "0.5"}, io.Discard); err != nil || o.Rounds != 2 || o.Time != time.Second/2 {
		t.Errorf("what is given holds in a smoke run too: %+v, %v", o, err)
	}
	if o, err = parse([]string{"-udp-sizes", "1472,100,1472"}, io.Discard); err != nil || !slices.Equal(o.UDPSizes, []int{100, 1472}) {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"-rounds 0":                      "-rounds",
		"-time 0.01":                     "-time",
		"-time NaN":                      "-time",
		"-time 61":                       "-time",
		"-only icmp":                     "tcp,udp,latency",
		"-systems weave":                 "wireguard-go",
		"-systems ripstop:x":             "ripstop:x",
		"-mtu 1000":                      "-mtu",
		"-container-mtu 9":               "-container-mtu",
		"-udp-sizes 8":                   "-udp-sizes",
		"-udp-sizes 100,x":               "-udp-sizes",
		"-udp-sizes ,":                   "-udp-sizes",
		"-udp-rate 0":                    "-udp-rate",
		"-congestion a23456789b123456":   "-congestion",
		"-congestion=":                   "-congestion",
		"-nice -21":                      "-nice",
		"now":                            "now",
		"-variant x":                     "NAME=ARGS",
		"-variant x=1 -variant x=2":      "two",
		"-nosuch":                        "nosuch",
		"-variant a,b=1 -systems a":      "NAME=ARGS",
		"-only tcp -systems ripstop now": "now",
	} {
		var out strings.Builder
		if o, err := parse(strings.Fields(args), &out); !errors.Is(err, errUsage) || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %+v, %v, %q", args, o, err, out.String())
		}
	}
}

func TestVariants(t *testing.T) {
	var v variants
	for _, s := range []string{"small=--mtu 1280 --log-level=debug", "old=./build/ripstop --mtu 1280", "same="} {
		if err := v.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if v[0].Program != "" || !slices.Equal(v[0].Args, []string{"--mtu", "1280", "--log-level=debug"}) {
		t.Errorf("%+v", v[0])
	}
	if v[1].Program != "./build/ripstop" || !slices.Equal(v[1].Args, []string{"--mtu", "1280"}) {
		t.Errorf("%+v", v[1])
	}
	if len(v[2].Args) != 0 {
		t.Errorf("%+v", v[2])
	}
	names := systemNames(v)
	if !slices.Contains(names, "ripstop:old") || !slices.Contains(names, wireguardGo) {
		t.Errorf("%v", names)
	}
}

func TestChoose(t *testing.T) {
	all := func(string) bool { return true }
	without := func(programs ...string) func(string) bool {
		return func(p string) bool { return !slices.Contains(programs, p) }
	}
	opt := func(args string) *options {
		o, err := parse(strings.Fields(args), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	chosen, lacking, err := choose(opt(""), all)
	if err != nil || len(chosen) != len(allSystems(nil)) || len(lacking) != 0 {
		t.Errorf("%d, %v, %v", len(chosen), lacking, err)
	}
	chosen, lacking, err = choose(opt(""), without("nebula", "nebula-cert", "tincd"))
	if err != nil || len(chosen) != len(allSystems(nil))-2 || len(lacking) != 2 || lacking[0].Get != "apt-get install nebula" {
		t.Errorf("%d, %v, %v", len(chosen), lacking, err)
	}
	chosen, _, err = choose(opt("-systems ripstop,bare"), without("openvpn"))
	if err != nil || len(chosen) != 2 || chosen[0].name != bare || chosen[1].name != ripstop {
		t.Errorf("%v, %v", chosen, err)
	}
	for args, lacks := range map[string]string{"": "iperf3", "-only udp": "ip", "-systems nebula": "nebula-cert", "-segmentation=false": "ethtool"} {
		if _, _, err := choose(opt(args), without(lacks)); err == nil || !strings.Contains(err.Error(), "apt-get install") {
			t.Errorf("%s without %s: %v", args, lacks, err)
		}
	}
	if _, _, err := choose(opt("-only udp"), without("iperf3", "ethtool")); err != nil {
		t.Errorf("UDP alone needs no iperf3: %v", err)
	}
}
