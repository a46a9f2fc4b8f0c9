package gossip

import (
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"ripstop/crypto"
)

// parsed is one value of any body and the bytes it is written as.
type parsed struct {
	name  string
	value interface{ Append([]byte) ([]byte, error) }
	hex   string // without spaces
	parse func([]byte) (any, error)
}

func parsePeer(b []byte) (any, error)     { return ParsePeerBody(b) }
func parseLinks(b []byte) (any, error)    { return ParseLinksBody(b) }
func parseEndpoint(b []byte) (any, error) { return ParseEndpointBody(b) }
func parseNameBody(b []byte) (any, error) { return ParseNameBody(b) }
func parseHint(b []byte) (any, error)     { return ParseHintBody(b) }
func addr(s string) netip.Addr            { return netip.MustParseAddr(s) }
func repeated(s string, n int) string     { return strings.Repeat(s, n) }
func namedName(b byte) (n crypto.Name)    { n[0] = b; return n }
func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var bodies = []parsed{
	{"peer", PeerBody{
		Nickname: "vm1", UID: 0x0102030405060708, Mode: 2, Software: "0.1",
		Keys:      crypto.PublicKeys{Noise: crypto.NoisePublic{0: 0xaa}, Sign: crypto.SignPublic{0: 0xbb}},
		Addresses: []netip.AddrPort{netip.MustParseAddrPort("10.1.2.3:6783"), netip.MustParseAddrPort("[2001:db8::1]:1")},
	}, "01 02 0102030405060708 aa" + repeated("00", 31) + "bb" + repeated("00", 31) +
		"03 766d31 03 302e31 02 04 0a010203 1a7f 06 20010db8000000000000000000000001 0001", parsePeer},
	{"empty peer", PeerBody{}, "01 00 0000000000000000" + repeated("00", 64) + "00 00 00", parsePeer},
	{"links", LinksBody{[]LinkInfo{
		{Peer: namedName(1), RTT: 1500 * time.Microsecond, Loss: 5, MTU: 1452, Path: 1},
		{Peer: namedName(2), RTT: 100 * time.Microsecond, Path: 2},
	}}, "01 0002 01" + repeated("00", 15) + "000005dc 05 05ac 01 02" + repeated("00", 15) + "00000064 00 0000 02", parseLinks},
	{"no links", LinksBody{[]LinkInfo{}}, "01 0000", parseLinks},
	{"endpoint", EndpointBody{
		VNI: 7, MAC: [6]byte{2, 1, 2, 3, 4, 5}, MTU: 1500, Claim: 9, Flags: 1,
		Addresses: []netip.Addr{addr("10.32.0.1"), addr("fd00::1")}, Names: []string{"web", "a.b"},
	}, "01 01 0007 020102030405 05dc 0000000000000009 02 04 0a200001 06 fd000000000000000000000000000001 02 03 776562 03 612e62", parseEndpoint},
	{"name", NameBody{Name: "db.x", Addresses: []netip.Addr{addr("10.32.0.2")}, Flags: 3},
		"01 03 04 64622e78 01 04 0a200002 0000", parseNameBody},
	{"service", NameBody{Name: "_h._tcp.w", Port: 8080},
		"01 00 09 5f682e5f7463702e77 00 1f90", parseNameBody},
	{"hint", HintBody{FreeBlocks: 3, FreeAddresses: 0x01020304}, "01 00000003 01020304", parseHint},
}

func TestBodies(t *testing.T) {
	for _, c := range bodies {
		want := mustHex(t, c.hex)
		got, err := c.value.Append([]byte{0xff})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if string(got[1:]) != string(want) || got[0] != 0xff {
			t.Errorf("%s: %x, not %x", c.name, got[1:], want)
		}
		back, err := c.parse(want)
		if err != nil || !reflect.DeepEqual(back, any(c.value)) {
			t.Errorf("%s: parsed as %+v, %v", c.name, back, err)
		}
		for i := range want {
			if v, err := c.parse(want[:i]); err == nil {
				t.Errorf("%s: cut to %d bytes parsed as %+v", c.name, i, v)
			}
		}
		if _, err := c.parse(append(want, 0)); err == nil {
			t.Errorf("%s: a trailing byte was taken", c.name)
		}
		if _, err := c.parse(append([]byte{2}, want[1:]...)); err == nil {
			t.Errorf("%s: layout 2 was taken", c.name)
		}
	}
}

