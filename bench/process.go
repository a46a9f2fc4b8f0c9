package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ripstop/integration/lab"
)

// How long a program may take to say that it is ready, and to end.
const (
	readyTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
)

// maxTail bounds what is kept of a program's output.
const maxTail = 64 << 10

// process is a program that runs in a place until it is stopped.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer // closing it tells a generator to end
	out   *tail
	done  chan struct{} // closed when it has ended
}

// processConfig describes a program to start.
type processConfig struct {
	Place   *lab.Place
	Program string
	Args    []string
	Env     []string // further NAME=value
	Ready   string   // text of its output to wait for; empty = none
}

// start starts a program in a place; it dies with this one.
func start(ctx context.Context, cfg processConfig) (*process, error) {
	p := &process{name: cfg.Program, out: &tail{ready: cfg.Ready, seen: make(chan struct{})}, done: make(chan struct{})}
	p.cmd = exec.Command(cfg.Program, cfg.Args...)
	p.cmd.Env = append(p.cmd.Environ(), cfg.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	// A group of its own keeps it from the terminal's Ctrl-C: it is stopped in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	p.cmd.WaitDelay = time.Second // for output that a child of its own holds open
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Program, err)
	}
	p.stdin = stdin
	if err := cfg.Place.Do(p.cmd.Start); err != nil {
		stdin.Close()
		return nil, fmt.Errorf("start %s on %s: %w", cfg.Program, cfg.Place.Name(), err)
	}
	go func() { // ends with the process, which stop ends
		p.cmd.Wait()
		close(p.done)
	}()
	if cfg.Ready == "" {
		return p, nil
	}
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-p.out.seen:
		return p, nil
	case <-p.done:
		err = fmt.Errorf("%s on %s ended before it was ready (%v): %s", cfg.Program, cfg.Place.Name(), p.cmd.ProcessState, p.out.lines(10))
	case <-timeout.C:
		err = fmt.Errorf("%s on %s is not ready after %v: %s", cfg.Program, cfg.Place.Name(), readyTimeout, p.out.lines(10))
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, p.stop())
}

// pid is the process's number.
func (p *process) pid() int { return p.cmd.Process.Pid }

// wait waits for the process to end by itself.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the process and waits for it; one that has to be killed is an error.
func (p *process) stop() error {
	p.stdin.Close()
	p.cmd.Process.Signal(unix.SIGTERM)
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.done:
		return nil
	case <-timeout.C:
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s had to be killed %v after SIGTERM: %s", p.name, stopTimeout, p.out.lines(10))
	}
}

// run runs a program in a place to its end and returns its output; an exit code
// other than 0 is an error with what it said.
func run(ctx context.Context, place *lab.Place, program string, args ...string) (string, error) {
	r, err := place.Exec(ctx, program, args...)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", err
	}
	if r.Code != 0 {
		said := strings.TrimSpace(r.Err)
		if said == "" {
			said = strings.TrimSpace(r.Out)
		}
		return r.Out, fmt.Errorf("%s: %s %s: exit code %d: %s", place.Name(), program, strings.Join(args, " "), r.Code, lastLines(said, 10))
	}
	return r.Out, nil
}

// tail keeps the end of a program's output and watches for a text in it.
type tail struct {
	ready string
	seen  chan struct{} // closed when ready has come

	mu    sync.Mutex // guards the rest
	text  []byte
	found bool
}

// Write takes output as the pipe delivers it.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if !t.found && t.ready != "" && strings.Contains(string(t.text), t.ready) {
		t.found = true
		close(t.seen)
	}
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(b), nil
}

func (t *tail) lines(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastLines(string(t.text), n)
}

// lastLines is the last n lines of a text, on one line.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
