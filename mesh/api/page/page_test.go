package page

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

// serve runs a Server over d until the test ends.
func serve(t *testing.T, d Daemon) *Server {
	t.Helper()
	s, err := Listen(Config{Address: netip.MustParseAddrPort("127.0.0.1:0"), Daemon: d, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// fetch asks over a connection of its own.
func fetch(t *testing.T, method, url, host string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host, req.Close = host, true
	resp, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// TestWhoReads: only who knows the key, asks for the loopback and asks by GET gets something,
// and the daemon is asked for nobody else.
func TestWhoReads(t *testing.T) {
	d := new(told)
	s := serve(t, d)
	root, key := strings.TrimSuffix(s.URL(), s.key+"/"), s.key
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/[0-9a-f]{32}/$`).MatchString(s.URL()) {
		t.Errorf("the URL is %s", s.URL())
	}
	other := strings.Repeat("0", len(key))
	for _, c := range []struct {
		method, path, host string
		status             int
		content            string
	}{
		{"GET", key + "/", "", 200, "text/html; charset=utf-8"},
		{"GET", key + "/page.css", "", 200, "text/css; charset=utf-8"},
		{"GET", key + "/page.js", "", 200, "text/javascript; charset=utf-8"},
		{"GET", key + "/view.json", "", 200, "application/json"},
		{"GET", key + "/view.json?x=1", "localhost:80", 200, "application/json"},
		{"GET", key + "/view.json", "[::1]", 200, "application/json"},
		{"GET", "", "", 404, ""}, {"GET", "view.json", "", 404, ""}, {"GET", "page.js", "", 404, ""}, {"GET", "favicon.ico", "", 404, ""},
		{"GET", key, "", 404, ""}, {"GET", key + "/index.html", "", 404, ""}, {"GET", key + "/files/page.js", "", 404, ""}, {"GET", key + "/v1/status", "", 404, ""},
		{"GET", key + "/../" + key + "/", "", 404, ""}, {"GET", "/" + key + "/", "", 404, ""}, {"GET", key + "//", "", 404, ""},
		{"GET", other + "/", "", 404, ""}, {"GET", key[:31] + "/view.json", "", 404, ""}, {"GET", key + "0/view.json", "", 404, ""}, {"GET", strings.ToUpper(key) + "x/view.json", "", 404, ""},
		{"POST", key + "/view.json", "", 405, ""}, {"HEAD", key + "/", "", 405, ""}, {"PUT", key + "/", "", 405, ""}, {"DELETE", key + "/view.json", "", 405, ""}, {"OPTIONS", key + "/view.json", "", 405, ""},
		{"POST", other + "/view.json", "", 404, ""},
		{"GET", key + "/view.json", "evil.example", 403, ""}, {"GET", key + "/", "127.0.0.1.evil.example:80", 403, ""}, {"GET", key + "/page.js", "192.0.2.1", 403, ""},
	} {
		resp, body := fetch(t, c.method, root+c.path, c.host)
		if resp.StatusCode != c.status || c.content != "" && resp.Header.Get("Content-Type") != c.content {
			t.Errorf("%s %s for %q: %d %s", c.method, c.path, c.host, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		if c.status != 200 && (strings.Contains(body, "<") || strings.Contains(body, key) || strings.Contains(body, "evil")) {
			t.Errorf("%s %s for %q is answered with %s", c.method, c.path, c.host, body)
		}
		if allow := resp.Header.Get("Allow"); (c.status == 405) != (allow == "GET") {
			t.Errorf("%s %s: Allow is %q", c.method, c.path, allow)
		}
		if c.status == 403 {
			continue
		}
		for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q", c.method, c.path, name, got)
			}
		}
		policy := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none';", "connect-src 'self';", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, want) || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
				t.Errorf("%s %s: the policy is %q, without %s", c.method, c.path, policy, want)
			}
		}
	}
	if n := d.polls.Load(); n != 1 {
		t.Errorf("the daemon was asked %d times", n)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	if resp, err := new(http.Transport).RoundTrip(req); err == nil { // else it was cut off while it was sent
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a header of 64 kB: %d", resp.StatusCode)
		}
	}
	if again := serve(t, d); again.key == s.key {
		t.Error("two servers have one key")
	}
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1:0": "127.0.0.1:0", "[::1]:8080": "[::1]:8080", "": "", "8080": "", "localhost:80": "", "0.0.0.0:80": "", "192.0.2.1:80": "", "[::]:0": ""} {
		a, err := ParseAddress(in)
		if (err != nil) != (want == "") || err == nil && a.String() != want {
			t.Errorf("%q: %v, %v", in, a, err)
		}
	}
	if _, err := ParseAddress("0.0.0.0:80"); err == nil || !strings.Contains(err.Error(), "give 127.0.0.1:80") {
		t.Error(err)
	}
	log := slog.New(slog.DiscardHandler)
	if _, err := Listen(Config{Address: netip.MustParseAddrPort("0.0.0.0:0"), Daemon: new(told), Log: log}); err == nil {
		t.Error("it listens for everybody")
	}
	taken := serve(t, new(told))
	if _, err := Listen(Config{Address: taken.Addr(), Daemon: new(told), Log: log}); err == nil || !strings.Contains(err.Error(), "choose another one by --listen") {
		t.Errorf("a port in use: %v", err)
	}
}

// TestFiles: what hosts say is never read as HTML, nothing is fetched from elsewhere, and
// nothing stands in the page that the policy would have to be loosened for.
func TestFiles(t *testing.T) {
	forbidden := map[string][]string{
		"page.js": {"innerHTML", "outerHTML", "insertAdjacentHTML", "setHTML", "document.write", "eval(", "Function(", "DOMParser", "createContextualFragment", "srcdoc", "import ", "import(",
			"http:", "https:", "//cdn", "localStorage", "setTimeout('", "href", ".src", "postMessage", "style."},
		"index.html": {"http:", "https:", "//", "<style", "style=", "onload", "onclick", "onerror", "javascript:", "<iframe", "<form", "<img"},
		"page.css":   {"url(", "@import", "http:", "https:", "expression"},
	}
	for name, words := range forbidden {
		b, err := files.ReadFile("files/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "'http://www.w3.org/2000/svg'", "") // a name, not an address
		for _, word := range words {
			if strings.Contains(text, word) {
				t.Errorf("%s has %q in it", name, word)
			}
		}
		if name == "index.html" && strings.Count(text, "<script") != strings.Count(text, `<script src="page.js" defer></script>`) {
			t.Error("there is a script in the page itself")
		}
	}
	entries, err := files.ReadDir("files")
	if err != nil || len(entries) != len(types) {
		t.Errorf("%d files, %v", len(entries), err)
	}
	// What the script looks for in the page is there.
	script, _ := files.ReadFile("files/page.js")
	html, _ := files.ReadFile("files/index.html")
	for _, m := range regexp.MustCompile(`\$\('([a-z-]+)'\)`).FindAllStringSubmatch(string(script), -1) {
		if !strings.Contains(string(html), `id="`+m[1]+`"`) {
			t.Errorf("the script looks for %q, which the page has not", m[1])
		}
	}
}

// TestGone: who does not wait for the daemon is no fault of it.
func TestGone(t *testing.T) {
	w := httptest.NewRecorder()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	newHandler("k", newPoller(new(told))).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/k/view.json", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("who has gone is answered with %d", w.Code)
	}
}