func TestBodiesRefused(t *testing.T) {
	many := make([]LinkInfo, MaxLinks+1)
	for i := range many {
		many[i].Peer = crypto.Name{byte(i >> 8), byte(i), 1}
	}
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	for name, v := range map[string]interface{ Append([]byte) ([]byte, error) }{
		"long nickname":        PeerBody{Nickname: repeated("x", MaxNickname+1)},
		"terminal escape":      PeerBody{Nickname: "a\x1b[2J"},
		"nickname not UTF-8":   PeerBody{Nickname: "\xff"},
		"long software":        PeerBody{Software: repeated("x", MaxSoftware+1)},
		"many addresses":       PeerBody{Addresses: make([]netip.AddrPort, MaxPeerAddress+1)},
		"port 0":               PeerBody{Addresses: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:0")}},
		"unspecified":          PeerBody{Addresses: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:1")}},
		"multicast":            PeerBody{Addresses: []netip.AddrPort{netip.MustParseAddrPort("224.0.0.1:1")}},
		"zone":                 PeerBody{Addresses: []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:1")}},
		"many links":           LinksBody{many},
		"a link twice":         LinksBody{[]LinkInfo{{Peer: namedName(1)}, {Peer: namedName(1)}}},
		"a link to nobody":     LinksBody{[]LinkInfo{{}}},
		"loss above 100":       LinksBody{[]LinkInfo{{Peer: namedName(1), Loss: 101}}},
		"negative round trip":  LinksBody{[]LinkInfo{{Peer: namedName(1), RTT: -1}}},
		"no MAC":               EndpointBody{},
		"multicast MAC":        EndpointBody{MAC: [6]byte{1, 0, 0, 0, 0, 1}},
		"many overlay address": EndpointBody{MAC: mac, Addresses: make([]netip.Addr, MaxEndpointAddresses+1)},
		"loopback":             EndpointBody{MAC: mac, Addresses: []netip.Addr{addr("127.0.0.1")}},
		"multicast address":    EndpointBody{MAC: mac, Addresses: []netip.Addr{addr("ff02::1")}},
		"many names":           EndpointBody{MAC: mac, Names: make([]string, MaxEndpointNames+1)},
		"empty name":           NameBody{},
		"upper case":           NameBody{Name: "Web"},
		"empty label":          NameBody{Name: "a..b"},
		"dot at the end":       NameBody{Name: "a."},
		"long label":           NameBody{Name: repeated("a", 64)},
		"long name":            NameBody{Name: repeated("a.", 127)},
		"name with shell":      NameBody{Name: "a;b"},
	} {
		if b, err := v.Append(nil); err == nil {
			t.Errorf("%s: written as %x", name, b)
		}
	}
	for name, c := range map[string]struct {
		hex   string
		parse func([]byte) (any, error)
	}{
		"links descending":  {"01 0002 02" + repeated("00", 23) + "01" + repeated("00", 23), parseLinks},
		"links count lies":  {"01 ffff 02" + repeated("00", 23), parseLinks},
		"family 5":          {"01 00 01 61 01 05 0a200002", parseNameBody},
		"mapped IPv4":       {"01 00 01 61 01 06 00000000000000000000ffff0a200002", parseNameBody},
		"17 addresses":      {"01 00 01 61 11" + repeated("04 0a200002", 17), parseNameBody},
		"33 peer addresses": {"01 00" + repeated("00", 74) + "21" + repeated("04 0a200002 0001", 33), parsePeer},
	} {
		if v, err := c.parse(mustHex(t, c.hex)); err == nil {
			t.Errorf("%s: parsed as %+v", name, v)
		}
	}
}

// fuzzBody checks that what parses is written back as the same bytes.
func fuzzBody[T interface{ Append([]byte) ([]byte, error) }](f *testing.F, parse func([]byte) (T, error)) {
	for _, c := range bodies {
		f.Add(mustHex(f, c.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parse(b)
		if err != nil {
			return
		}
		again, err := v.Append(nil)
		if err != nil || string(again) != string(b) {
			t.Fatalf("%x parsed as %+v and written as %x, %v", b, v, again, err)
		}
	})
}

func FuzzPeerBody(f *testing.F)     { fuzzBody(f, ParsePeerBody) }
func FuzzLinksBody(f *testing.F)    { fuzzBody(f, ParseLinksBody) }
func FuzzEndpointBody(f *testing.F) { fuzzBody(f, ParseEndpointBody) }
func FuzzNameBody(f *testing.F)     { fuzzBody(f, ParseNameBody) }
func FuzzHintBody(f *testing.F)     { fuzzBody(f, ParseHintBody) }
