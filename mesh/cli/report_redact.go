package cli

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"

	"ripstop/mesh"
	"ripstop/mesh/api"
	"ripstop/transport"
)

// redact puts numbers in the place of underlay addresses, and of host names that are dialled
// unless they are a host's nickname, too: nicknames stay. What the report says of this host's
// kernel and of the program has none.
func (r *report) redact(h *hider) {
	if r.Status == nil && r.Internals != nil {
		r.miss("redaction", "which host names are dialled is not known without status: look for them yourself")
	}
	if r.Names != nil && len(r.Names.Upstreams) > 0 {
		r.miss("dns upstreams", fmt.Sprintf("%d are hidden by --redact", len(r.Names.Upstreams)))
		r.Names.Upstreams = []api.Upstream{}
	}
	r.each(h.hide)
}

// each replaces every text of the report but what is known of the program and the kernel.
func (r *report) each(f func(string) string) {
	for _, part := range []any{r.Missing, &r.Doctor, r.Status, r.IPAM, r.Names, r.Internals, &r.Metrics} {
		eachString(reflect.ValueOf(part), f)
	}
}

// secretForm is what a token and a key look like, and a runtime's number of a container.
var secretForm = regexp.MustCompile(`rs1-[0-9A-Za-z]{8,}|[0-9A-Fa-f]{64,}`)

// scrub takes out what looks like a secret. Nothing of what is asked for tells one; somebody
// may have given one in the place of something else, which then stands in a log line.
func (r *report) scrub() {
	r.each(func(text string) string { return secretForm.ReplaceAllString(text, "(a secret?)") })
}

// longNumber is what runtimes number containers and networks by; people use its first digits.
var longNumber = regexp.MustCompile(`[0-9a-f]{64}`)

// shortenOwners leaves of such numbers what people know them by, and what is no key.
func (r *report) shortenOwners() {
	if r.Status == nil {
		return
	}
	for i := range r.Status.Endpoints {
		e := &r.Status.Endpoints[i]
		e.Owner = longNumber.ReplaceAllStringFunc(e.Owner, func(number string) string { return number[:12] })
	}
}

// hider replaces in texts what is to be hidden, the same by the same.
type hider struct {
	overlay []netip.Prefix
	numbers map[netip.Addr]int // of addresses that were met
	hosts   map[string]string  // what stands for a host name in lower case
}

// newHider knows what of a report is the overlay's, and which names are dialled.
func newHider(r *report) *hider {
	h := &hider{numbers: make(map[netip.Addr]int), hosts: make(map[string]string), overlay: []netip.Prefix{r.overlay, alone(mesh.DefaultDNSAddress)}}
	if i := r.IPAM; i != nil {
		h.overlay = append(append(h.overlay, i.Range, i.Range6, i.Subnet), i.Reserved...)
		for _, u := range i.Uses {
			h.overlay = append(h.overlay, alone(u.Address.Addr()))
		}
	}
	if n := r.Names; n != nil {
		if n.Address != nil {
			h.overlay = append(h.overlay, alone(*n.Address))
		}
		for _, name := range n.Names {
			for _, a := range name.Addresses {
				h.overlay = append(h.overlay, alone(a))
			}
		}
	}
	if r.Status == nil {
		return h
	}
	for _, e := range r.Status.Endpoints {
		for _, p := range e.Addresses {
			h.overlay = append(h.overlay, alone(p.Addr()))
		}
	}
	nicks := make(map[string]bool)
	for _, nickname := range nicknames(*r.Status) {
		nicks[strings.ToLower(nickname)] = true
	}
	for _, t := range r.Status.Targets {
		target, err := transport.ParseTarget(t.Target)
		if name := target.Host; err == nil && name != "" && !nicks[name] && h.hosts[name] == "" {
			h.hosts[name] = fmt.Sprintf("host-%d", len(h.hosts)+1)
		}
	}
	return h
}

// alone is the prefix of one address.
func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()) }

// What may be an address or a host name in a text. An IPv6 address may have an IPv4 one at
// its end; what only looks like one does not parse.
var (
	maybeIPv6 = regexp.MustCompile(`[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*`)
	maybeIPv4 = regexp.MustCompile(`(?:[0-9]{1,3}\.){3}[0-9]{1,3}`)
	maybeHost = regexp.MustCompile(`[0-9A-Za-z][0-9A-Za-z._-]*`)
)

// hide is the text without what is to be hidden.
func (h *hider) hide(text string) string {
	text = maybeIPv6.ReplaceAllStringFunc(text, func(s string) string {
		for _, part := range []string{s, strings.TrimRight(s, ":."), strings.TrimLeft(s, ":."), strings.Trim(s, ":.")} {
			if a, err := netip.ParseAddr(part); err == nil {
				return strings.Replace(s, part, h.address(a, part), 1)
			}
		}
		return s
	})
	text = maybeIPv4.ReplaceAllStringFunc(text, func(s string) string {
		if a, err := netip.ParseAddr(s); err == nil {
			return h.address(a, s)
		}
		return s
	})
	if len(h.hosts) == 0 {
		return text
	}
	return maybeHost.ReplaceAllStringFunc(text, func(s string) string {
		name := strings.TrimRight(s, "._-")
		if stand := h.hosts[strings.ToLower(name)]; stand != "" {
			return stand + s[len(name):]
		}
		return s
	})
}

// address is what an address that stands in a text as given is shown as.
func (h *hider) address(a netip.Addr, given string) string {
	a = a.Unmap()
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return given
	}
	for _, p := range h.overlay {
		if p.Contains(a) {
			return given
		}
	}
	if h.numbers[a] == 0 {
		h.numbers[a] = len(h.numbers) + 1
	}
	return fmt.Sprintf("underlay-%d", h.numbers[a])
}

// eachString replaces every string in v, which is a pointer or a slice, by what f makes of
// it. Types that keep what they hold to themselves, such as addresses of the overlay, stay.
func eachString(v reflect.Value, f func(string) string) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() {
			v.SetString(f(v.String()))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			eachString(v.Elem(), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachString(v.Index(i), f)
		}
	case reflect.Map:
		if v.Type().Elem().Kind() != reflect.String {
			return
		}
		for _, key := range v.MapKeys() {
			v.SetMapIndex(key, reflect.ValueOf(f(v.MapIndex(key).String())))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			eachString(v.Field(i), f)
		}
	}
}
