package transporttest

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ripstop/transport"
)

// letters is a train to b of one datagram a word of text, which have one length but for
// the last.
func letters(text string) transport.Message {
	words := strings.Fields(text)
	b := []byte(strings.Join(words, ""))
	return transport.Message{Buf: b, N: len(b), Segment: len(words[0]), Remote: at(addrB)}
}

// openPair opens a socket at each of two addresses.
func openPair(t *testing.T, n *Network) (a, b *Socket) {
	t.Helper()
	var ends [2]*Socket
	for i, addr := range []netip.Addr{addrA, addrB} {
		s, err := n.Socket(at(addr))
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = s
	}
	return ends[0], ends[1]
}

// taken is what waits at s, a message in brackets, its datagrams as words.
func taken(t *testing.T, s *Socket, buffers ...int) (text string) {
	t.Helper()
	msgs := make([]transport.Message, len(buffers))
	for i, size := range buffers {
		msgs[i] = transport.Message{Buf: make([]byte, size), Segment: 1}
	}
	n, _ := s.take(msgs)
	for i := range msgs[:n] {
		var words []string
		for d := range msgs[i].Datagrams {
			words = append(words, string(d))
		}
		text += fmt.Sprint(words)
	}
	return text
}

// TestGather: what waits comes as trains of one sender, where that was asked for.
func TestGather(t *testing.T) {
	for _, gather := range []bool{false, true} {
		n := NewNetwork(Config{Gather: gather})
		a, b := openPair(t, n)
		c, err := n.Socket(at(addrC))
		if err != nil {
			t.Fatal(err)
		}
		if st := a.Stats(); st.Gathering != gather || !st.Segmentation {
			t.Errorf("stats %+v", st)
		}
		a.Send([]transport.Message{letters("aa bb cc d"), letters("ee"), letters("ff g"), letters("hhh iii")})
		c.Send([]transport.Message{letters("jjj")})
		want := "[aa bb cc d][ee ff g][hhh iii][jjj]"
		if !gather {
			want = "[aa][bb][cc][d][ee][ff][g][hhh][iii][jjj]"
		}
		if got := taken(t, b, slices.Repeat([]int{100}, 20)...); got != want {
			t.Errorf("gather %v: got %s, want %s", gather, got, want)
		}
		if st := b.Stats(); st.Received != 10 || st.Truncated != 0 {
			t.Errorf("stats %+v", st)
		}
		n.Close()
	}
}

// TestGatherRoom: a train has what there is room for, and not more than the kernel gathers.
func TestGatherRoom(t *testing.T) {
	n := NewNetwork(Config{Gather: true})
	defer n.Close()
	a, b := openPair(t, n)
	a.Send([]transport.Message{letters("aa bb cc dd ee")})
	if got := taken(t, b, 5, 1, 4); got != "[aa bb][][dd ee]" {
		t.Errorf("got %s", got)
	}
	if st := b.Stats(); st.Received != 4 || st.Truncated != 1 {
		t.Errorf("stats %+v", st)
	}
	a.Send([]transport.Message{letters(strings.Repeat("x ", 100))})
	if got := taken(t, b, 1000, 1000); strings.Count(got, "x") != 100 || strings.Index(got, "]") != 1+2*maxGathered-1 {
		t.Errorf("got %s", got)
	}
	large := make([]byte, 8*9000)
	a.Send([]transport.Message{{Buf: large, N: len(large), Segment: 9000, Remote: at(addrB)}})
	msgs := []transport.Message{{Buf: make([]byte, 1<<17)}, {Buf: make([]byte, 1<<17)}}
	if count, _ := b.take(msgs); count != 2 || msgs[0].N != 7*9000 || msgs[1].N != 9000 || msgs[1].Segment != 0 {
		t.Errorf("%d messages of %d and %d bytes", count, msgs[0].N, msgs[1].N)
	}
}

