package plane

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/synctest"

	"ripstop/crypto"
	"ripstop/transport"
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

// rowOfThree is three hosts with devices of those capabilities, the outer ones by way of the
// middle one.
func rowOfThree(t *testing.T, policy crypto.CipherPolicy, capabilities tun.Capabilities) *lab {
	l := newLab(t, 3, policy)
	for _, h := range l.hosts {
		h.device = tuntest.NewDevice(tuntest.Config{Capabilities: capabilities})
		cfg := h.cfg
		cfg.Device = h.device
		h.Plane = New(cfg)
	}
	l.session(l.hosts[0], l.hosts[1], true)
	l.session(l.hosts[1], l.hosts[2], true)
	l.session(l.hosts[0], l.hosts[2], false)
	return l
}

// TestSuperFrames: a super-frame crosses as a train, directly and over a relay, and
// comes out as one super-frame where the device takes it, else as finished segments.
func TestSuperFrames(t *testing.T) {
	full := tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true, UDP: true}
	for _, c := range []struct {
		name         string
		policy       crypto.CipherPolicy
		capabilities tun.Capabilities
		train        int
	}{
		{"joined", crypto.CipherAuto, full, 64},
		{"joined, no cipher", crypto.CipherNone, full, 64},
		{"joined, no trains on the wire", crypto.CipherAuto, full, 1},
		{"checksums only", crypto.CipherAuto, tun.Capabilities{VirtioHeader: 10, Checksum: true}, 64},
		{"finished here", crypto.CipherAuto, tun.Capabilities{}, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := rowOfThree(t, c.policy, c.capabilities)
				a, b, d := l.hosts[0], l.hosts[1], l.hosts[2]
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

// tunnelFrame is a TCP super-frame in VXLAN from one host's endpoint to another's.
func tunnelFrame(from, to *host, payload, size int, summed bool) ([]byte, tun.Offload) {
	inside, o := superFrame(from, to, payload, size)
	const around = 14 + 20 + 8 + 8
	b := make([]byte, around, around+len(inside))
	copy(b, inside[:14])
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(around-14+len(inside)))
	copy(ip[12:], inside[26:34])
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, 40000)
	binary.BigEndian.PutUint16(udp[2:], 4789)
	binary.BigEndian.PutUint16(udp[4:], uint16(16+len(inside)))
	if summed {
		pseudo := append(bytes.Clone(ip[12:20]), 0, 17, udp[4], udp[5])
		binary.BigEndian.PutUint16(udp[6:], sum16(pseudo))
	}
	udp[8], udp[14] = 8, 7
	o.OuterL4, o.InnerL3 = 34, around+14
	o.ChecksumStart += around
	o.HeaderLen += around
	return append(b, inside...), o
}

// TestTunnelledSuperFrames: a super-frame of a tunnel crosses as a train and comes out as
// one where the device takes it, else as segments that are right inside and outside.
func TestTunnelledSuperFrames(t *testing.T) {
	full := tun.Capabilities{VirtioHeader: 24, Checksum: true, TCP: true, UDP: true, Tunnel: true, TunnelChecksum: true}
	for _, c := range []struct {
		name         string
		capabilities tun.Capabilities
		summed       bool
		joined       bool
	}{
		{"joined", full, false, true},
		{"joined, with outer checksum", full, true, true},
		{"no outer checksums", tun.Capabilities{VirtioHeader: 24, Checksum: true, TCP: true, UDP: true, Tunnel: true}, true, false},
		{"no tunnels", tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true, UDP: true}, false, false},
		{"no tunnels, with outer checksum", tun.Capabilities{VirtioHeader: 10, Checksum: true, TCP: true, UDP: true}, true, false},
		{"checksums only", tun.Capabilities{VirtioHeader: 10, Checksum: true}, true, false},
		{"finished here", tun.Capabilities{}, false, false},
		{"finished here, with outer checksum", tun.Capabilities{}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := rowOfThree(t, crypto.CipherAuto, c.capabilities)
				a, b, d := l.hosts[0], l.hosts[1], l.hosts[2]
				l.publish()
				l.run(func() {
					for _, to := range []*host{b, d} {
						const payload, size, headers = 60000, 1238, 104
						f, o := tunnelFrame(a, to, payload, size, c.summed)
						want := bytes.Clone(f[headers:])
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
							if !c.capabilities.Checksum && w.Offload != (tun.Offload{}) || !c.joined && w.Offload.Type != tun.GSONone {
								t.Fatalf("written as %+v", w.Offload)
							}
							outer, inner := w.Bytes[14:], w.Bytes[64:]
							if sum16(outer[:20]) != 0xffff || sum16(inner[:20]) != 0xffff {
								t.Fatal("wrong IPv4 header checksum")
							}
							if n := binary.BigEndian.Uint32(inner[24:]); n != 123456+uint32(len(got)) {
								t.Fatalf("sequence %d behind %d bytes", n, len(got))
							}
							if w.Offload.Type == tun.GSONone {
								if !offload.Complete(w.Bytes, w.Offload) || !rightTCP(inner) {
									t.Fatal("wrong TCP checksum")
								}
								if used := outer[26] != 0 || outer[27] != 0; used != c.summed || used && !rightL4(outer, 17) {
									t.Fatal("wrong outer checksum")
								}
							}
							got = append(got, w.Bytes[headers:]...)
						}
						if !bytes.Equal(got, want) {
							t.Error("other bytes arrived")
						}
						if joined := frames <= 2; joined != c.joined {
							t.Errorf("%d frames were written", frames)
						}
					}
				})
			})
		})
	}
}

