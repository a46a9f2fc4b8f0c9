package main

import (
	"strings"
	"testing"
	"time"
)

// iperfReport is what iperf3 3.12 writes of one stream back, without what is not read.
const iperfReport = `{
	"start": {"connected": [{"socket": 5}], "version": "iperf 3.12", "tcp_mss_default": 1448, "test_start": {"protocol": "TCP", "reverse": 1}},
	"intervals": [],
	"end": {
		"streams": [{"sender": {"bytes": 144800000}}],
		"sum_sent": {"start": 0, "end": 1.000311, "seconds": 1.000311, "bytes": 144800000, "bits_per_second": 1158039849, "retransmits": 12, "sender": true},
		"sum_received": {"start": 0, "end": 1, "seconds": 1, "bytes": 144000000, "bits_per_second": 1152000000, "sender": true},
		"cpu_utilization_percent": {"host_total": 90.1}
	}
}`

func TestParseIperf(t *testing.T) {
	got, err := parseIperf([]byte(iperfReport))
	want := tcpResult{BitsPerSecond: 1152000000, Bytes: 144000000, Retransmits: 12, Segments: 100000}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if g := got.gbits(); g != 1.152 {
		t.Errorf("%g Gbit, want 1.152", g)
	}
	for n := range len(iperfReport) - 1 {
		if got, err := parseIperf([]byte(iperfReport[:n])); err == nil {
			t.Fatalf("cut at %d: %+v", n, got)
		}
	}
}

func TestParseIperfErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"start": {}, "intervals": [], "end": {}, "error": "unable to connect to server: Connection refused"}`: "unable to connect",
		`{"start": {"tcp_mss_default": 1448}, "end": {"sum_received": {"bytes": 0}}}`:                           "nothing was received",
		`{"start": {"tcp_mss_default": 0}, "end": {"sum_received": {"bytes": 9}}}`:                              "nothing was received",
		`iperf3: parameter error`: "no JSON",
	} {
		if got, err := parseIperf([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestIperfSeconds(t *testing.T) {
	for d, want := range map[time.Duration]int{100 * time.Millisecond: 1, time.Second: 1, 1001 * time.Millisecond: 2, 2 * time.Second: 2} {
		if got := iperfSeconds(d); got != want {
			t.Errorf("%v: %d, want %d", d, got, want)
		}
	}
}

func TestCongestionControl(t *testing.T) {
	if err := hasCongestion("reno"); err != nil { // which every kernel has
		t.Error(err)
	}
	err := hasCongestion("nosuch")
	if err == nil || !strings.Contains(err.Error(), "reno") {
		t.Errorf("it says which there are: %v", err)
	}
}
