package transport

import "ripstop/crypto"

// Bounds of what waits for one peer.
const (
	maxQueuedMessages = 64        // messages
	maxQueuedGossip   = 512 << 10 // bytes of gossip; one message is always taken
	maxQueuedBytes    = maxQueuedGossip + 64<<10
	maxDatagrams      = 256       // datagrams
	maxDatagramBytes  = 512 << 10 // the oldest are dropped beyond either
	maxSealed         = 64 << 10  // bytes sealed for one write, the first message of any length
	keptBuffers       = 32        // emptied datagram buffers kept for the next ones
	keptBufferLen     = 2048
)

// sendQueue is what waits for one peer: messages in order, which are refused when
// too many, and datagrams, of which the oldest make room. Not safe for concurrent
// use. Every entry starts with its kind byte.
type sendQueue struct {
	messages      [][]byte
	messageBytes  int
	datagrams     [maxDatagrams][]byte // ring
	first, count  int
	datagramBytes int
	free          [][]byte
}

// push queues a message; false when there is no room.
func (q *sendQueue) push(kind MessageKind, body []byte) bool {
	limit := maxQueuedBytes
	if kind == MessageGossip {
		limit = maxQueuedGossip
	}
	if len(q.messages) > 0 && (len(q.messages) >= maxQueuedMessages || q.messageBytes+1+len(body) > limit) {
		return false
	}
	m := make([]byte, 0, 1+len(body))
	m = append(append(m, byte(kind)), body...)
	q.messages = append(q.messages, m)
	q.messageBytes += len(m)
	return true
}

// pushDatagram queues a copy of b and returns how many older ones it dropped.
func (q *sendQueue) pushDatagram(b []byte) (dropped int) {
	for q.count == maxDatagrams || q.count > 0 && q.datagramBytes+1+len(b) > maxDatagramBytes {
		q.recycle(q.popDatagram())
		dropped++
	}
	var d []byte
	if n := len(q.free); n > 0 && len(b) < keptBufferLen {
		d, q.free = q.free[n-1], q.free[:n-1]
	} else {
		d = make([]byte, 0, max(keptBufferLen, 1+len(b)))
	}
	d = append(append(d[:0], byte(MessageDatagram)), b...)
	q.datagrams[(q.first+q.count)%maxDatagrams] = d
	q.count++
	q.datagramBytes += len(d)
	return dropped
}

func (q *sendQueue) popDatagram() []byte {
	d := q.datagrams[q.first]
	q.datagrams[q.first] = nil
	q.first = (q.first + 1) % maxDatagrams
	q.count--
	q.datagramBytes -= len(d)
	return d
}

// recycle takes a datagram's buffer back.
func (q *sendQueue) recycle(d []byte) {
	if len(q.free) < keptBuffers && cap(d) == keptBufferLen {
		q.free = append(q.free, d[:0])
	}
}

// pull appends the next entries to batch, messages before datagrams, until room
// bytes are passed. Messages and datagrams are the caller's from then on; it gives
// datagrams back to recycle.
func (q *sendQueue) pull(batch [][]byte, room int) [][]byte {
	for len(q.messages) > 0 && room > 0 {
		m := q.messages[0]
		q.messages[0] = nil
		q.messages = q.messages[1:]
		q.messageBytes -= len(m)
		room -= len(m)
		batch = append(batch, m)
	}
	if len(q.messages) == 0 {
		q.messages = nil
	}
	for q.count > 0 && room > 0 {
		d := q.popDatagram()
		room -= len(d)
		batch = append(batch, d)
	}
	return batch
}

// sealBatch seals a batch behind buf.
func sealBatch(seal *crypto.RecordSealer, buf []byte, batch [][]byte) (_ []byte, err error) {
	for _, m := range batch {
		if buf, err = seal.Append(buf, m); err != nil {
			return buf, err
		}
	}
	return buf, nil
}
