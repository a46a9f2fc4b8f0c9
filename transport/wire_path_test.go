package transport

import (
	"bytes"
	"errors"
	"testing"
)

func TestTrainPiece(t *testing.T) {
	piece := TrainPiece{ID: 0x0102030405060708, Place: 7, Count: 8}
	b := piece.Append([]byte{9})
	if want := []byte{9, 4, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8}; !bytes.Equal(b, want) {
		t.Fatalf("% x, want % x", b, want)
	}
	b = b[1:]
	for _, pad := range []int{0, 1, 1400} {
		if got, err := ParseTrainPiece(append(b[:TrainPieceLen:TrainPieceLen], make([]byte, pad)...)); err != nil || got != piece {
			t.Errorf("with %d bytes of padding: %+v, %v", pad, got, err)
		}
	}
	for n := range TrainPieceLen {
		if _, err := ParseTrainPiece(b[:n]); !errors.Is(err, ErrDatagramShort) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, wrong := range [][2]byte{{0, 5}, {0, 1}, {1, 8}, {1, 255}, {2, 0}, {2, 65}, {2, 7}, {3, 1}} {
		c := bytes.Clone(b)
		c[wrong[0]] = wrong[1]
		if _, err := ParseTrainPiece(c); !errors.Is(err, ErrDatagramField) {
			t.Errorf("byte %d = %d: %v", wrong[0], wrong[1], err)
		}
	}
}

func TestTrainReportForm(t *testing.T) {
	report := TrainReport{ID: 0x0102030405060708, Count: 8, Late: 2, Arrived: 0xfd}
	b := report.Append(nil)
	if want := []byte{5, 2, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0xfd}; !bytes.Equal(b, want) {
		t.Fatalf("% x, want % x", b, want)
	}
	if got, err := ParseTrainReport(append(bytes.Clone(b), 1)); err != nil || got != report {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range TrainReportLen {
		if _, err := ParseTrainReport(b[:n]); !errors.Is(err, ErrDatagramShort) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, wrong := range [][2]byte{{0, 4}, {1, 8}, {2, 0}, {2, 65}, {2, 7}, {3, 1}, {18, 1}} {
		c := bytes.Clone(b)
		c[wrong[0]] = wrong[1]
		if _, err := ParseTrainReport(c); !errors.Is(err, ErrDatagramField) {
			t.Errorf("byte %d = %d: %v", wrong[0], wrong[1], err)
		}
	}
	for _, c := range []struct {
		report TrainReport
		whole  bool
	}{
		{TrainReport{Count: 8, Arrived: 0xff}, true},
		{TrainReport{Count: 8, Arrived: 0xff, Late: 2}, true},
		{TrainReport{Count: 8, Arrived: 0xff, Late: 3}, false},
		{TrainReport{Count: 8, Arrived: 0x7f}, false},
		{TrainReport{Count: 64, Arrived: 1<<64 - 1}, true},
		{TrainReport{Count: 64, Arrived: 1<<64 - 2}, false},
		{TrainReport{Count: 1, Arrived: 1}, true},
	} {
		if c.report.Whole() != c.whole {
			t.Errorf("%+v: whole %v", c.report, !c.whole)
		}
	}
}

func TestWithoutPadding(t *testing.T) {
	padding := make([]byte, 2000)
	for _, body := range [][]byte{
		Probe{ID: 5, Path: PathDirect}.Append(nil),
		TrainPiece{ID: 5, Count: 3}.Append(nil),
	} {
		if got := WithoutPadding(append(bytes.Clone(body), padding...)); !bytes.Equal(got, body) {
			t.Errorf("%d bytes are left of %d", len(got), len(body))
		}
		if got := WithoutPadding(body[:5]); len(got) != 5 {
			t.Errorf("%d bytes are left of 5", len(got))
		}
	}
	for _, body := range [][]byte{nil, {byte(ControlRequest), 1, 2}, {byte(ControlTrainReport)}, {77, 1}} {
		if got := WithoutPadding(body); len(got) != len(body) {
			t.Errorf("%d bytes are left of %d", len(got), len(body))
		}
	}
}

func FuzzParseTrain(f *testing.F) {
	f.Add(TrainPiece{ID: 1, Place: 3, Count: 8}.Append(nil))
	f.Add(TrainReport{ID: 1, Count: 64, Late: 1, Arrived: 1 << 63}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if piece, err := ParseTrainPiece(b); err == nil {
			if !bytes.Equal(piece.Append(nil), b[:TrainPieceLen]) {
				t.Fatalf("%+v is written otherwise than it was read", piece)
			}
		}
		if report, err := ParseTrainReport(b); err == nil {
			if whole := report.Whole(); whole && report.Late != 0 && report.Arrived == 0 {
				t.Fatalf("%+v: whole though nothing arrived", report)
			}
			if !bytes.Equal(report.Append(nil), b[:TrainReportLen]) {
				t.Fatalf("%+v is written otherwise than it was read", report)
			}
		}
		if rest := WithoutPadding(b); len(rest) > len(b) {
			t.Fatal("longer without padding")
		}
	})
}
