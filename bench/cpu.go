package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticks is how many units of /proc's times make a second: USER_HZ, the same on every
// Linux architecture Go runs on.
const ticks = 100

// usage is processor time in seconds, since the start of the processes.
type usage struct {
	ends, relays float64 // of the daemons, all together
	machine      float64 // busy time of all processors
}

// minus is what was used between two samples.
func (u usage) minus(before usage) usage {
	return usage{u.ends - before.ends, u.relays - before.relays, u.machine - before.machine}
}

func (u usage) plus(other usage) usage {
	return usage{u.ends + other.ends, u.relays + other.relays, u.machine + other.machine}
}

// used samples what the rig's daemons and the machine have used.
func (r *rig) used() (usage, error) {
	var u usage
	var errs []error
	for _, kind := range []struct {
		sum  *float64
		pids []int
	}{{&u.ends, r.ends}, {&u.relays, r.relays}} {
		for _, pid := range kind.pids {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				return u, fmt.Errorf("a daemon is gone: %w%s", err, r.said())
			}
			seconds, err := parseProcessTime(string(text))
			errs = append(errs, err)
			*kind.sum += seconds
		}
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	u.machine, err = parseMachineTime(string(text))
	return u, errors.Join(append(errs, err)...)
}

// parseProcessTime reads utime and stime of /proc/PID/stat (proc_pid_stat(5)) in seconds.
func parseProcessTime(stat string) (float64, error) {
	// The program's name stands in parentheses and may hold anything.
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("no name in a process's stat")
	}
	fields := strings.Fields(stat[end+1:]) // from field 3 on
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return 0, errors.New("a process's stat is too short")
	}
	user, err := strconv.ParseUint(fields[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("a process's user time: %w", err)
	}
	system, err := strconv.ParseUint(fields[stime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("a process's system time: %w", err)
	}
	return float64(user+system) / ticks, nil
}

// parseMachineTime reads the busy time of all processors from /proc/stat in seconds:
// user, nice, system, irq and softirq, of which guests' time is part.
func parseMachineTime(stat string) (float64, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, errors.New("no line of all processors in /proc/stat")
	}
	var busy uint64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		busy += n
	}
	return float64(busy) / ticks, nil
}

// peakMemory is the greatest peak resident set of some processes, bytes.
func peakMemory(pids []int) (float64, error) {
	var peak float64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		n, err := parsePeak(string(text))
		if err != nil {
			return 0, err
		}
		peak = max(peak, n)
	}
	return peak, nil
}

// parsePeak reads VmHWM of /proc/PID/status in bytes.
func parsePeak(status string) (float64, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return float64(kib) * 1024, err
		}
	}
	return 0, errors.New("no VmHWM in a process's status")
}
