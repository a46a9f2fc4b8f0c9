package netavark

import (
	"slices"
	"strings"

	"ripstop/mesh/api"
	"ripstop/mesh/runtimes"
)

// shortID is how many digits of a container's ID Podman gives it as an alias.
const shortID = 12

// names are what a container is found by: its name first, then its aliases.
func (c *call) names(p place, r request) (name string, aliases []string) {
	var all []string
	for _, text := range append([]string{r.Container}, r.Wishes.Aliases...) {
		given := endpointName(text)
		switch {
		case len(text) == shortID && strings.HasPrefix(p.Container, text): // nobody looks for that
		case given == "":
			c.note("%.80q is no name of letters, digits, hyphens and dots with at most 63 characters: the container is not found by it", text)
		case slices.Contains(all, given):
		case len(all) > api.MaxAliases:
			c.note("%d names are the most for a container: it is not found by %s", 1+api.MaxAliases, given)
		default:
			all = append(all, given)
		}
	}
	if len(all) == 0 {
		return "", nil
	}
	return all[0], all[1:]
}

// endpointName is a container's name or alias as DNS has it. The names that Podman makes
// up, and those that compose files lead to, have underscores, which no host name has.
func endpointName(text string) string {
	return runtimes.EndpointName(strings.ReplaceAll(text, "_", "-"))
}
