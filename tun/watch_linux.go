package tun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watcher hears from the kernel what becomes of some interfaces. It holds on to
// the interfaces there were at Watch: another one that later has the same name is
// another one.
type Watcher struct {
	socket *nl.NetlinkSocket
	lister *netlink.Handle
	closed atomic.Bool
	links  map[int32]*LinkEvent // by interface index; owned by Run
}

// Watch begins to watch, in the network namespace of the calling thread. All the
// interfaces must exist. Nothing that happens after Watch is missed.
func Watch(names ...string) (*Watcher, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("tun: watch links: %w", err)
	}
	lister, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("tun: watch links: %w", err)
	}
	w := &Watcher{socket: socket, lister: lister, links: make(map[int32]*LinkEvent)}
	for _, name := range names {
		link, err := linkByName(name)
		if err != nil {
			w.Close()
			return nil, fmt.Errorf("tun: watch links: %w", err)
		}
		event := eventOf(link)
		w.links[int32(link.Attrs().Index)] = &event
	}
	return w, nil
}

// Run calls changed for each change of state, master or MTU until ctx ends or
// Close is called, and then returns nil. It is called once.
func (w *Watcher) Run(ctx context.Context, changed func(LinkEvent)) error {
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	for {
		messages, _, err := w.socket.Receive()
		switch {
		case w.closed.Load():
			return nil
		case errors.Is(err, unix.ENOBUFS):
			w.lookAgain(changed) // the kernel had more to say than the socket holds
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("tun: watch links: %w", err)
		}
		for _, m := range messages {
			if len(m.Data) < unix.SizeofIfInfomsg {
				continue
			}
			message := nl.DeserializeIfInfomsg(m.Data)
			if message.Family == unix.AF_BRIDGE {
				continue // about a port's options, without the link's own state
			}
			switch m.Header.Type {
			case unix.RTM_DELLINK:
				w.gone(message.Index, changed)
			case unix.RTM_NEWLINK:
				header := unix.NlMsghdr(m.Header)
				if link, err := netlink.LinkDeserialize(&header, m.Data); err == nil {
					w.became(message.Index, eventOf(link), changed)
				}
			}
		}
	}
}

// lookAgain compares what is known with what there is.
func (w *Watcher) lookAgain(changed func(LinkEvent)) {
	for index := range w.links {
		link, err := w.lister.LinkByIndex(int(index))
		var missing netlink.LinkNotFoundError
		switch {
		case err == nil:
			w.became(index, eventOf(link), changed)
		case errors.As(err, &missing), errors.Is(err, unix.ENODEV):
			w.gone(index, changed)
		}
	}
}

func (w *Watcher) became(index int32, now LinkEvent, changed func(LinkEvent)) {
	was := w.links[index]
	switch {
	case was == nil || *was == now:
	case was.Name != now.Name:
		w.gone(index, changed)
	default:
		*was = now
		changed(now)
	}
}

func (w *Watcher) gone(index int32, changed func(LinkEvent)) {
	if was := w.links[index]; was != nil {
		delete(w.links, index)
		changed(LinkEvent{Name: was.Name, State: LinkGone})
	}
}

// Close ends Run. It may be called more than once.
func (w *Watcher) Close() error {
	if !w.closed.Swap(true) {
		w.socket.Close()
		w.lister.Close()
	}
	return nil
}

func eventOf(link netlink.Link) LinkEvent {
	attrs := link.Attrs()
	event := LinkEvent{Name: attrs.Name, State: LinkDown, Master: attrs.MasterIndex, MTU: attrs.MTU}
	if attrs.Flags&net.FlagUp != 0 {
		event.State = LinkUp
	}
	return event
}
