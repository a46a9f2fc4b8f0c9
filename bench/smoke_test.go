package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smokePatience bounds the smoke run; it takes half a minute on an idle machine.
const smokePatience = 4 * time.Minute

// benchProgram builds the program; it needs root and iperf3.
func benchProgram(t *testing.T) string {
	t.Helper()
	complain := t.Skip
	if os.Getenv("RIPSTOP_CI") != "" {
		complain = t.Fatal
	}
	if os.Geteuid() != 0 {
		complain("the rig makes network namespaces: run as root")
	}
	for _, n := range []need{needIP, needIperf} {
		if !onPath(n.program) {
			complain(n.program + " is missing: apt-get install " + n.debian)
		}
	}
	path := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", path, "ripstop/bench").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// TestSmoke runs the whole of it, shortly, on two systems.
func TestSmoke(t *testing.T) {
	program := benchProgram(t)
	ctx, cancel := context.WithTimeout(t.Context(), smokePatience)
	defer cancel()
	dir := t.TempDir()
	jsonFile, svgFile := filepath.Join(dir, "result.json"), filepath.Join(dir, "chart.svg")
	cmd := exec.CommandContext(ctx, program, "-smoke", "-time", "0.2", "-systems", ripstop+","+wireguardGo, "-json", jsonFile, "-svg", svgFile)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, errOut.String(), out.String())
	}
	for _, want := range []string{"This was a smoke run", "TCP, Gbit/s", "UDP:", "Round trips", "Peak resident memory", "1 TCP stream: ripstop / wireguard-go"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	text, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var rep report
	if err := json.Unmarshal(text, &rep); err != nil {
		t.Fatal(err)
	}
	if len(rep.Failures) != 0 || rep.Completed != 1 {
		t.Errorf("%d rounds, failures %v", rep.Completed, rep.Failures)
	}
	keys := []string{"load.tcp", "memory.end", "tcp1.cpu", "udp100.cpu"}
	for _, n := range streamCounts {
		keys = append(keys, tcpKey(n, "out"), tcpKey(n, "back"), tcpKey(n, "machine"))
	}
	for _, n := range rep.Options.UDPSizes {
		keys = append(keys, udpKey(n, "rate"))
	}
	for _, when := range []string{"idle", "load"} {
		keys = append(keys, latencyKey("ping", when, "p50"), latencyKey("request", when, "p99"), latencyKey("request", when, "rate"))
	}
	for _, name := range []string{ripstop, wireguardGo} {
		for _, key := range keys {
			f, ok := rep.Figures[name][key]
			if cpu := strings.HasSuffix(key, ".cpu"); !ok || f.Median < 0 || f.Median == 0 && !cpu { // a tick of CPU may not have passed
				t.Errorf("%s %s: %+v", name, key, f.summary)
			}
		}
	}
	svg, err := os.ReadFile(svgFile)
	if err != nil || !bytes.HasPrefix(svg, []byte("<svg")) {
		t.Errorf("chart: %.40q, %v", svg, err)
	}
	t.Log("\n" + out.String())
}

// TestInterrupted: Ctrl-C ends a run soon, with its own exit code, and leaves nothing.
func TestInterrupted(t *testing.T) {
	program := benchProgram(t)
	tmp := t.TempDir()
	cmd := exec.Command(program, "-smoke", "-systems", ripstop, "-only", groupTCP)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	progress := &tail{ready: "[1/1 ripstop] TCP", seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = progress, progress
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	limit := time.After(smokePatience)
	select {
	case <-progress.seen:
	case err := <-ended:
		t.Fatalf("it ended: %v: %s", err, progress.lines(20))
	case <-limit:
		cmd.Process.Signal(syscall.SIGTERM)
		t.Fatalf("nothing measured: %s", progress.lines(20))
	}
	// As a terminal does it: to the whole group.
	syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
	select {
	case <-ended:
	case <-limit:
		cmd.Process.Signal(syscall.SIGTERM)
		t.Fatal("it does not end")
	}
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d: %s", code, progress.lines(20))
	}
	left, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if !strings.HasPrefix(e.Name(), "go-build") {
			t.Errorf("%s is left", e.Name())
		}
	}
}