// TestTunnelRecords: a record of a tunnel that contradicts itself or its frame is dropped,
// and so is one with a flag that is not known.
func TestTunnelRecords(t *testing.T) {
	l, sinks := sinkLab(t, 2, crypto.CipherAuto)
	a, b := l.hosts[0], l.hosts[1]
	l.session(a, b, true)
	l.publish()
	in := b.newInbound(1)
	in.begin()
	const partial, tunnel = transport.RecordPartial, transport.RecordTunnel
	for _, c := range []struct {
		name  string
		flags transport.RecordFlags
		aux   uint16
		ok    bool
	}{
		{"as it is", partial | tunnel, 64, true},
		{"of a train", partial | tunnel | transport.RecordTrain, 64, true},
		{"nothing is unfinished", tunnel, 64, false},
		{"nowhere", partial | tunnel, 0, false},
		{"elsewhere", partial | tunnel, 63, false},
		{"behind the frame", partial | tunnel, 0xffff, false},
		{"unknown flag", partial | tunnel | 1<<7, 64, false},
	} {
		frame, _ := tunnelFrame(a, b, 700, 1238, true)
		body := make([]byte, frameRoom, frameRoom+len(frame))
		transport.Record{Length: uint16(len(frame)), Flags: c.flags, Aux: c.aux}.Put(body[transport.HeaderLen:])
		before, dropped := sinks[1].frames, b.Counters().All()["drop_record_malformed"]
		for _, r := range in.snapshot.Sessions {
			in.records(r, append(body, frame...))
			break
		}
		in.finish()
		wrote, counted := sinks[1].frames-before, b.Counters().All()["drop_record_malformed"]-dropped
		if c.ok && (wrote != 1 || counted != 0) || !c.ok && (wrote != 0 || counted != 1) {
			t.Errorf("%s: %d written, %d counted: %v", c.name, wrote, counted, b.Counters().All())
		}
	}
}

// rightTCP reports whether an IPv4 packet's TCP checksum is right.
func rightTCP(ip []byte) bool { return rightL4(ip, 6) }

func rightL4(ip []byte, proto byte) bool {
	pseudo := append(append([]byte(nil), ip[12:20]...), 0, proto, byte((len(ip)-20)>>8), byte(len(ip)-20))
	l4 := ip[20:]
	if len(l4)%2 == 1 {
		l4 = append(bytes.Clone(l4), 0)
	}
	return sum16(append(pseudo, l4...)) == 0xffff
}

// TestLongTrainsAreNoticed: by the worker that cuts a long super-frame and by the one that
// joins it again, once; small frames are none.
func TestLongTrainsAreNoticed(t *testing.T) {
	l := newLab(t, 2, crypto.CipherAuto)
	a, b := l.hosts[0], l.hosts[1]
	wire := &hand{sinkSocket: sinkSocket{new(sink)}}
	for _, h := range l.hosts {
		cfg := h.cfg
		cfg.Socket, cfg.Device = wire, offloading{new(sink)}
		h.Plane = New(cfg)
	}
	l.session(a, b, true)
	l.trains(64)
	l.publish()
	from, to := &worker{out: a.newOutbound(0)}, &worker{in: b.newInbound(socketBatch)}
	super, o := superFrame(a, b, 40*1280, 1280)
	short, shortO := superFrame(a, b, 4*1280, 1280)
	for _, c := range []struct {
		name    string
		frame   []byte
		offload tun.Offload
		want    bool
	}{
		{"a long super-frame", super, o, true},
		{"a small frame", frame(a, b, 1, 1200), tun.Offload{}, false},
		{"a short super-frame", short, shortO, false},
		{"a long one again", super, o, true},
	} {
		f := &from.out.frames[0]
		f.Off, f.Len, f.Offload = tun.Headroom, copy(f.Buf[tun.Headroom:], c.frame), c.offload
		from.out.turn(1)
		wire.to(to.in, a)
		if cut, joined := from.tookTrain(), to.tookTrain(); cut != c.want || joined != c.want {
			t.Errorf("%s: noticed when cut %v, when joined %v", c.name, cut, joined)
		}
		if from.tookTrain() || to.tookTrain() {
			t.Errorf("%s: noticed twice", c.name)
		}
	}
}