// TestTrainImpaired: each datagram of a train meets the link by itself.
func TestTrainImpaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(Config{Seed: 3, MTU: 1500})
		defer n.Close()
		a, b := openPair(t, n)
		n.SetLink(addrA, addrB, Link{Delay: time.Millisecond, Loss: 0.3, Duplicate: 0.1})
		var sent []string
		for i := range 200 {
			sent = append(sent, fmt.Sprintf("%03d", i))
		}
		a.Send([]transport.Message{letters(strings.Join(sent, " "))})
		if got := taken(t, b, 10); got != "" {
			t.Errorf("%s came before its time", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		c := n.Counts()
		if c.Sent != 200 || c.Lost < 40 || c.Lost > 80 || c.Duplicated < 5 || c.Duplicated > 30 || c.Delivered != 200-c.Lost+c.Duplicated {
			t.Errorf("counts %+v", c)
		}
		got := strings.Fields(strings.NewReplacer("[", "", "]", " ").Replace(taken(t, b, slices.Repeat([]int{10}, 300)...)))
		if uint64(len(got)) != c.Delivered || !slices.IsSorted(got) {
			t.Errorf("got %v", got)
		}
		// The same as if they had been sent one by one.
		m := NewNetwork(Config{Seed: 3})
		defer m.Close()
		a, b = openPair(t, m)
		m.SetLink(addrA, addrB, Link{Loss: 0.3, Duplicate: 0.1})
		for _, word := range sent {
			a.Send([]transport.Message{letters(word)})
		}
		single := strings.Fields(strings.NewReplacer("[", "", "]", " ").Replace(taken(t, b, slices.Repeat([]int{10}, 300)...)))
		if !slices.Equal(single, got) {
			t.Errorf("one by one: got %v, as a train %v", single, got)
		}
	})
}

// TestTrainMTU: with don't-fragment the longest datagrams of a train vanish at a link
// that does not carry them, or are refused by the interface; the shorter last one passes.
func TestTrainMTU(t *testing.T) {
	n := NewNetwork(Config{MTU: 1500})
	defer n.Close()
	a, _ := openPair(t, n)
	n.SetLink(addrA, addrB, Link{MTU: 1280})
	for _, test := range []struct {
		df                               bool
		size                             int
		sent                             int
		arrive, tooBig, fragmented, fail uint64
	}{
		{false, 1252, 1, 3, 0, 0, 0},
		{false, 1253, 1, 3, 0, 2, 0},
		{true, 1252, 1, 3, 0, 0, 0},
		{true, 1253, 1, 1, 2, 0, 0},
		{true, 1473, 0, 1, 0, 0, 2},
		{false, 1473, 1, 3, 0, 2, 0},
	} {
		if err := a.SetDF(test.df); err != nil {
			t.Fatal(err)
		}
		before, failed := n.Counts(), a.Stats().TooBig
		buf := make([]byte, 2*test.size+10)
		msgs := []transport.Message{{Buf: buf, N: len(buf), Segment: test.size, Remote: at(addrB)}}
		if sent := a.Send(msgs); sent != test.sent || (msgs[0].Err == error(syscall.EMSGSIZE)) != (test.sent == 0) {
			t.Errorf("%+v: sent %d, %v", test, sent, msgs[0].Err)
		}
		c := n.Counts()
		if c.Delivered-before.Delivered != test.arrive || c.TooBig-before.TooBig != test.tooBig ||
			c.Fragmented-before.Fragmented != test.fragmented || a.Stats().TooBig-failed != test.fail {
			t.Errorf("%+v: counts %+v, before %+v", test, c, before)
		}
	}
}

// TestCorrupt: of each train of equal lengths one datagram arrives altered; a train with
// a shorter last one, a train of one and a datagram arrive as they were sent.
func TestCorrupt(t *testing.T) {
	for k, want := range map[int]string{
		0: "[aa bb cc dd][ee ff g][hh][ii]",
		1: "[\x9e\x9e bb cc dd][ee ff g][hh][ii]",
		3: "[aa bb \x9c\x9c dd][ee ff g][hh][ii]",
		5: "[aa bb cc dd][ee ff g][hh][ii]",
	} {
		n := NewNetwork(Config{})
		a, b := openPair(t, n)
		n.SetLink(addrA, addrB, Link{Corrupt: k})
		one := letters("ii")
		one.Segment = 0
		first := letters("aa bb cc dd")
		kept := bytes.Clone(first.Buf)
		var got string
		for _, m := range []transport.Message{first, letters("ee ff g"), letters("hh"), one} {
			a.Send([]transport.Message{m})
			words := taken(t, b, slices.Repeat([]int{10}, 9)...)
			got += strings.ReplaceAll(words, "][", " ")
		}
		if got != want {
			t.Errorf("corrupt %d: got %q, want %q", k, got, want)
		}
		if !bytes.Equal(first.Buf, kept) {
			t.Errorf("corrupt %d: the sender's buffer was altered", k)
		}
		if c := n.Counts(); (c.Corrupted == 1) != (k == 1 || k == 3) {
			t.Errorf("corrupt %d: counts %+v", k, c)
		}
		n.Close()
	}
	// Of a long one only the last bytes.
	n := NewNetwork(Config{Gather: true, Link: Link{Corrupt: 2}})
	defer n.Close()
	a, b := openPair(t, n)
	a.Send([]transport.Message{letters("0123456789 0123456789")})
	if got := taken(t, b, 100); got != "[0123456789 01\xcd\xcc\xcb\xca\xc9\xc8\xc7\xc6]" {
		t.Errorf("got %q", got)
	}
}
