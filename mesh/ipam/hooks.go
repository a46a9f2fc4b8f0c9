package ipam

import "ripstop/crypto"

// hooks is what tests replace: signatures that cost nothing, and wrong behaviour
// that the simulator has to find. It is nil in the product.
type hooks struct {
	sign   func(self crypto.Name, label string, text []byte) crypto.Signature
	verify func(by crypto.Name, sig crypto.Signature, label string, text []byte) bool
	seal   func(plain []byte) []byte
	open   func(box []byte) ([]byte, error)
	bug    bug
}

// bug is a wrong behaviour that a test plants.
type bug int

const (
	bugNone            bug = iota
	bugSendBeforeSave      // messages and answers leave before their state is durable
	bugForgetUsed          // a restart begins with an empty table of used addresses
	bugTermByHundred       // a takeover adds 100 to the step instead of beginning a term
	bugTieByFree           // equal records are settled by who is met first, as free counts did
	bugGrantBeforeList     // grants before it is known what is attached
	bugListShrinks         // a founder signs a list that is no superset of its last
	bugNoRest              // an address is given again at once
	bugForgetHeld          // a lent address is not noted
	bugDonateUsed          // blocks with addresses in use are donated
	bugReturnAny           // a return frees whatever stands there, however old it is
	bugKeepAfterLoss       // a host goes on granting from blocks that were taken
	bugNoDeadline          // a request that cannot be served waits for ever
	bugHandOverNoNotes     // leave hands blocks over without what is held in them
	bugNoQuarantine        // state loss is not noticed
)

func (m *Machine) planted(b bug) bool { return m.hooks != nil && m.hooks.bug == b }

func (m *Machine) sign(label string, text []byte) crypto.Signature {
	if m.hooks != nil && m.hooks.sign != nil {
		return m.hooks.sign(m.self, label, text)
	}
	return m.cfg.Identity.Sign(label, append(m.cfg.Network[:], text...))
}

// verify reports whether by signed text. Keys that are not known sign nothing.
func (m *Machine) verify(by crypto.Name, sig crypto.Signature, label string, text []byte) bool {
	if m.hooks != nil && m.hooks.verify != nil {
		return m.hooks.verify(by, sig, label, text)
	}
	k, ok := m.keys[by]
	return ok && crypto.Verify(k.Sign, sig, label, append(m.cfg.Network[:], text...))
}

func (m *Machine) sealState(plain []byte) []byte {
	if m.hooks != nil && m.hooks.seal != nil {
		return m.hooks.seal(plain)
	}
	return m.cfg.Identity.SealState(m.cfg.Nonces, plain)
}

func (m *Machine) openState(box []byte) ([]byte, error) {
	if m.hooks != nil && m.hooks.open != nil {
		return m.hooks.open(box)
	}
	return m.cfg.Identity.OpenState(box)
}
