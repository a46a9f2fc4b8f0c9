// Package integration runs the real program in network namespaces, and holds the
// rules of the source tree as tests.
//
//	rules_test.go       what may import what, what stands at the top level
//	build_test.go       the program under test, built once
//	*_scenario files    one story each: hosts, links and containers, and what must come of them
//	lab/                the namespaces, shared with `ripstop demo` and bench
//
// Everything that needs privilege says so when it is skipped; with RIPSTOP_CI set
// such a skip is a failure. No packet leaves the namespaces a scenario made.
package integration
