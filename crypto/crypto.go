// Package crypto holds everything that has to do with keys: who a host is, what
// a network's secret is, the handshakes, and the sealing of what travels and of
// what is kept. It is pure: no socket, clock, goroutine or log; random sources
// are arguments, and the caller sets deadlines and decides when to rekey.
//
//	network file, token rs1-… or passphrase            STATE/seed (32 bytes)
//	        │ HKDF labels                                     │ HKDF labels
//	        ├── silence key     tag of the first flight       ├── X25519   Noise static key
//	        ├── control psk     XXpsk3                        ├── Ed25519  signs records
//	        └── session psk     IKpsk2                        └── state key  SealState
//
//	control connection (TCP), one for each pair of neighbours
//
//	  initiator                                   responder
//	     │── first flight, 128 bytes, tagged ────────▶│  wrong tag: nothing is ever sent
//	     │◀──────────── e, ee, s, es, versions ───────│  no name, no address, no nickname
//	     │── s, se, psk ── hello record ─────────────▶│  the initiator has proved the secret
//	     │◀───────────────────────── hello record ────│  the responder has proved it too
//	     │◀═ control records: secretbox, new key every 2^20 ═▶│
//
//	session (any pair of hosts): two messages, IKpsk2, inside control records or
//	relayed datagrams; from its transcript come three channels of two directions
//
//	  Data     frames                      AES-256-GCM, ChaCha20-Poly1305 or clear
//	  Control  probes, requests            always sealed
//	  Hop      tags on relay headers       always there, over empty text
//
// Promises: no key serves two directions or two purposes; every nonce is made in
// nonce.go; nothing of a connection or session is ever stored, so that a restart
// cannot repeat a nonce; a failed open changes no state; keys of low order are
// refused; a handshake of which any bit was changed gives no session.
//
// Left to the caller: deadlines, rate limits, which peer a name belongs to,
// whether a session request's attempt is new, when a session is too old.
//
// Read network.go first, then control.go and session.go.
package crypto
