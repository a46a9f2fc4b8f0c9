package main

import "testing"

func TestParseProcessTime(t *testing.T) {
	const stat = "4711 (a ) b (c) S 1 4711 4711 0 -1 4194560 1000 0 0 0 150 25 7 8 20 0 9 0 100 1000000 500 18446744073709551615"
	got, err := parseProcessTime(stat)
	if err != nil || got != 1.75 {
		t.Errorf("%g, %v, want 1.75", got, err)
	}
	for _, bad := range []string{"", "4711 (a", "4711 (a) S 1 2 3 4 5 6 7 8 9 10 11", "4711 (a) S 1 2 3 4 5 6 7 8 9 10 x 25", "4711 (a) S 1 2 3 4 5 6 7 8 9 10 1 -2"} {
		if got, err := parseProcessTime(bad); err == nil {
			t.Errorf("%q: %g", bad, got)
		}
	}
}

func TestParseMachineTime(t *testing.T) {
	got, err := parseMachineTime("cpu  100 10 50 100000 7 5 35 9 3 2\ncpu0 1 2 3\n")
	if err != nil || got != 2 {
		t.Errorf("%g, %v, want 2: user, nice, system, irq, softirq", got, err)
	}
	for _, bad := range []string{"", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu a 2 3 4 5 6 7 8"} {
		if got, err := parseMachineTime(bad); err == nil {
			t.Errorf("%q: %g", bad, got)
		}
	}
}

func TestParsePeak(t *testing.T) {
	got, err := parsePeak("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   28320 kB\nVmRSS:\t 1 kB\n")
	if err != nil || got != 28320*1024 {
		t.Errorf("%g, %v", got, err)
	}
	for _, bad := range []string{"", "Name:\tx\n", "VmHWM:\t many kB\n"} {
		if got, err := parsePeak(bad); err == nil {
			t.Errorf("%q: %g", bad, got)
		}
	}
}

func TestUsage(t *testing.T) {
	a, b := usage{1, 2, 3}, usage{5, 7, 9}
	if got := b.minus(a).plus(usage{1, 1, 1}); got != (usage{5, 6, 7}) {
		t.Errorf("%+v", got)
	}
}
