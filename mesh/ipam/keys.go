package ipam

import (
	"maps"

	"ripstop/crypto"
)

// maxKeys is how many hosts' keys are kept before those are looked for that nothing
// here is about: a message brings as many as its sender likes, and they must be there
// when what they sign is checked.
const maxKeys = 1 << 14

// Known tells the keys that a name stands for; a host's records are believed only then.
func (m *Machine) Known(keys crypto.PublicKeys) {
	m.know(keys)
	m.known[keys.Name()] = true
}

func (m *Machine) know(keys crypto.PublicKeys) {
	n := keys.Name()
	if _, ok := m.keys[n]; !ok {
		m.keys[n] = keys
	}
}

// sweepKeys forgets the keys of hosts that are named in nothing that is kept, if there
// are many. Whoever tells of such a host again brings its keys along.
func (m *Machine) sweepKeys() {
	if len(m.keys) < m.keysLimit {
		return
	}
	named := m.newBundler()
	add := func(chains ...*chain) {
		for _, c := range chains {
			if c != nil {
				named.add(c)
			}
		}
	}
	for _, r := range m.registers {
		add(r.latest, r.saved)
	}
	for _, g := range m.gaps {
		add(g.chain)
	}
	for _, p := range m.proofs {
		add(p.a, p.b)
	}
	if m.flight != nil {
		add(m.flight.chains...)
	}
	if m.removal != nil {
		for _, t := range m.removal.parts {
			named.takeover(t)
		}
		for _, w := range m.removal.signed {
			named.name(w.name)
		}
	}
	for _, g := range []*genesis{m.genesis, m.met} {
		if g == nil {
			continue
		}
		for _, n := range g.founders {
			named.name(n)
		}
	}
	maps.DeleteFunc(m.keys, func(n crypto.Name, _ crypto.PublicKeys) bool {
		_, in := named.at[n]
		return !in && n != m.self && !m.known[n] && !m.reachable[n] && m.hints[n] == nil && m.statements[n] == nil
	})
	m.keysLimit = max(maxKeys, 2*len(m.keys))
}
