package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How long a daemon may take to become ready, and to end after it was told to.
const (
	readyTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
)

// maxLog bounds what is kept of a daemon's output in memory; the file keeps all.
const maxLog = 4 << 20

// StartConfig says how a daemon is started.
type StartConfig struct {
	Secret string   // token or passphrase; empty = what the state directory holds
	Peers  []string // hosts of the lab by name, anything else as it is
	Args   []string // further flags of `ripstop up`
	Env    []string // further environment, NAME=value
	NoWait bool     // return at once instead of when the daemon is ready
}

// Daemon is one run of `ripstop up` in a host.
type Daemon struct {
	host *Host
	cmd  *exec.Cmd
	log  *logWriter
	done chan struct{} // closed when the process has ended
	err  error         // of Wait; read after done
}

// Start runs `ripstop up` in the host and waits until it is ready. Its state,
// socket and log lie in the lab's directory; its nickname is the host's name.
func (h *Host) Start(cfg StartConfig) (*Daemon, error) {
	args := []string{"up", "--state", h.State(), "--socket", h.Socket(), "--nickname", h.name}
	args = append(args, cfg.Args...)
	for _, peer := range cfg.Peers {
		if other := h.lab.Host(peer); other != nil {
			addr, ok := h.Addr(other)
			if !ok {
				return nil, fmt.Errorf("lab: %s: start: there is no link to %s", h.name, peer)
			}
			peer = addr.String()
		}
		args = append(args, peer)
	}
	file, err := os.OpenFile(h.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: start: %w", h.name, err)
	}
	d := &Daemon{host: h, log: &logWriter{file: file, ready: make(chan struct{})}, done: make(chan struct{})}
	d.cmd = h.command(context.Background(), h.lab.binary, args...)
	d.cmd.Env = append(d.cmd.Env, cfg.Env...)
	if cfg.Secret != "" {
		d.cmd.Env = append(d.cmd.Env, "RIPSTOP_SECRET="+cfg.Secret)
	}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := h.start(d.cmd); err != nil {
		file.Close()
		return nil, err
	}
	go func() { // ends with the process, whose end Close waits for
		d.err = d.cmd.Wait()
		file.Close()
		close(d.done)
	}()
	h.lab.mu.Lock()
	h.daemons = append(h.daemons, d)
	h.lab.mu.Unlock()
	if cfg.NoWait {
		return d, nil
	}
	return d, d.WaitReady()
}

// LogFile is the file to which all daemons of the host write their output.
func (h *Host) LogFile() string { return filepath.Join(h.lab.dir, h.name, "log") }

// WaitReady waits for the daemon's ready line. A daemon that ends or stays silent is
// an error with the end of its log.
func (d *Daemon) WaitReady() error {
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-d.log.ready:
		return nil
	case <-d.done:
		return fmt.Errorf("lab: %s: the daemon ended before it was ready (%v); its log ends:\n%s", d.host.name, d.cmd.ProcessState, tail(d.Log(), 20))
	case <-timeout.C:
		return fmt.Errorf("lab: %s: the daemon is not ready after %v; its log ends:\n%s", d.host.name, readyTimeout, tail(d.Log(), 20))
	}
}

// tail is the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// PID is the daemon's process number.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log is what the daemon has written so far, at most its last 4 MiB.
func (d *Daemon) Log() string { return d.log.String() }

// Ready is the daemon's ready line, "ready name=… nickname=… socket=…"; empty before that.
func (d *Daemon) Ready() string {
	d.log.mu.Lock()
	defer d.log.mu.Unlock()
	return d.log.readyLine
}

// Done is closed when the daemon has ended.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Stop ends the daemon by SIGTERM and waits for it. An exit code other than 0, or
// a daemon that has to be killed after 5 s, is an error.
func (d *Daemon) Stop() error { return d.end(unix.SIGTERM) }

// Kill ends the daemon by SIGKILL and waits for it.
func (d *Daemon) Kill() error {
	if err := d.end(unix.SIGKILL); err != nil && d.cmd.ProcessState.ExitCode() != -1 {
		return err
	}
	return nil
}

func (d *Daemon) end(signal unix.Signal) error {
	if err := d.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("lab: %s: stop the daemon: %w", d.host.name, err)
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-d.done:
	case <-timeout.C:
		d.cmd.Process.Kill()
		<-d.done
		return fmt.Errorf("lab: %s: the daemon had to be killed %v after %v; its log ends:\n%s", d.host.name, stopTimeout, signal, tail(d.Log(), 20))
	}
	if d.err != nil {
		return fmt.Errorf("lab: %s: the daemon ended with %w; its log ends:\n%s", d.host.name, d.err, tail(d.Log(), 20))
	}
	return nil
}

// Code waits for the daemon's end and returns its exit code; -1 = ended by a signal.
func (d *Daemon) Code() int {
	<-d.done
	return d.cmd.ProcessState.ExitCode()
}

// Daemon is the host's running daemon; nil if none runs.
func (h *Host) Daemon() *Daemon {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	for _, d := range h.daemons {
		select {
		case <-d.done:
		default:
			return d
		}
	}
	return nil
}

// stopAll ends what still runs. How it ends is nobody's concern any more, unless
// it has to be killed.
func (h *Host) stopAll() error {
	for {
		d := h.Daemon()
		if d == nil {
			return nil
		}
		if err := d.Stop(); err != nil && d.cmd.ProcessState.ExitCode() == -1 {
			return err
		}
	}
}

// Ripstop runs the command line in the host, against the host's daemon.
func (h *Host) Ripstop(ctx context.Context, args ...string) (Result, error) {
	return h.Exec(ctx, h.lab.binary, append([]string{"--socket", h.Socket()}, args...)...)
}

// Attach attaches a container to its host's network; further flags as `ripstop
// attach` has them. An exit code other than 0 is an error.
func (c *Container) Attach(ctx context.Context, address string, flags ...string) error {
	args := append([]string{"attach", c.Netns(), "--name", c.name, "--address", address}, flags...)
	return c.host.must(ctx, args...)
}

// Detach takes the container off the network.
func (c *Container) Detach(ctx context.Context) error { return c.host.must(ctx, "detach", c.Netns()) }

func (h *Host) must(ctx context.Context, args ...string) error {
	r, err := h.Ripstop(ctx, args...)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("lab: %s: ripstop %s: exit code %d: %s", h.name, args[0], r.Code, strings.TrimSpace(r.Err))
	}
	return nil
}

// logWriter keeps a daemon's output and watches for its ready line.
type logWriter struct {
	file  *os.File
	ready chan struct{} // closed at the ready line

	mu        sync.Mutex // guards the rest
	text      []byte
	line      []byte // the unfinished last line, while not ready
	readyLine string
}

// Write takes the process's output as the pipe delivers it.
func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.readyLine == "" {
		w.line = append(w.line, b...)
		for w.readyLine == "" {
			line, rest, found := bytes.Cut(w.line, []byte("\n"))
			if !found {
				break
			}
			w.line = rest
			if bytes.HasPrefix(line, []byte("ready ")) {
				w.readyLine, w.line = string(line), nil
				close(w.ready)
			}
		}
	}
	w.text = append(w.text, b...)
	if over := len(w.text) - maxLog; over > 0 {
		w.text = append(w.text[:0], w.text[over:]...)
	}
	return w.file.Write(b)
}

func (w *logWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.text)
}
