// Package tun carries Ethernet frames between the kernel and the overlay, in
// batches.
//
//	bridge mode                                  routed mode
//
//	container   container   VM tap               processes of this host
//	    |veth       |veth     |                        | IP packets
//	  +-+-----------+---------+-+                +-----+-----+
//	  | bridge "ripstop"        |  MAC of the    |    TUN    |  the host's overlay
//	  +------------+------------+  host's name   +-----+-----+  address and routes
//	               | port, mcast_router 2              |
//	            TAP "ripstop0"                      station: Ethernet on and off,
//	               | virtio header + frame             | ARP and ND both ways
//	           +---+---+                           +---+---+
//	           | Queue | one or more               | Queue | one
//	           +---+---+                           +---+---+
//	               |                                   |
//	               +----- ReadBatch / WriteBatch ------+
//
// A frame stands in its buffer with room on both sides:
//
//	Buf  |<- Headroom ------------>|<- Len --------------------->|<- Tailroom ->|
//	     |  … relay, datagram and  | dst 6 | src 6 | type 2 | …  |  seal's tag  |
//	     |    record header, or    |
//	     |    the virtio header    |
//	                               ^ Off
//
// The kernel puts the virtio header in front of every frame and wants it there;
// both are read and written where the frame stands, so nothing is copied.
//
// What the package promises: a batch read waits for the first frame only; reads
// and writes of frames allocate nothing; Close wakes whoever waits; TAP and bridge
// have the greatest MTU, because a frame longer than a port's MTU vanishes without
// ICMP or counter while super-frames pass, so that TCP hangs; devices made here
// accept no router advertisements and say nothing by themselves. Errors of opening
// name cause and remedy.
//
// What it leaves to the caller: which flow goes to which queue (always the same
// one), never writing a frame whose source MAC is local, and everything about
// where a frame belongs.
//
// Functions that make or change devices work in the network namespace of the
// calling thread; what they return works from any thread.
//
// Read device.go first, then tap_linux.go and bridge_linux.go; station.go is the
// protocol of routed mode.
package tun
