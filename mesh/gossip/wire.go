package gossip

import (
	"encoding/binary"
	"fmt"

	"ripstop/crypto"
)

// A message is a format number and sections; each section is its type, the
// length of its body, and the body. Unknown types are counted and skipped.
//
//	message  format 1 | section ...
//	section  type 1 | length 2 | body
//
//	summary  shift 1 | 2^shift × 8                      hashes over the offered origins of a bucket
//	digest   kind 1 | bucket 1 | n × (name 16 | complete 8 | top 8 | hash 8)
//	         kind 0: these few; 1+shift: all of that bucket
//	origin   noise key 32 | sign key 32 | quiet 2       whose head, list, records and done follow;
//	                                                    minutes since the sender last counted it a member
//	head     version 8 | count 2 | hash 32 | signature 64
//	record   kind 1 | flags 1 | version 8 | signature 64 | key length 1 | key | body
//	list     version 8 | n × id 12                      the set of the head before it, in the order of the hash
//	done     (empty)                                    what was asked about the origin has been sent
//	pull     name 16 | flags 1 | version 8 | hash 8     asker's complete and hash; flags 1: with the list
//	want     name 16 | n × id 12
//	data     see stepData
const (
	format = 1

	sectionSummary = 1
	sectionDigest  = 2
	sectionOrigin  = 3
	sectionHead    = 4
	sectionRecord  = 5
	sectionList    = 6
	sectionDone    = 7
	sectionPull    = 8
	sectionWant    = 9
	sectionData    = 10

	sectionHeader = 3
	digestHeader  = 2
	digestLen     = 40
	originLen     = keysLen + 2
	headLen       = 106
	recordHeader  = 75
	pullLen       = 33
	idLen         = 12
	maxShift      = 8
)

// openSection starts a section; closeSection fills in its length.
func openSection(b []byte, kind byte) ([]byte, int) {
	return append(b, kind, 0, 0), len(b)
}

func closeSection(b []byte, at int) {
	binary.BigEndian.PutUint16(b[at+1:], uint16(len(b)-at-sectionHeader))
}

