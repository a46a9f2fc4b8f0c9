package tuntest

import (
	"os"
	"testing"
)

// NeedRoot skips a test where the process may not make network namespaces; with
// RIPSTOP_CI set that is a failure.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const why = "needs root to make network namespaces"
	if os.Getenv("RIPSTOP_CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
