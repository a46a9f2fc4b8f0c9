// Package mesh is a running host: it puts the packages below it together and
// owns every goroutine of the daemon. It parses no frame, chooses no route and
// seals no byte; what needs a protocol test belongs into a package below.
//
//	                     ┌───────────── api (unix socket) ◀── ripstop status, attach, …
//	                     ▼
//	transport.Control ─▶ node ◀──────── plane.Events (probes, requests)
//	TCP: gossip,          │ mu: one lock, one loop
//	session messages      ├─▶ gossip.State ─ who there is, who links with whom, where endpoints are
//	                      ├─▶ transport.Exchange ─ one a peer: its data session
//	                      ├─▶ transport.Paths ──── one a peer with a session: probes, link up or down
//	                      ├─▶ observations ─────── where peers see this host
//	                      ├─▶ endpoints ────────── what is attached here, claims, port rules
//	                      ▼
//	             plane.Snapshot (immutable) ──▶ plane: device ◀─▶ socket, every frame
//
// Every event, whether from a connection, the plane, the API or the clock, takes
// node.mu, changes the pure state machines, and wakes the loop; the loop alone
// drains what they want sent, and publishes the next Snapshot. Nothing waits for
// the network under the lock.
//
// Read node.go first (start and end), then loop.go, peers.go and topology.go; what
// is attached is in attachment.go, endpoints.go, claim.go and leftovers.go; addresses
// are in allocation.go, numbering.go, lease.go, pieces.go and ipam.go. What would become
// of a frame is told by explain.go, explain_place.go and explain_way.go.
//
// Log keys: peer (name), nickname, address, error, target, endpoint, mac,
// interface, bridge, device, path.
package mesh
