package api

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what this process takes of its machine, as far as asking for it is cheap. Zero
// is what could not be found out.
type usage struct {
	cpu        time.Duration // user and system
	resident   uint64        // bytes of memory
	open       int           // descriptors
	mayOpen    uint64        // descriptors, by its limit
	goroutines int
}

// readUsage asks the kernel and Go's runtime.
func readUsage() usage {
	u := usage{resident: residentMemory(), open: openDescriptors(), goroutines: runtime.NumGoroutine()}
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) == nil {
		u.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		u.mayOpen = limit.Cur
	}
	return u
}

// residentMemory is the second number of /proc/self/statm, which counts pages (proc(5)).
func residentMemory() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	numbers := bytes.Fields(b)
	if len(numbers) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(string(numbers[1]), 10, 64)
	return pages * uint64(os.Getpagesize())
}

// openDescriptors counts without the one that is open for counting.
func openDescriptors() int {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0
	}
	return len(names) - 1
}
