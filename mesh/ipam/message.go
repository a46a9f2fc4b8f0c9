package ipam

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ripstop/crypto"
)

// A message between two hosts:
//
//	version 1 | type 1 | first 8 bytes of the genesis' hash | fields of the type
//
//	ask       request 8 | claim 8 | blocks 2 | subnet                     for blocks, or one address
//	donate    request 8 | n 2 | n × (block 4 | head 32) | bundle          answer: blocks
//	held      request 8 | holdings                                        answer: noted for you
//	deny      request 8                                                   answer: nothing
//	claim     live 1 | holdings                                           note these for me
//	refused   n 2 | n × (claim 8 | address | holder 16 | id)              others have them
//	return    holdings                                                    not needed any more
//	returned  holdings                                                    heard
//	want      n 2 | n × block 4                                           for registers
//	chains    bundle                                                      registers
//	offer     request 8 | n 2 | n × (block 4 | head 32 | notes)           will be yours
//	offerAck  request 8                                                   saved
//	handed    bundle                                                      is yours
//	handedAck n 2 | n × block 4                                           saved
//	witness   victim 16 | digest 32                                       have you heard it?
//	witnessed victim 16 | digest 32 | signature 64 | keys 64              no
//	witnessNo victim 16 | text                                            that cannot be said
//
//	holdings  n 2 | n × (claim 8 | address)
const (
	msgAsk byte = iota + 1
	msgDonate
	msgHeld
	msgDeny
	msgClaim
	msgRefused
	msgReturn
	msgReturned
	msgWant
	msgChains
	msgOffer
	msgOfferAck
	msgHanded
	msgHandedAck
	msgWitness
	msgWitnessed
	msgWitnessNo

	messageVersion = 1
)

func (m *Machine) message(kind byte) []byte {
	b := make([]byte, 0, 256)
	b = append(b, messageVersion, kind)
	return append(b, m.genesis.hash[:8]...)
}

func (m *Machine) post(to crypto.Name, b []byte) {
	m.send = append(m.send, Message{To: to, Bytes: b})
}

// Step takes a message of another host. An error says that it had no right form;
// it is counted, and means nothing else.
func (m *Machine) Step(now time.Time, from crypto.Name, b []byte) error {
	m.at(now)
	m.sweepKeys()
	r := &reader{b: b}
	if v := r.u8(); r.err == nil && v != messageVersion {
		m.stats.Malformed++
		return fmt.Errorf("ipam: message of version %d", v)
	}
	kind, genesis := r.u8(), [8]byte(r.take(8))
	if r.err != nil {
		m.stats.Malformed++
		return r.err
	}
	if m.genesis == nil || genesis != [8]byte(m.genesis.hash[:8]) {
		m.stats.Foreign++
		return nil
	}
	handle := map[byte]func(crypto.Name, *reader) error{
		msgAsk: m.onAsk, msgDonate: m.onDonate, msgHeld: m.onHeld, msgDeny: m.onDeny,
		msgClaim: m.onClaim, msgRefused: m.onRefused, msgReturn: m.onReturn, msgReturned: m.onReturned,
		msgWant: m.onWant, msgChains: m.onChains,
		msgOffer: m.onOffer, msgOfferAck: m.onOfferAck, msgHanded: m.onHanded, msgHandedAck: m.onHandedAck,
		msgWitness: m.onWitness, msgWitnessed: m.onWitnessed, msgWitnessNo: m.onWitnessNo,
	}[kind]
	if handle == nil {
		m.stats.Malformed++
		return fmt.Errorf("ipam: message of type %d", kind)
	}
	if err := handle(from, r); err != nil {
		m.stats.Malformed++
		return err
	}
	return nil
}

func (r *reader) holdings() (list []holding) {
	for range r.count("holdings", maxHoldings, 8+5) {
		h := holding{claim: r.u64()}
		h.addr = r.addr()
		list = append(list, h)
	}
	return list
}

func putHold(b []byte, list []holding) []byte {
	b = put16(b, len(list))
	for _, h := range list {
		b = putAddr(put64(b, h.claim), h.addr)
	}
	return b
}

func sortedNames[V any](set map[crypto.Name]V) []crypto.Name {
	return slices.SortedFunc(maps.Keys(set), crypto.Name.Compare)
}

func sortedKeys[K cmp.Ordered, V any](set map[K]V) []K { return slices.Sorted(maps.Keys(set)) }

func sortedAddrs[V any](set map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}
