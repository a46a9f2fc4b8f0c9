package route

import "math/bits"

// Odd constants of 64 bits without structure (the fraction of the square roots of
// 2, 3 and 5, made odd).
const (
	hashA = 0x6a09e667f3bcc909
	hashB = 0xbb67ae8584caa73b
	hashC = 0x3c6ef372fe94f82b
)

// mix folds the 128-bit product of two words, so that every bit of each reaches
// every bit of the result. It is the same on every host and of every version:
// equal paths are chosen by it.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^hashA, b^hashB)
	return hi ^ lo ^ hashC
}
