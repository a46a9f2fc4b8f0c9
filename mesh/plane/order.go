package plane

import (
	"cmp"
	"encoding/binary"
	"slices"

	"ripstop/transport"
)

// datagramIn is one datagram of a received batch.
type datagramIn struct {
	b       []byte
	index   uint32 // of the session, or of the hop in front of a relayed one
	message int32  // which of the batch's messages it came in
	counter uint64
}

// inOrder returns the datagrams of a batch, those of one session in the order of their
// counters: what the underlay reordered would split the trains that are joined. Both
// kinds of header have index and counter at the same place, checked by nobody yet: what
// is forged changes the order, no more.
func (in *inbound) inOrder(msgs []transport.Message) []datagramIn {
	list, sorted := in.batch[:0], true
	for i := range msgs {
		for b := range msgs[i].Datagrams {
			if len(b) < transport.HeaderLen {
				in.p.counters.add(dropShort, 1)
				continue
			}
			d := datagramIn{b: b, index: binary.BigEndian.Uint32(b[4:]), message: int32(i), counter: binary.BigEndian.Uint64(b[8:])}
			if n := len(list); n > 0 && list[n-1].index == d.index && list[n-1].counter > d.counter {
				sorted = false
			}
			list = append(list, d)
		}
	}
	in.batch = list
	if !sorted {
		slices.SortStableFunc(list, func(a, b datagramIn) int {
			return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.counter, b.counter))
		})
	}
	return list
}
