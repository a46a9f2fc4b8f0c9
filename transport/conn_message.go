package transport

import (
	"encoding/binary"
	"fmt"

	"ripstop/crypto"
)

// MessageKind is the first byte of every message on a control connection. The
// numbers are never reused; unknown kinds are counted and ignored.
//
//	kind 1 | body                                            MessageGossip, MessageSession, MessageDatagram
//	kind 1 | number 8                                        ping, pong
//	kind 1                                                   ready
//	kind 1 | number 8 | number of the one before 8           settled
//	kind 1 | newer UID 8                                     alive?
//	kind 1 | older UID 8 | newer UID 8 | signature 64        alive!, clone
//	kind 1 | code 1                                          close
type MessageKind uint8

// The kinds that a Handler sees.
const (
	MessageGossip   MessageKind = 1 // of mesh/gossip
	MessageSession  MessageKind = 2 // IKpsk2 message 1 or 2
	MessageDatagram MessageKind = 3 // a datagram that takes the TCP connection as its path
)

// The kinds that stay inside Control.
const (
	messagePing    MessageKind = 4  // answered by a pong with the same number
	messagePong    MessageKind = 5  //
	messageReady   MessageKind = 6  // the sender has finished the handshake and wants this connection
	messageSettled MessageKind = 7  // the lower name takes this connection into use
	messageAlive   MessageKind = 8  // a newer run of yours is here: do you live?
	messageProof   MessageKind = 9  // I do, signed for that newer run
	messageClone   MessageKind = 10 // an older run of yours lives: its proof
	messageClose   MessageKind = 11 // the last message, and why
)

// MaxMessage is the longest body of a message in bytes.
const MaxMessage = crypto.MaxRecord - 1

const (
	numberLen = 8
	proofLen  = 8 + 8 + len(crypto.Signature{})
)

// settlement is what the lower name says when it takes a connection into use: the
// number of this decision, counted over its run, and of the connection of the pair
// that was in use before, 0 if there was none. The two come on different connections,
// and may be read in the other order.
type settlement struct{ number, before uint64 }

func (m settlement) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, m.number), m.before)
}

func parseSettlement(b []byte) (m settlement, err error) {
	if len(b) != 2*numberLen {
		return m, fmt.Errorf("transport: parse settlement: %d bytes, not %d", len(b), 2*numberLen)
	}
	m = settlement{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	if m.number <= m.before {
		return m, fmt.Errorf("transport: parse settlement: number %d after %d", m.number, m.before)
	}
	return m, nil
}

// proofLabel separates proofs of life from every other signature of a host.
const proofLabel = "ripstop alive v1"

// proof says that the run older of a host was alive after its run newer had begun:
// newer is drawn at random at the start, so nobody can have had it signed before.
type proof struct {
	older, newer crypto.UID
	signature    crypto.Signature
}

func (p proof) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.older))
	b = binary.BigEndian.AppendUint64(b, uint64(p.newer))
	return append(b, p.signature[:]...)
}

func parseProof(b []byte) (p proof, err error) {
	if len(b) != proofLen {
		return p, fmt.Errorf("transport: parse proof of life: %d bytes, not %d", len(b), proofLen)
	}
	p.older = crypto.UID(binary.BigEndian.Uint64(b))
	p.newer = crypto.UID(binary.BigEndian.Uint64(b[8:]))
	p.signature = crypto.Signature(b[16:])
	if p.older == 0 || p.newer == 0 || p.older == p.newer {
		return p, fmt.Errorf("transport: parse proof of life: runs %v and %v", p.older, p.newer)
	}
	return p, nil
}

// signed is what the signature covers.
func (p proof) signed(network crypto.NetworkID) []byte {
	b := append([]byte(nil), network[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.older))
	return binary.BigEndian.AppendUint64(b, uint64(p.newer))
}

// makeProof signs that the run older, which is this one, lives.
func makeProof(id *crypto.Identity, network crypto.NetworkID, older, newer crypto.UID) proof {
	p := proof{older: older, newer: newer}
	p.signature = id.Sign(proofLabel, p.signed(network))
	return p
}

// holds reports whether the holder of key made the proof.
func (p proof) holds(key crypto.SignPublic, network crypto.NetworkID) bool {
	return crypto.Verify(key, p.signature, proofLabel, p.signed(network))
}

// parseNumber reads the body of a ping, a pong or an alive question.
func parseNumber(b []byte) (uint64, error) {
	if len(b) != numberLen {
		return 0, fmt.Errorf("transport: parse number: %d bytes, not %d", len(b), numberLen)
	}
	return binary.BigEndian.Uint64(b), nil
}

func numberMessage(kind MessageKind, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(kind)}, n)
}

// closeCode says why the sender ends a connection.
type closeCode uint8

const (
	closeOther      closeCode = 0 // anything else, and any code unknown to the receiver
	closeShutdown   closeCode = 1 // the sender's run ends
	closeSuperseded closeCode = 2 // another connection of the pair was taken into use in its place
	closeDuplicate  closeCode = 3 // another connection of the pair is in use and lives
	closeClone      closeCode = 4 // an older run of the receiver lives
	closeUnwanted   closeCode = 5 // the sender was looking for another host
	closeRestarted  closeCode = 6 // a newer run of the receiver was taken in its place
)

// String is the text that logs and status show at the receiver.
func (c closeCode) String() string {
	switch c {
	case closeShutdown:
		return "it shuts down"
	case closeSuperseded:
		return "another connection took over"
	case closeDuplicate:
		return "there is another connection"
	case closeClone:
		return "an older run of this host lives"
	case closeUnwanted:
		return "it looked for another host"
	case closeRestarted:
		return "a newer run of this host took over"
	}
	return "no reason given"
}

// parseClose reads the body of a close message.
func parseClose(b []byte) closeCode {
	if len(b) != 1 {
		return closeOther
	}
	return closeCode(b[0])
}
