package gossip

// Cache remembers which records and heads were verified, by the SHA-256 over
// all that was signed and the signature, and shares the records themselves. It
// is for simulations that run many States in one goroutine: every State still
// hashes every byte it is given, and anything else than exact bytes that were
// verified before is verified by signature.
type Cache struct {
	records map[[32]byte]*stored
	heads   map[[32]byte]struct{}
	limit   int
	Hits    uint64 // verifications answered from the cache
	Misses  uint64 // signatures checked
}

// NewCache makes a cache that starts afresh whenever it holds limit entries.
func NewCache(limit int) *Cache {
	return &Cache{records: make(map[[32]byte]*stored), heads: make(map[[32]byte]struct{}), limit: limit}
}

// room makes the cache start afresh when it is full.
func (c *Cache) room() {
	if len(c.records)+len(c.heads) >= c.limit {
		clear(c.records)
		clear(c.heads)
	}
}
