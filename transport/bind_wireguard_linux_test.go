package transport_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	wgconn "golang.zx2c4.com/wireguard/conn"

	"ripstop/transport"
	"ripstop/transport/transporttest"
)

// TestWireGuardBind runs wireguard's interface over each kind of Socket.
func TestWireGuardBind(t *testing.T) {
	network := transporttest.NewNetwork(transporttest.Config{})
	for _, kind := range []struct {
		name string
		addr string
		open func(port uint16) (transport.Socket, error)
	}{
		{"linux", "127.0.0.1", func(port uint16) (transport.Socket, error) {
			return transport.Bind(transport.BindConfig{Addresses: []netip.Addr{loopback}, Port: port})
		}},
		{"std", "127.0.0.1", func(port uint16) (transport.Socket, error) { return transport.StdSocket(port) }},
		{"memory", "10.0.0.1", func(port uint16) (transport.Socket, error) {
			return network.Socket(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port))
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			var a, b wgconn.Bind = transport.NewWireGuardBind(kind.open), transport.NewWireGuardBind(kind.open)
			if err := a.Send(nil, nil); !errors.Is(err, wgconn.ErrWrongEndpointType) {
				t.Errorf("no endpoint: %v", err)
			}
			if _, _, err := a.Open(0); err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			receivers, port, err := b.Open(0)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, _, err := b.Open(0); !errors.Is(err, wgconn.ErrBindAlreadyOpen) {
				t.Errorf("opened twice: %v", err)
			}
			watch(t, b)
			to, err := a.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr(kind.addr), port).String())
			if err != nil {
				t.Fatal(err)
			}
			if to.DstIP().String() != kind.addr || to.SrcIP().IsValid() || len(to.DstToBytes()) == 0 {
				t.Errorf("endpoint %v of %v, source %v", to.DstToString(), to.DstIP(), to.SrcToString())
			}
			bufs := [][]byte{[]byte("one"), []byte("two"), []byte("three")}
			packets := make([][]byte, b.BatchSize())
			for i := range packets {
				packets[i] = make([]byte, 2048)
			}
			sizes, eps := make([]int, len(packets)), make([]wgconn.Endpoint, len(packets))
			var last wgconn.Endpoint
			for round := range 3 {
				if err := a.Send(bufs, to); err != nil {
					t.Fatal(err)
				}
				for got := 0; got < len(bufs); {
					n, err := receivers[0](packets, sizes, eps)
					if err != nil {
						t.Fatal(err)
					}
					for i := range n {
						if !bytes.Equal(packets[i][:sizes[i]], bufs[got]) {
							t.Errorf("round %d: got %q, want %q", round, packets[i][:sizes[i]], bufs[got])
						}
						last = eps[i]
						got++
					}
				}
			}
			if kind.name != "std" && last.SrcToString() != kind.addr {
				t.Errorf("came to %s", last.SrcToString())
			}
			// Back over the endpoint that was received, with and without its source.
			for range 2 {
				if err := b.Send(bufs[:1], last); err != nil {
					t.Error(err)
				}
				last.ClearSrc()
				if last.SrcIP().IsValid() {
					t.Error("the source was not cleared")
				}
			}
			// Cleared endpoints are not handed out again.
			for _, ep := range eps[:len(bufs)] {
				if ep != nil {
					ep.ClearSrc()
				}
			}
			if err := a.Send(bufs[:1], to); err != nil {
				t.Error(err)
			}
			if n, err := receivers[0](packets, sizes, eps); n != 1 || err != nil || kind.name != "std" && eps[0].SrcToString() != kind.addr {
				t.Errorf("%d received, %v, at %s", n, err, eps[0].SrcToString())
			}
			if err := a.Send([][]byte{make([]byte, 70000), []byte("behind")}, to); err == nil {
				t.Error("a datagram of 70000 bytes was sent")
			}
			if n, err := receivers[0](packets, sizes, eps); n != 1 || err != nil || sizes[0] != len("behind") {
				t.Errorf("behind the one refused: %d, %v", n, err)
			}
			if err := b.SetMark(0); err != nil {
				t.Errorf("mark 0: %v", err)
			}
			if err := b.SetMark(7); (err == nil) != (kind.name == "linux" && os.Geteuid() == 0) {
				t.Errorf("mark 7: %v", err)
			}
			for range 2 {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
			if _, err := receivers[0](packets, sizes, eps); !errors.Is(err, net.ErrClosed) {
				t.Errorf("receive after close: %v", err)
			}
			if err := b.Send(bufs, last); !errors.Is(err, net.ErrClosed) {
				t.Errorf("send after close: %v", err)
			}
			if _, again, err := b.Open(port); err != nil || again != port {
				t.Errorf("opened again at %d: %v", again, err)
			}
		})
	}
}

// TestWireGuardBindTrain: wireguard's interface knows no trains: their datagrams come one
// by one, however few buffers a call has.
func TestWireGuardBindTrain(t *testing.T) {
	b := transport.NewWireGuardBind(func(port uint16) (transport.Socket, error) {
		return transport.Bind(transport.BindConfig{Addresses: []netip.Addr{loopback}, Port: port})
	})
	receivers, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	watch(t, b)
	from := bind(t, transport.BindConfig{Addresses: []netip.Addr{loopback}})
	long, short := train("127.0.0.1", port, 1000, 30, 1), train("127.0.0.1", port, 200, 3, 0)
	if sent := from.Send([]transport.Message{long, text("127.0.0.1", port, "single"), short}); sent != 3 {
		t.Fatalf("sent %d", sent)
	}
	var want [][]byte
	for d := range long.Datagrams {
		want = append(want, d)
	}
	want = append(want, []byte("single"))
	for d := range short.Datagrams {
		want = append(want, d)
	}
	packets, sizes, eps := make([][]byte, 7), make([]int, 7), make([]wgconn.Endpoint, 7)
	for i := range packets {
		packets[i] = make([]byte, 999) // too small for those of the long train but the last
	}
	for got := 0; got < len(want); {
		n, err := receivers[0](packets, sizes, eps)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			expected := want[got]
			if len(expected) > len(packets[i]) {
				expected = nil
			}
			if !bytes.Equal(packets[i][:sizes[i]], expected) || eps[i].DstIP() != loopback {
				t.Fatalf("datagram %d: %d bytes from %v, want %d", got, sizes[i], eps[i].DstIP(), len(expected))
			}
			got++
		}
	}
}
