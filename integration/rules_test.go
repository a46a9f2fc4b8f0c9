package integration

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// root is the top of the source tree, seen from this package's folder.
const root = ".."

// allowed says which of our packages each of our packages may import; a pattern
// ending in /... stands for everything below. A package that is not listed may
// import none.
var allowed = map[string][]string{
	".":                       {"mesh/cli"},
	"crypto":                  {},
	"route":                   {"crypto"},
	"tun":                     {},
	"tun/offload":             {"tun"},
	"tun/netns":               {},
	"tun/firewall":            {},
	"tun/tuntest":             {"tun"},
	"tun/attach":              {"tun", "tun/netns", "tun/firewall"},
	"transport":               {"crypto"},
	"transport/transporttest": {"crypto", "transport"},
	"mesh/gossip":             {"crypto"},
	"mesh/ipam":               {"crypto"},
	"mesh/dns":                {"crypto"},
	"mesh/store":              {},
	"mesh/store/storetest":    {"mesh/store"},
	"mesh/api":                {"crypto"},
	"mesh/api/apitest":        {"mesh/api"},
	"mesh/api/page":           {"mesh/api"},
	"mesh/plane":              {"tun", "tun/offload", "route", "crypto", "transport"},
	"mesh":                    {"crypto", "route", "tun", "tun/...", "transport", "mesh/plane", "mesh/gossip", "mesh/ipam", "mesh/dns", "mesh/store", "mesh/api"},
	"mesh/runtimes":           {"mesh/api", "tun/attach", "tun/netns"},
	"mesh/runtimes/...":       {"mesh/runtimes", "mesh/api", "tun/attach", "tun/netns"},
	"mesh/runtimes/docker":    {"tun/firewall"},
	"mesh/cli":                {"mesh", "mesh/api", "mesh/api/page", "tun", "mesh/store", "mesh/runtimes", "mesh/runtimes/...", "tun/attach", "tun/netns", "transport", "crypto", "integration/lab"},
	"integration/lab":         {"tun/netns"},
	"integration":             {"..."},
	"bench":                   {"..."},

	"mesh/runtimes/runtimestest": {"tun/tuntest"},
}

// inTests says what the tests of a package may import besides: what stands beside
// it in the product, so that they run with the real one.
var inTests = map[string][]string{
	"mesh":                   {"mesh/store/storetest"},
	"mesh/api/page":          {"mesh/api/apitest"},
	"mesh/cli":               {"mesh/api/apitest", "route", "tun/firewall", "tun/tuntest"}, // whose counters it explains
	"mesh/ipam":              {"mesh/gossip", "mesh/store", "mesh/store/storetest"},
	"mesh/runtimes/cni":      {"mesh/api/apitest", "mesh/runtimes/runtimestest"},
	"mesh/runtimes/docker":   {"mesh/api/apitest"},
	"mesh/runtimes/netavark": {"mesh/api/apitest", "mesh/runtimes/runtimestest"},
	"mesh/store":             {"mesh/store/storetest"},
}

// foreign says where each of these outside packages may be imported.
var foreign = map[string][]string{
	"golang.zx2c4.com/wireguard/tun":  {"tun"},
	"golang.zx2c4.com/wireguard/conn": {"transport", "transport/..."},
	"golang.org/x/crypto/nacl/...":    {"crypto"},
	"github.com/vishvananda/netlink":  {"tun", "tun/...", "transport", "integration/lab"},
	"github.com/google/nftables":      {"tun/firewall"},
	"github.com/google/nftables/...":  {"tun/firewall"},
	"github.com/miekg/dns":            {"mesh/dns"},
	"github.com/spf13/pflag":          {"mesh/cli"},

	"github.com/containernetworking/cni/...": {"mesh/runtimes/cni"},
}

// topLevel is everything that may stand at the top of the tree.
var topLevel = []string{
	"main.go", "go.mod", "go.sum", "LICENSE", "README.md", "CHANGELOG.md",
	"tun", "transport", "mesh", "route", "crypto", "bench", "integration",
	"docs", "packaging", ".ci", ".git", ".gitignore",
}

// file is one Go file: the folder it stands in, and what it imports.
type file struct {
	path    string
	folder  string
	test    bool
	imports []string
}

// files reads the imports of every Go file of the tree.
func files(t *testing.T) []file {
	t.Helper()
	var all []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f := file{path: relative, folder: path.Dir(filepath.ToSlash(relative)), test: strings.HasSuffix(name, "_test.go")}
		for _, i := range parsed.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		all = append(all, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go file found")
	}
	return all
}

// matches reports whether p is the pattern, or below it when it ends in "...".
func matches(pattern, p string) bool {
	prefix, below := strings.CutSuffix(pattern, "...")
	return p == pattern || below && strings.HasPrefix(p, prefix)
}

func anyMatches(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) })
}

// TestImports holds the import rules. Tests may also import the fakes that stand
// beside what they replace.
func TestImports(t *testing.T) {
	for _, f := range files(t) {
		var may []string
		known := false
		for pattern, list := range allowed {
			if matches(pattern, f.folder) {
				may, known = append(may, list...), true
			}
		}
		if !known {
			t.Errorf("%s: folder %s has no line in the import rules", f.path, f.folder)
		}
		for _, i := range f.imports {
			if ours, ok := strings.CutPrefix(i, "ripstop/"); ok {
				fake := f.test && (ours == "tun/tuntest" || ours == "transport/transporttest" || ours == "tun/netns" || ours == f.folder)
				if !fake && !anyMatches(may, ours) && !(f.test && anyMatches(inTests[f.folder], ours)) {
					t.Errorf("%s imports %s: %s may import only %v of ours", f.path, i, f.folder, may)
				}
			}
			for pattern, folders := range foreign {
				if matches(pattern, i) && !f.test && !anyMatches(folders, f.folder) {
					t.Errorf("%s imports %s, which belongs only into %v", f.path, i, folders)
				}
			}
		}
	}
}

// TestTopLevel holds what may stand at the top of the tree.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

// TestPackageComments requires exactly one package comment in every package.
func TestPackageComments(t *testing.T) {
	comments := make(map[string][]string)
	for _, f := range files(t) {
		if f.test {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, f.path), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Doc != nil {
			comments[f.folder] = append(comments[f.folder], f.path)
		} else if _, ok := comments[f.folder]; !ok {
			comments[f.folder] = nil
		}
	}
	for folder, where := range comments {
		if len(where) != 1 {
			t.Errorf("%s: %d package comments %v, want one", folder, len(where), where)
		}
	}
}
