package tun

// LinkState is what became of a watched interface.
type LinkState uint8

// The states.
const (
	LinkUp   LinkState = iota + 1 // there and set up
	LinkDown                      // there, set down
	LinkGone                      // deleted, renamed, or moved to another namespace
)

// String is the state for people.
func (s LinkState) String() string {
	switch s {
	case LinkUp:
		return "up"
	case LinkDown:
		return "down"
	case LinkGone:
		return "gone"
	}
	return "unknown"
}

// LinkEvent is one change of a watched interface.
type LinkEvent struct {
	Name   string
	State  LinkState
	Master int // interface index of the bridge it is a port of; 0: none
	MTU    int // bytes
}
