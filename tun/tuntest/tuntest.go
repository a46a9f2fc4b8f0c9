// Package tuntest is a tun.Device in memory, and the suite that it and the real
// devices pass.
//
//	Inject ──► queue 0 ──► ReadBatch          frames from the kernel's side
//	       └─► queue 1 ──► ReadBatch          (chosen by a hash of the addresses)
//	Take   ◄────────────── WriteBatch         frames to the kernel's side, in order
//
// The device waits on channels only, so it works inside synctest. Both directions
// are bounded; what does not fit is dropped and counted, as the kernel does it.
package tuntest
