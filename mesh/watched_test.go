package mesh

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// TestWatchedList: the kernel is asked again where it does not tell of changes, when it has
// told of one, when it could not answer, and after a while in any case.
func TestWatchedList(t *testing.T) {
	var l watchedList[int]
	now := time.Unix(1e9, 0)
	asked := 0
	answer, failure := []int{1}, error(nil)
	look := func(want int, what string) {
		t.Helper()
		before := asked
		got, err := l.get(now, func() ([]int, error) { asked++; return answer, failure })
		if asked-before != want {
			t.Errorf("%s: asked %d times", what, asked-before)
		}
		if err == nil && !slices.Equal(got, answer) {
			t.Errorf("%s: %v", what, got)
		}
	}
	look(1, "not followed")
	look(1, "not followed, again")
	l.followed.Store(true)
	look(0, "followed")
	l.stale.Store(true)
	look(1, "told")
	look(0, "told before")
	now = now.Add(relookEvery - 1)
	look(0, "nearly old")
	now = now.Add(1)
	look(1, "old")
	l.stale.Store(true)
	failure = errors.New("busy")
	look(1, "told, no answer")
	failure, answer = nil, []int{1, 2}
	look(1, "no answer before")
	look(0, "answered")
	l.followed.Store(false)
	look(1, "followed no more")
}
