package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsolatedEnv is set in the environment of a program that Isolated started.
const IsolatedEnv = "RIPSTOP_ISOLATED"

// InIsolation reports whether this program was started by Isolated.
func InIsolation() bool { return os.Getenv(IsolatedEnv) != "" }

// Isolated runs this program again, with args, in network and mount namespaces of
// its own, so that whatever it leaves there goes with it; an ordinary user's inside
// a user namespace in which it is root. It returns the child's exit code. When ctx
// ends the child is sent SIGTERM and waited for; it dies with this program.
//
// Descriptors opened before, /dev/net/tun and sockets above all, keep to the outer
// namespaces; none but the given three are passed on.
func Isolated(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) (code int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return -1, fmt.Errorf("lab: find the running program: %w", err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errOut
	cmd.Env = append(os.Environ(), IsolatedEnv+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	// Unshareflags rather than Cloneflags for the mounts: then os/exec makes them
	// private first, so that nothing mounted inside shows outside.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:    unix.SIGTERM,
		Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		if os.Geteuid() != 0 {
			return -1, fmt.Errorf("lab: make a user namespace: %w: this system does not let ordinary users have one (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, or an AppArmor rule): run it as root", err)
		}
		return -1, fmt.Errorf("lab: make namespaces: %w: CAP_SYS_ADMIN is needed", err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return -1, fmt.Errorf("lab: run isolated: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}
