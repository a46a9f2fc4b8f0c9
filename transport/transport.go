// Package transport carries sealed bytes between hosts: datagrams over UDP, control
// messages and, where UDP does not pass, the same datagrams over one TCP connection a
// pair of hosts. It knows addresses, sockets, paths and formats; it holds no key of a
// session, chooses no route and looks into no frame.
//
// # A datagram
//
//	 0        1        2        4             8                        16
//	+--------+--------+--------+-------------+-------------------------+---------------------+------------+
//	| type   | flags  | 0    0 | recv. index | counter                 | sealed body         | tag (16)   |
//	+--------+--------+--------+-------------+-------------------------+---------------------+------------+
//	|<------------- header (16), clear, authenticated ---------------->|
//
// The receiver chose the index when the session was made and finds the session by it.
// The body of a TypeData datagram is records, one behind the other; that of a
// TypeControl datagram is one control body; that of a TypeHandshake datagram is one
// message of the session handshake and bears no tag of its own.
//
//	 0        2        3        4        6           8            10       12
//	+--------+--------+--------+--------+-----------+------------+--------+-----------------+
//	| length | flags  | pos.   | VNI    | sum start | sum offset | aux    | frame ...       |  record
//	+--------+--------+--------+--------+-----------+------------+--------+-----------------+
//	|<--------------------------- record header (12) -------------------->|<--- length ---->|
//
//	 0        1                                                                        32
//	+--------+--------+--------+-----+--------+--------+----------+-----------------------+
//	| 1      | flags  | path   | 0   | ID (8) | MTU 2  | port 2   | observed address (16) |  probe, answer
//	+--------+--------+--------+-----+--------+--------+----------+-----------------------+
//	| 2 | 3  | kind   | ID (8) | body, at most 1024 ...                                      request, reply
//	+--------+--------+--------+---------------------------
//
// # A relayed datagram
//
//	 0        1        2        4             8             16            24          32           48
//	+--------+--------+--------+-------------+-------------+-------------+-----------+------------+----------------+
//	| 1      | hops   | flow   | hop index   | hop counter | destination | source    | hop MAC    | inner datagram |
//	+--------+--------+--------+-------------+-------------+-------------+-----------+------------+----------------+
//	|<----------------------------- relay header (48), new at every hop ---------------------->|
//
// The hop MAC is the link's tag over the first 32 bytes, the inner header and the last
// 16 bytes of the datagram (RelayAD). Relays see and change nothing behind it.
//
// All numbers are big endian. Unknown types, flags and kinds are counted and dropped by
// whoever meets them. A datagram that starts with TypeRunt is padding of the sending
// host's segmentation: it may be as short as one byte and is thrown away uncounted.
//
// # A train
//
// Datagrams of one length to one address, one behind the other in memory, are one Message:
// for the kernel one send and one receive, for whoever seals and opens as many datagrams
// as they are.
//
//	|<------------------------- Message.N ----------------->|
//	+--------------+--------------+--------------+----------+
//	| datagram     | datagram     | datagram     | datagram |   the last may be shorter
//	+--------------+--------------+--------------+----------+
//	|<- Segment -->|
//	       |
//	  Send: cut at MaxSegments and at MaxTrain bytes -- UDP_SEGMENT --> each datagram leaves by itself
//	       |                                            refused --> the same datagrams, one by one
//	  ReceiveFunc <-- UDP_GRO -- what the kernel gathered, or each datagram by itself
//
// # The pipeline
//
//	mesh/plane --[]Message--> Socket.Send ---sendmmsg--> kernel ==UDP==> kernel ---recvmmsg--> ReceiveFunc --[]Message--> mesh/plane
//	                             |                                          |
//	       LinuxBind (ours), StdBind (wireguard's StdNetBind), transporttest.Socket (in memory)
//
//	mesh.Node --Conn.Send--> Control (TCP, handshake, records) ==TCP==> Control --Handler--> mesh.Node
//	                            |
//	                          Paths (pure): which way a peer's datagrams take, and whether the link is up
//	                          Exchange (pure): when a peer's session is made anew, and which one is in use
//
// # What it promises, and what it leaves to the caller
//
// A send error is a result of one message (Message.Err): it never stops the rest of the
// batch, closes a socket or ends a link. A train that the kernel refuses loses nothing by
// it, and keeps its place. No datagram costs an allocation on LinuxBind.
// Buffers belong to the caller again as soon as a call returns. Sealing, replay
// windows, rate limits on what strangers send, and the choice of a path belong to the
// caller.
//
// Read first: wire.go for the formats, then socket.go for the interface that the plane
// uses, then control.go, paths.go and exchange.go.
package transport
