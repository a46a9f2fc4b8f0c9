package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ripstop/mesh/api"
)

// TestWeb: the URL is printed, as a line or as one object, what is there is the page, and
// the end of the command is no error.
func TestWeb(t *testing.T) {
	d := &daemon{status: sample, topology: api.Topology{Hosts: []api.TopologyHost{{Name: "02:00:00:00:00:0c", Nickname: "c"}}}}
	socket := filepath.Join(t.TempDir(), "s")
	serveAt(t, socket, d)
	for _, args := range [][]string{{"web"}, {"web", "--json"}, {"web", "--listen", "[::1]:0"}} {
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		done := make(chan int, 1)
		go func() {
			done <- Main(ctx, append([]string{"ripstop", "--socket", socket}, args...), Stdio{In: strings.NewReader(""), Out: in, Err: io.Discard, LookupEnv: func(string) (string, bool) { return "", false }})
			in.Close()
		}()
		r := bufio.NewReader(out)
		url := ""
		if args[len(args)-1] == "--json" {
			var answer webAnswer
			if err := json.NewDecoder(r).Decode(&answer); err != nil || answer.Version != api.Version {
				t.Errorf("%v: %+v, %v", args, answer, err)
			}
			url = answer.URL
		} else if line, err := r.ReadString('\n'); err != nil {
			t.Error(err)
		} else {
			url = strings.TrimSpace(line)
		}
		want := `^http://127\.0\.0\.1:\d+/[0-9a-f]{32}/$`
		if len(args) > 2 {
			want = `^http://\[::1\]:\d+/[0-9a-f]{32}/$`
		}
		if !regexp.MustCompile(want).MatchString(url) {
			t.Errorf("%v: the URL is %q", args, url)
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for path, want := range map[string]string{"": "<title>ripstop</title>", "view.json": `"nickname":"c"`} {
			resp, err := client.Get(url + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%v: %s: %s, %v: %s", args, path, resp.Status, err, body)
			}
		}
		cancel()
		if rest, _ := io.ReadAll(r); strings.TrimSpace(string(rest)) != "" {
			t.Errorf("%v: printed too: %q", args, rest)
		}
		if code := <-done; code != ExitOK {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
}