// nextSection takes the first section off b.
func nextSection(b []byte) (kind byte, body, rest []byte, err error) {
	if len(b) < sectionHeader {
		return 0, nil, nil, errTruncated
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < sectionHeader+n {
		return 0, nil, nil, errTruncated
	}
	return b[0], b[sectionHeader : sectionHeader+n], b[sectionHeader+n:], nil
}

// digestEntry is what a host holds of one origin.
type digestEntry struct {
	name     crypto.Name
	complete uint64
	top      uint64 // the highest version of a record held, or complete
	sum      [8]byte
}

func appendDigest(b []byte, kind, bucket byte, list []digestEntry) []byte {
	b, at := openSection(b, sectionDigest)
	b = append(b, kind, bucket)
	for _, e := range list {
		b = append(b, e.name[:]...)
		b = binary.BigEndian.AppendUint64(b, e.complete)
		b = binary.BigEndian.AppendUint64(b, e.top)
		b = append(b, e.sum[:]...)
	}
	closeSection(b, at)
	return b
}

// parseDigest returns the kind, the bucket and the entries, which lie in b.
func parseDigest(b []byte) (kind, bucket byte, n int, at func(int) digestEntry, err error) {
	if len(b) < digestHeader || (len(b)-digestHeader)%digestLen != 0 {
		return 0, 0, 0, nil, fmt.Errorf("gossip: digest of %d bytes", len(b))
	}
	kind, bucket = b[0], b[1]
	if kind > 1+maxShift || kind == 0 && bucket != 0 || kind > 0 && int(bucket) >= 1<<(kind-1) {
		return 0, 0, 0, nil, fmt.Errorf("gossip: digest of kind %d, bucket %d", kind, bucket)
	}
	b = b[digestHeader:]
	return kind, bucket, len(b) / digestLen, func(i int) digestEntry {
		e := b[i*digestLen:]
		return digestEntry{crypto.Name(e[:16]), binary.BigEndian.Uint64(e[16:]), binary.BigEndian.Uint64(e[24:]), [8]byte(e[32:40])}
	}, nil
}

// parseSummary returns the shift; the hashes are b[1:].
func parseSummary(b []byte) (shift int, err error) {
	if len(b) < 1 || b[0] > maxShift || len(b) != 1+8<<b[0] {
		return 0, fmt.Errorf("gossip: summary of %d bytes", len(b))
	}
	return int(b[0]), nil
}

func appendOrigin(b []byte, keys crypto.PublicKeys, quiet uint16) []byte {
	b, at := openSection(b, sectionOrigin)
	b = append(b, keys.Noise[:]...)
	b = append(b, keys.Sign[:]...)
	b = binary.BigEndian.AppendUint16(b, quiet)
	closeSection(b, at)
	return b
}

func parseOrigin(b []byte) (keys crypto.PublicKeys, quiet uint16, err error) {
	if len(b) != originLen {
		return keys, 0, fmt.Errorf("gossip: origin of %d bytes", len(b))
	}
	return crypto.PublicKeys{Noise: crypto.NoisePublic(b[:32]), Sign: crypto.SignPublic(b[32:64])}, binary.BigEndian.Uint16(b[64:]), nil
}

func appendHead(b []byte, h *head) []byte {
	b, at := openSection(b, sectionHead)
	b = binary.BigEndian.AppendUint64(b, h.Version)
	b = binary.BigEndian.AppendUint16(b, h.Count)
	b = append(b, h.Hash[:]...)
	b = append(b, h.Signature[:]...)
	closeSection(b, at)
	return b
}

func parseHead(b []byte) (head, error) {
	if len(b) != headLen {
		return head{}, fmt.Errorf("gossip: head of %d bytes", len(b))
	}
	h := head{
		Version: binary.BigEndian.Uint64(b), Count: binary.BigEndian.Uint16(b[8:]),
		Hash: [32]byte(b[10:42]), Signature: crypto.Signature(b[42:]),
	}
	if h.Count > MaxRecords {
		return head{}, fmt.Errorf("gossip: head over %d records, at most %d", h.Count, MaxRecords)
	}
	return h, nil
}

// recordSize is the length of the record's section.
func recordSize(r *Record) int { return sectionHeader + recordHeader + len(r.Key) + len(r.Body) }

func appendRecord(b []byte, r *Record) []byte {
	b, at := openSection(b, sectionRecord)
	b = append(b, byte(r.Kind), oneIf(r.Deleted))
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = append(b, r.Signature[:]...)
	b = appendText(b, r.Key)
	b = append(b, r.Body...)
	closeSection(b, at)
	return b
}

// parseRecord reads a record's section; its Body lies in b.
func parseRecord(origin crypto.Name, b []byte) (Record, error) {
	rd := reader{b: b}
	r := Record{Origin: origin, Kind: Kind(rd.u8())}
	flags := rd.u8()
	r.Version = rd.u64()
	r.Signature = crypto.Signature(rd.take(len(r.Signature)))
	r.Key = string(rd.take(rd.count("key bytes", MaxKey)))
	if rd.err != nil {
		return Record{}, rd.err
	}
	r.Body, r.Deleted = rd.b, flags == 1
	switch {
	case flags > 1:
		return Record{}, fmt.Errorf("gossip: record flags %d", flags)
	case r.Deleted && len(r.Body) > 0:
		return Record{}, fmt.Errorf("gossip: deletion with a body")
	case len(r.Body) > maxBody(r.Kind):
		return Record{}, fmt.Errorf("gossip: %s body of %d bytes, at most %d", r.Kind, len(r.Body), maxBody(r.Kind))
	}
	return r, nil
}

// parseIDs reads n identifiers that fill b.
func parseIDs(b []byte) ([]recordID, error) {
	if len(b)%idLen != 0 || len(b) > MaxRecords*idLen {
		return nil, fmt.Errorf("gossip: %d bytes of record identifiers", len(b))
	}
	list := make([]recordID, len(b)/idLen)
	for i := range list {
		list[i] = recordID(b[i*idLen:])
	}
	return list, nil
}

func appendIDs(b []byte, list []recordID) []byte {
	for i := range list {
		b = append(b, list[i][:]...)
	}
	return b
}

func appendList(b []byte, version uint64, list []*stored) []byte {
	b, at := openSection(b, sectionList)
	b = binary.BigEndian.AppendUint64(b, version)
	for _, r := range list {
		b = append(b, r.id[:]...)
	}
	closeSection(b, at)
	return b
}

// parseList reads a list section.
func parseList(b []byte) (version uint64, ids []recordID, err error) {
	if len(b) < 8 {
		return 0, nil, errTruncated
	}
	ids, err = parseIDs(b[8:])
	return binary.BigEndian.Uint64(b), ids, err
}

// pullBody is a pull section.
type pullBody struct {
	name    crypto.Name
	list    bool
	version uint64
	sum     [8]byte
}

func appendPull(b []byte, p pullBody) []byte {
	b, at := openSection(b, sectionPull)
	b = append(b, p.name[:]...)
	b = append(b, oneIf(p.list))
	b = binary.BigEndian.AppendUint64(b, p.version)
	b = append(b, p.sum[:]...)
	closeSection(b, at)
	return b
}

func parsePull(b []byte) (pullBody, error) {
	if len(b) != pullLen || b[16] > 1 {
		return pullBody{}, fmt.Errorf("gossip: pull of %d bytes", len(b))
	}
	return pullBody{crypto.Name(b[:16]), b[16] == 1, binary.BigEndian.Uint64(b[17:]), [8]byte(b[25:])}, nil
}

// parseWant reads a want section.
func parseWant(b []byte) (name crypto.Name, ids []recordID, err error) {
	if len(b) < 16 {
		return name, nil, errTruncated
	}
	ids, err = parseIDs(b[16:])
	return crypto.Name(b[:16]), ids, err
}
