package plane

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/tun"
	"ripstop/tun/offload"
	"ripstop/tun/tuntest"
)

// superFrame is an unfinished TCP super-frame with payload, to be cut at size.
func superFrame(from, to *host, payload, size int) ([]byte, tun.Offload) {
	const headers = 14 + 20 + 20
	b := make([]byte, headers+payload)
	copy(b, to.mac[:])
	copy(b[6:], from.mac[:])
	b[12] = 8
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], from.ip.AsSlice())
	copy(ip[16:], to.ip.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 1000)
	binary.BigEndian.PutUint16(tcp[2:], 2000)
	binary.BigEndian.PutUint32(tcp[4:], 123456)
	tcp[12], tcp[13] = 5<<4, 0x18
	for i := range payload {
		tcp[20+i] = byte(i * 7)
	}
	o := tun.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16, HeaderLen: headers}
	if payload > size {
		o.Type, o.SegmentSize = tun.GSOTCPv4, uint16(size)
	}
	return b, o
}

func sum16(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// TestSuperFrames: a super-frame crosses as a train, directly and over a relay, and
// comes out as one super-frame where the device takes it, else as finished segments.
func TestSuperFrames(t *testing.T) {
	full := tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true, UDP: true}
	for _, c := range []struct {
		name         string
		capabilities tun.Capabilities
		train        int
	}{
		{"joined", full, 64},
		{"joined, no trains on the wire", full, 1},
		{"checksums only", tun.Capabilities{VirtioHeader: 10, Checksum: true}, 64},
		{"finished here", tun.Capabilities{}, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 3, crypto.CipherAuto)
				for _, h := range l.hosts {
					h.device = tuntest.NewDevice(tuntest.Config{Capabilities: c.capabilities})
					cfg := h.cfg
					cfg.Device = h.device
					h.Plane = New(cfg)
				}
				a, b, d := l.hosts[0], l.hosts[1], l.hosts[2]
				l.session(a, b, true)
				l.session(b, d, true)
				l.session(a, d, false)
				for _, h := range l.hosts {
					for _, o := range h.outlets {
						if o != nil {
							o.Train = c.train
						}
					}
				}
				l.publish()
				l.run(func() {
					for _, to := range []*host{b, d} {
						const payload, size = 60000, 1288
						f, o := superFrame(a, to, payload, size)
						want := bytes.Clone(f[54:])
						a.device.InjectOffload(0, f, o)
						synctest.Wait()
						var got []byte
						frames := 0
						for len(got) < payload {
							w, ok := to.device.Taken()
							if !ok {
								t.Fatalf("%d bytes of %d arrived; counters %v %v", len(got), payload, a.Counters().All(), to.Counters().All())
							}
							frames++
							ip := w.Bytes[14:]
							if sum16(ip[:20]) != 0xffff {
								t.Fatal("wrong IPv4 header checksum")
							}
							if n := binary.BigEndian.Uint32(ip[24:]); n != 123456+uint32(len(got)) {
								t.Fatalf("sequence %d behind %d bytes", n, len(got))
							}
							if !offload.Complete(w.Bytes, w.Offload) && w.Offload.Type == tun.GSONone {
								t.Fatal("unfinished in no way that can be finished")
							}
							if w.Offload.Type == tun.GSONone && !rightTCP(ip) {
								t.Fatal("wrong TCP checksum")
							}
							got = append(got, w.Bytes[54:]...)
						}
						if !bytes.Equal(got, want) {
							t.Error("other bytes arrived")
						}
						// The socket hands over 32 datagrams at once, the train has 47.
						if joined := frames <= 2; joined != c.capabilities.TCP {
							t.Errorf("%d frames were written", frames)
						}
					}
					if n := a.Counters().All()["drop_offload_unknown"]; n != 0 {
						t.Errorf("%d frames dropped", n)
					}
				})
			})
		})
	}
}

// rightTCP reports whether an IPv4 packet's TCP checksum is right.
func rightTCP(ip []byte) bool {
	pseudo := append(append([]byte(nil), ip[12:20]...), 0, 6, byte((len(ip)-20)>>8), byte(len(ip)-20))
	tcp := ip[20:]
	if len(tcp)%2 == 1 {
		tcp = append(bytes.Clone(tcp), 0)
	}
	return sum16(append(pseudo, tcp...)) == 0xffff
}
