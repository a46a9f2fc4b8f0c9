package crypto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// exchange sends one message over a control connection.
func exchange(t testing.TB, from *RecordSealer, to *RecordOpener, text string) {
	t.Helper()
	b, err := from.Append(nil, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got, err := to.Read(bytes.NewReader(b))
	if err != nil || string(got) != text {
		t.Fatalf("%q, %v, want %q", got, err, text)
	}
}

// recordPair is one direction of a connection.
func recordPair() (*RecordSealer, *RecordOpener) {
	s, o := new(RecordSealer), new(RecordOpener)
	s.key, o.key = [32]byte{1}, [32]byte{1}
	s.direction, o.direction = toResponder, toResponder
	return s, o
}

func TestRecords(t *testing.T) {
	s, o := recordPair()
	var wire []byte
	texts := []string{"a", "", string(make([]byte, MaxRecord)), "last"}
	for _, text := range texts {
		b, err := s.Append(wire, []byte(text))
		if text == "" {
			if err == nil {
				t.Error("an empty message is sealed")
			}
			continue
		}
		if err != nil || len(b) != len(wire)+recordOverhead+len(text) {
			t.Fatalf("%d bytes for %d, %v", len(b)-len(wire), len(text), err)
		}
		wire = b
	}
	if _, err := s.Append(nil, make([]byte, MaxRecord+1)); err == nil {
		t.Error("a message over the maximum is sealed")
	}
	wire = s.AppendClose(wire)
	if n := len(wire); len(s.AppendClose(wire)) != n {
		t.Error("two close records")
	}
	if _, err := s.Append(nil, []byte("more")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("sealed after the close record: %v", err)
	}
	r := bytes.NewReader(append(wire, "rest"...))
	for _, want := range texts {
		if want == "" {
			continue
		}
		got, err := o.Read(r)
		if err != nil || string(got) != want {
			t.Fatalf("%d bytes, %v, want %d", len(got), err, len(want))
		}
	}
	for range 2 {
		if _, err := o.Read(r); err != io.EOF {
			t.Errorf("after the close record: %v", err)
		}
	}
	if r.Len() != len("rest") {
		t.Errorf("%d bytes left, want 4", r.Len())
	}
}

// A stream cut at every byte fails and never ends cleanly (T7 of the threats).
func TestRecordsTruncated(t *testing.T) {
	s, _ := recordPair()
	wire, _ := s.Append(nil, []byte("first"))
	wire, _ = s.Append(wire, []byte("second"))
	wire = s.AppendClose(wire)
	for n := range wire {
		_, o := recordPair()
		r := bytes.NewReader(wire[:n])
		var err error
		for err == nil {
			_, err = o.Read(r)
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d of %d: %v", n, len(wire), err)
		}
	}
}

// Every changed bit, and records dropped, doubled, swapped or sent back, end the stream.
func TestRecordsTampered(t *testing.T) {
	s, _ := recordPair()
	first, _ := s.Append(nil, []byte("first"))
	second, _ := s.Append(nil, []byte("secon"))
	end := s.AppendClose(nil)
	whole := bytes.Join([][]byte{first, second, end}, nil)
	var streams [][]byte
	for bit := range 8 * len(whole) {
		streams = append(streams, flipped(whole, bit))
	}
	for _, order := range [][][]byte{{second, end}, {first, end}, {first, first}, {second, first, end}, {end, first, second}} {
		streams = append(streams, bytes.Join(order, nil))
	}
	for i, wire := range streams {
		_, o := recordPair()
		r := bytes.NewReader(wire)
		var err error
		for err == nil {
			_, err = o.Read(r)
		}
		if !errors.Is(err, ErrRecord) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("stream %d: %v", i, err)
		}
		if _, again := o.Read(bytes.NewReader(whole)); again != err {
			t.Fatalf("stream %d: reads on after %v: %v", i, err, again)
		}
	}
	_, reflected := recordPair()
	reflected.direction = toInitiator
	if _, err := reflected.Read(bytes.NewReader(whole)); !errors.Is(err, ErrRecord) {
		t.Errorf("reflected: %v", err)
	}
}

// The length is bounded before memory is taken for it, and a purpose is needed.
func TestRecordHeaderBounds(t *testing.T) {
	for _, header := range []uint32{0x02ffffff, 0x02000000 | MaxRecord + 1, 0xffffffff} {
		_, o := recordPair()
		b := binary.BigEndian.AppendUint32(nil, header)
		if _, err := o.Read(bytes.NewReader(append(b, make([]byte, 100)...))); !errors.Is(err, ErrRecord) || cap(o.box) != 0 {
			t.Errorf("%08x: %v, %d bytes taken", header, err, cap(o.box))
		}
	}
	for _, c := range []struct {
		purpose recordPurpose
		text    string
	}{{0, "x"}, {purposeHello, "x"}, {9, "x"}, {purposeClose, "x"}, {purposeMessage, ""}} {
		s, o := recordPair()
		b, err := s.append(nil, []byte(c.text), c.purpose, 0, 9)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Read(bytes.NewReader(b)); !errors.Is(err, ErrRecord) {
			t.Errorf("purpose %d with %q: %v", c.purpose, c.text, err)
		}
	}
	s, o := recordPair()
	b, _ := s.Append(nil, []byte("no hello"))
	if _, err := o.readHello(bytes.NewReader(b)); !errors.Is(err, ErrRecord) {
		t.Errorf("a message in the hello's place: %v", err)
	}
}

// Both ends change the key every 2^20 records, and stop before the counter's end.
func TestRecordKeysChange(t *testing.T) {
	s, o := recordPair()
	s.count, o.count = 1<<recordsPerKeyBits-2, 1<<recordsPerKeyBits-2
	keys := map[[32]byte]bool{}
	for range 4 {
		exchange(t, s, o, "over the edge")
		keys[s.key] = true
		if s.key != o.key {
			t.Fatal("the ends disagree")
		}
	}
	if len(keys) != 2 {
		t.Errorf("%d keys over one edge, want 2", len(keys))
	}
	s, o = recordPair()
	for range 3 {
		exchange(t, s, o, "no edge at the start")
	}
	if s.key != ([32]byte{1}) {
		t.Error("the first key is replaced at once")
	}

	s.count, o.count = maxRecords-2, maxRecords-2
	exchange(t, s, o, "the last message")
	if _, err := s.Append(nil, []byte("one more")); err != ErrExhausted {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := o.Read(bytes.NewReader(s.AppendClose(nil))); err != io.EOF {
		t.Errorf("the close record has its place: %v", err)
	}
	s.closed = false
	if b := s.AppendClose(nil); len(b) != 0 {
		t.Error("a close record beyond the end")
	}
}

func FuzzRecords(f *testing.F) {
	s, _ := recordPair()
	wire, _ := s.Append(nil, []byte("first"))
	wire, _ = s.Append(wire, []byte("second"))
	wire = s.AppendClose(wire)
	f.Add(wire)
	f.Add(wire[:30])
	f.Add(flipped(wire, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, o := recordPair()
		r := bytes.NewReader(b)
		var got []string
		var err error
		for err == nil {
			var text []byte
			if text, err = o.Read(r); err == nil {
				got = append(got, string(text))
			}
		}
		if (err == io.EOF) != bytes.HasPrefix(b, wire) || len(got) > 2 || len(got) > 0 && got[0] != "first" {
			t.Fatalf("%x: %q, %v", b, got, err)
		}
	})
}
