package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSecretIsPrivate: the file that a shell makes for the secret is for its owner only;
// what somebody else keeps things in is left alone.
func TestSecretIsPrivate(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds string
		mode  os.FileMode
		want  os.FileMode
	}{
		{"new file", "", 0o644, 0o600},
		{"already private", "", 0o400, 0o400},
		{"file in use", "a log\n", 0o644, 0o644},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(c.holds), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Chmod(c.mode); err != nil {
				t.Fatal(err)
			}
			none := func(string) (string, bool) { return "", false }
			if code := Main(t.Context(), []string{"ripstop", "secret", "new"}, Stdio{Out: f, Err: os.Stderr, LookupEnv: none}); code != ExitOK {
				t.Fatalf("exit code %d", code)
			}
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != c.want || info.Size() < int64(len(c.holds))+10 {
				t.Errorf("mode %v and %d bytes, want %v and a token", info.Mode(), info.Size(), c.want)
			}
		})
	}
}
