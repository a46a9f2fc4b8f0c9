// Package offload cuts super-frames into the frames of a train, joins the frames
// of a train into a super-frame, and finishes checksums that were left open.
//
//	                    HeaderLen                 Payload
//	super-frame  | Ethernet tags | IP | TCP |aaaaaaa|bbbbbbb|ccccccc|ddd|
//	             0               L3   L4     <-step->
//	                        |  Parse, Count, Put or Lay      ^
//	                        v                                |  Joiner
//	segments     | headers 0 |aaaaaaa|      one buffer for each frame; its own
//	             | headers 1 |bbbbbbb|      lengths, ID, IPv4 header checksum,
//	             | headers 2 |ccccccc|      sequence number and flags; its layer 4
//	             | headers 3 |ddd|          checksum field is 0: "partial"
//
// Lay makes the segments in the super-frame itself, one after the other, each over what is
// left of the one before.
//
// The layer 4 checksum of a segment is not computed between hosts: the seal
// protects the bytes. A frame whose field was set to 0 and about which the record
// in front says so is called partial. Who takes it out of the overlay gives it to
// a kernel that finishes it (Partial, Joiner) or writes the exact sum
// (CompleteSegment, CompleteTunnelled).
//
// What a virtio header says of a frame is compared with what the frame itself says
// and never believed alone: the kernel accepts headers that make no sense, and
// other programs write to bridges too. What doesn't agree, and what can't be cut
// without changing its meaning, is refused with false; the caller sends it whole
// or drops and counts it.
//
// Cut as the kernel cuts (tcp_gso_segment in net/ipv4/tcp_offload.c,
// __udp_gso_segment in udp_offload.c, inet_gso_segment in af_inet.c): all headers
// with all options are copied; IPv4 IDs count up; FIN and PSH go with the last
// segment, CWR with the first. TCP may be cut smaller than its sender asked,
// datagrams never.
//
// A super-frame may be a packet that a UDP tunnel carries (tunnel.go): then the lengths,
// the ID and the checksums around it advance as well, and each segment must be told
// apart from frames without a tunnel, by the place of the inner packet, for the frame
// does not show what is unfinished.
//
// The package is pure, allocates nothing and keeps no state but a Joiner's. It is
// not told the size of a path: the caller gives the payload size that a segment
// may have.
//
// Read parse.go first, then cut.go and join.go; finish.go is about single frames, tunnel.go
// about tunnels.
package offload
