package tun

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const clonePath = "/dev/net/tun"

// openClone opens one descriptor of the TUN or TAP of that name, with O_NONBLOCK for
// one that Go's poller waits for. It returns the name the kernel chose.
func openClone(name string, flags uint16, mode int) (*os.File, string, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC|mode, 0)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, "", fmt.Errorf("%w (%v): load the driver with `modprobe tun`, or give the container the device (docker run --device /dev/net/tun)", ErrNoTunnelDevice, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, "", fmt.Errorf("%s: %w: allow this user to open it (chmod 0666 /dev/net/tun), or give the container the device (docker run --device /dev/net/tun)", clonePath, err)
	default:
		return nil, "", fmt.Errorf("%s: %w", clonePath, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		switch {
		case errors.Is(err, unix.EPERM):
			return nil, "", privilege(err)
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EEXIST):
			if taken := whoHas(name); taken != nil {
				return nil, "", taken
			}
		}
		return nil, "", fmt.Errorf("make the device: %w", err)
	}
	file := os.NewFile(uintptr(fd), clonePath)
	return file, request.Name(), nil
}

// privilege is err with what helps, when err is the kernel's refusal for lack of
// it; any other error comes back as it is.
func privilege(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	return fmt.Errorf("%w (%w): run as root, or give the program the capability (setcap cap_net_admin+ep on it, AmbientCapabilities=CAP_NET_ADMIN in its unit, docker run --cap-add NET_ADMIN)", ErrPrivilege, err)
}

// idleTAP tells whether the name belongs to a persistent TAP that may be taken
// over; a name that belongs to anything else is an error, a free one is not.
func idleTAP(name string) (bool, error) {
	link, err := linkByName(name)
	if errors.Is(err, errNoLink) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	tap, ok := link.(*netlink.Tuntap)
	if ok && tap.Mode == netlink.TUNTAP_MODE_TAP && !tap.NonPersist && tap.Queues == 0 &&
		tap.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 {
		return true, nil
	}
	return false, taken(link)
}

// whoHas is the error that names who has the name, nil when nobody has.
func whoHas(name string) error {
	link, err := linkByName(name)
	if err != nil {
		return nil
	}
	return taken(link)
}

func taken(link netlink.Link) error {
	name := link.Attrs().Name
	if tap, ok := link.(*netlink.Tuntap); ok {
		kind := "TUN"
		if tap.Mode == netlink.TUNTAP_MODE_TAP {
			kind = "TAP"
		}
		if tap.Queues > 0 || tap.NonPersist {
			return fmt.Errorf("%w by a %s that a running program has open: stop that program, or choose another name with --device", ErrNameTaken, kind)
		}
		return fmt.Errorf("%w by a persistent %s of another form: remove it with `ip link delete %s`, or choose another name with --device", ErrNameTaken, kind, name)
	}
	return fmt.Errorf("%w by a %s device: choose another name, or remove it with `ip link delete %s`", ErrNameTaken, kindOf(link), name)
}

// kindOf is the kind of a link for people.
func kindOf(link netlink.Link) string {
	if kind := link.Type(); kind != "" && kind != "device" {
		return kind
	}
	return "network"
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("no interface name given")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("interface name %q is longer than %d bytes", name, unix.IFNAMSIZ-1)
	case name == "." || name == "..", strings.ContainsAny(name, "/: \t\n\v\f\r\x00"):
		return fmt.Errorf("%q is not an interface name: no '/', ':' or blank in it", name)
	}
	return nil
}

func checkMTU(mtu int) error {
	if mtu < MinMTU || mtu > MaxMTU {
		return fmt.Errorf("%w: %d, must be from %d to %d", ErrMTU, mtu, MinMTU, MaxMTU)
	}
	return nil
}
