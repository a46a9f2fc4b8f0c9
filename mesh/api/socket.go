package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// maxSocketPath is what sockaddr_un holds, without its terminating zero (unix(7)).
const maxSocketPath = 107

// closeTimeout is what running requests are given at the end.
const closeTimeout = time.Second

// ListenSocket makes a unix socket at path with mode 0660 and, unless it is empty, that
// group, by name or number. Its directory is made when it is missing. A socket file that
// nobody answers on is replaced; one that somebody answers on is an error, and so is
// another file. Errors name the flag by which people choose the path. Closing the listener
// leaves the file.
func ListenSocket(path, group, flag string) (*net.UnixListener, error) {
	if most := maxSocketPath - len(newSuffix); len(path) > most {
		return nil, fmt.Errorf("api: socket %s: the path has %d bytes, %d are the most: choose a shorter one by %s", path, len(path), most, flag)
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("api: socket %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("api: socket %s: another daemon answers there: stop it, or choose another socket by %s", path, flag)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("api: socket %s: there is a file that is no socket: remove it, or choose another path by %s", path, flag)
	}
	listener, err := listenPrivately(path, gid)
	if err != nil {
		return nil, fmt.Errorf("api: socket %s: %w", path, err)
	}
	return listener, nil
}

// newSuffix is put behind the socket's path while its mode is not set yet.
const newSuffix = ".new"

// listenPrivately binds beside path and renames, so that nobody finds the
// socket before its group and mode are right.
func listenPrivately(path string, gid int) (*net.UnixListener, error) {
	fresh := path + newSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o660)
	if err == nil && gid >= 0 {
		err = os.Chown(fresh, -1, gid)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		l.Close()
		os.Remove(fresh)
		return nil, err
	}
	return l, nil
}

// groupID finds a group by name or number; -1 for none asked for.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("api: socket group %q: there is no such group on this host", group)
	}
	return strconv.Atoi(g.Gid)
}

// ServeHTTP answers on l until ctx ends, gives running requests a second, and closes l.
func ServeHTTP(ctx context.Context, server *http.Server, l net.Listener) error {
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-stopped:
			return
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(late) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	close(stopped)
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
