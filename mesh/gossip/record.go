package gossip

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"ripstop/crypto"
)

// Kind says what a record is about. Numbers are never reused. A record of a
// kind that this version does not know is kept and passed on, and shown to nobody.
type Kind uint8

const (
	KindPeer     Kind = 1 // PeerBody; key ""
	KindLinks    Kind = 2 // LinksBody; key ""
	KindEndpoint Kind = 3 // EndpointBody; key is the origin's choice, unique among its endpoints
	KindName     Kind = 4 // NameBody; key is the origin's choice
	KindHint     Kind = 5 // HintBody; key ""
)

// String is the kind in one word.
func (k Kind) String() string {
	switch k {
	case KindPeer:
		return "peer"
	case KindLinks:
		return "links"
	case KindEndpoint:
		return "endpoint"
	case KindName:
		return "name"
	case KindHint:
		return "hint"
	}
	return fmt.Sprintf("kind%d", uint8(k))
}

const (
	MaxKey     = 64      // bytes of a record's key
	MaxRecords = 4096    // live records of one origin
	MaxVersion = 1 << 62 // versions from here on are refused

	maxOriginBytes = 1 << 20 // keys and bodies of one origin, deletions included
	recordCost     = 160     // bytes that holding a record costs beside key and body
)

// maxBody is the longest body of a record of kind k.
func maxBody(k Kind) int {
	switch k {
	case KindLinks:
		return maxLinksBody
	case KindEndpoint:
		return maxEndpointBody
	case KindName:
		return maxNameBody
	}
	return 1024
}

// Record is one fact, signed by the host it is about. A Record is never
// changed after it was made: Body may be shared and is for reading only.
type Record struct {
	Origin    crypto.Name
	Kind      Kind
	Deleted   bool // the origin took the fact back; Body is empty
	Key       string
	Version   uint64
	Body      []byte
	Signature crypto.Signature
}

// recordLabel and headLabel keep the two signatures apart from each other and
// from everything else an identity signs.
const (
	recordLabel = "ripstop gossip record v1"
	headLabel   = "ripstop gossip head v1"
)

// text is what the origin signs:
//
//	network 16 | origin 16 | kind 1 | deleted 1 | version 8 | key length 1 | key | body
func (r *Record) text(network crypto.NetworkID) []byte {
	b := make([]byte, 0, 43+len(r.Key)+len(r.Body)+len(r.Signature))
	b = append(b, network[:]...)
	b = append(b, r.Origin[:]...)
	b = append(b, byte(r.Kind), oneIf(r.Deleted))
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = append(b, byte(len(r.Key)))
	b = append(b, r.Key...)
	return append(b, r.Body...)
}

// recordID names a record: the first bytes of SHA-256 over text and signature.
// Lists and the head's hash are made of these.
type recordID [12]byte

// stored is a record as a State holds it.
type stored struct {
	Record
	id    recordID
	known bool // this version understands kind and body, so the record is shown
}

// cost is what holding the record is charged.
func (r *stored) cost() int { return recordCost + len(r.Key) + len(r.Body) }

// place orders records of one origin: by kind, then key.
func place(kind Kind, key string, r *stored) int {
	if c := cmp.Compare(kind, r.Kind); c != 0 {
		return c
	}
	return cmp.Compare(key, r.Key)
}

// head is an origin's signed statement about its whole set: at Version the live
// records were those whose identifiers, in the order of kind and key, hash to
// Hash. It is what makes the absence of a record something only the origin can say.
type head struct {
	Version   uint64
	Count     uint16
	Hash      [32]byte
	Signature crypto.Signature
}

// text is what the origin signs:
//
//	network 16 | origin 16 | version 8 | count 2 | hash 32
func (h *head) text(network crypto.NetworkID, origin crypto.Name) []byte {
	b := make([]byte, 0, 74)
	b = append(b, network[:]...)
	b = append(b, origin[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Version)
	b = binary.BigEndian.AppendUint16(b, h.Count)
	return append(b, h.Hash[:]...)
}

// beats says which of two heads stands: the higher version; at equal versions
// (an origin that forgot its counter, or one that lies) the greater hash, so
// that all hosts choose alike.
func (h *head) beats(o *head) bool {
	if h == nil || o == nil {
		return h != nil
	}
	if h.Version != o.Version {
		return h.Version > o.Version
	}
	return string(h.Hash[:]) > string(o.Hash[:])
}

// hashIDs is a head's hash over a list of identifiers.
func hashIDs(ids []recordID) [32]byte {
	h := sha256.New()
	for i := range ids {
		h.Write(ids[i][:])
	}
	return [32]byte(h.Sum(nil))
}

// understood reports whether the body is one that this version can read, and
// for a peer's record that its keys are the origin's.
func (r *Record) understood() bool {
	if r.Deleted {
		return r.Kind >= KindPeer && r.Kind <= KindHint
	}
	switch r.Kind {
	case KindPeer:
		b, err := ParsePeerBody(r.Body)
		return err == nil && b.Keys.Name() == r.Origin
	case KindLinks:
		return checkLinks(r.Body) == nil
	case KindEndpoint:
		_, err := ParseEndpointBody(r.Body)
		return err == nil
	case KindName:
		_, err := ParseNameBody(r.Body)
		return err == nil
	case KindHint:
		_, err := ParseHintBody(r.Body)
		return err == nil
	}
	return false
}

var (
	errTruncated = errors.New("gossip: truncated")
	errTrailing  = errors.New("gossip: trailing bytes")
)

// oneIf is 1 or 0.
func oneIf(v bool) byte {
	if v {
		return 1
	}
	return 0
}
