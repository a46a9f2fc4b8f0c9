package route

import (
	"fmt"
	"math/bits"
	"testing"
	"time"

	"ripstop/crypto"
)

// sparse is a connected graph of about 2 log2 n links a host, as gossip makes it;
// full links everybody.
func benchLinks(hosts int, full bool) []Link {
	var links []Link
	for a := range hosts {
		for b := range a {
			if full || b == a-1 || (a*31+b*17)%hosts < 2*bits.Len(uint(hosts)) {
				links = append(links, both(a, b, time.Duration((a*7+b*3)%50)*time.Millisecond)...)
			}
		}
	}
	return links
}

func benchEndpoints(hosts, count int) []Endpoint {
	list := make([]Endpoint, count)
	for n := range list {
		list[n] = endpoint(n, n%hosts)
	}
	return list
}

func BenchmarkBuildGraph(b *testing.B) {
	for _, c := range []struct {
		hosts int
		full  bool
	}{{200, false}, {200, true}, {1000, false}, {1000, true}} {
		links := benchLinks(c.hosts, c.full)
		b.Run(fmt.Sprintf("hosts=%d/links=%d", c.hosts, len(links)), func(b *testing.B) {
			for b.Loop() {
				BuildGraph(host(0), links)
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, c := range []struct{ hosts, endpoints int }{{200, 10_000}, {1000, 100_000}} {
		g := BuildGraph(host(0), benchLinks(c.hosts, false))
		cfg := TableConfig{Self: host(0), Peers: numbers(c.hosts), Graph: g, LinksUp: allUp(g), Endpoints: benchEndpoints(c.hosts, c.endpoints)}
		name := fmt.Sprintf("hosts=%d/endpoints=%d", c.hosts, c.endpoints)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Build(cfg)
			}
		})
		again := cfg
		again.Directory = BuildDirectory(cfg.Endpoints)
		b.Run(name+"/same-directory", func(b *testing.B) {
			for b.Loop() {
				Build(again)
			}
		})
		down := again
		down.LinksUp = map[crypto.Name]bool{g.Neighbours()[0]: true}
		b.Run(name+"/same-directory/links-down", func(b *testing.B) {
			for b.Loop() {
				Build(down)
			}
		})
		clash := cfg
		clash.Endpoints = append(clash.Endpoints[:c.endpoints:c.endpoints], endpoint(5, 7))
		b.Run(name+"/one-clash", func(b *testing.B) {
			for b.Loop() {
				Build(clash)
			}
		})
	}
}

func BenchmarkSwitch(b *testing.B) {
	const hosts = 200
	for _, count := range []int{1000, 100_000} {
		tb := table(0, hosts, benchLinks(hosts, false), benchEndpoints(hosts, count))
		reply := make([]byte, ReplySize)
		var out, in, unmanaged, questions [][]byte
		for n := range 4096 {
			here, there := (n%(count/hosts))*hosts, 1+n*37%(count-1)
			if there%hosts == 0 {
				there++
			}
			out = append(out, udp4(mac(there), here, there, uint16(n)))
			in = append(in, udp4(mac(here), 1+here, here, uint16(n)))
			unmanaged = append(unmanaged, udp4(mac(there), 1<<20+n%500, there, uint16(n)))
			questions = append(questions, ask4(here, addr4(there)))
		}
		run := func(name string, frames [][]byte, one func(s *Switch, now int64, frame []byte)) {
			b.Run(fmt.Sprintf("%s/endpoints=%d", name, count), func(b *testing.B) {
				s := NewSwitch(SwitchConfig{Seed: 1})
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					one(s, int64(n)*200, frames[n&4095])
				}
			})
		}
		local := func(s *Switch, now int64, frame []byte) { s.FromLocal(tb, now, 0, frame, reply) }
		run("FromLocal/endpoint", out, local)
		run("FromLocal/unmanaged", unmanaged, local)
		run("FromLocal/arp", questions, local)
		run("FromPeer", in, func(s *Switch, now int64, frame []byte) { s.FromPeer(tb, now, 0, 2, frame) })
	}
}

func BenchmarkNextHop(b *testing.B) {
	tb := table(0, 200, benchLinks(200, false), nil)
	short := host(150).Short()
	flow := uint16(0)
	for b.Loop() {
		flow++
		tb.NextHop(short, flow, 0)
	}
}
