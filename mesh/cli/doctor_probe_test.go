package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseRelease(t *testing.T) {
	for in, want := range map[string]version{
		"6.18.44-fc": {6, 18}, "5.10.0-28-amd64": {5, 10}, "6.1": {6, 1}, "6.17-rc2": {6, 17}, "6.6+": {6, 6}, "4.18.0-553.el8": {4, 18},
		"": {}, "6": {}, "six.one": {}, "6.x": {},
	} {
		got, known := parseRelease(in)
		if known != (want != version{}) || known && got != want {
			t.Errorf("%q: %v, %v", in, got, known)
		}
	}
}

// TestProbes: what the real kernel says of things that are known.
func TestProbes(t *testing.T) {
	h := thisHost()
	text, err := h.release()
	if v, known := parseRelease(text); err != nil || !known || v.before(version{4, 0}) {
		t.Errorf("release %q, %v", text, err)
	}
	if c, err := h.capable(); err != nil || os.Geteuid() == 0 && !c.has(0) {
		t.Errorf("capabilities %+v, %v", c, err)
	}
	if s, err := h.space(t.TempDir()); err != nil || s.bytes == 0 || s.readOnly {
		t.Errorf("space %+v, %v", s, err)
	}
	if _, err := h.space("/no/such/place"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("space of nothing: %v", err)
	}
	if err := h.open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	for address, want := range map[string]bool{"127.0.0.1": true, "203.0.113.77": false} {
		if has, err := h.has(netip.MustParseAddr(address)); has != want || err != nil {
			t.Errorf("%s: %v, %v", address, has, err)
		}
	}
	if _, err := h.tunLoaded(); err != nil {
		t.Error(err)
	}
}

// TestHolders finds this process by the port of its own sockets.
func TestHolders(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	port := tcp.Addr().(*net.TCPAddr).Port
	// A connection has the port too, and does not listen.
	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv6loopback, Port: port})
	want := []string{"tcp"}
	if err == nil { // another may have it, and there may be no IPv6
		defer udp.Close()
		want = append(want, "udp")
	}
	found, err := holders(t.Context(), uint16(port))
	if err != nil {
		t.Fatal(err)
	}
	var protocols []string
	for _, h := range found {
		protocols = append(protocols, h.protocol)
		if !strings.HasSuffix(h.process, fmt.Sprintf(" (process %d)", os.Getpid())) {
			t.Errorf("%+v is not this process, %d", h, os.Getpid())
		}
	}
	if !slices.Equal(protocols, want) {
		t.Errorf("%v, want %v", protocols, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found, err := holders(ctx, uint16(port)); err != nil || len(found) == 0 || found[0].process != "" {
		t.Errorf("told to end: %+v, %v", found, err)
	}
}
