package cli

import "fmt"

// pluginVerbs are what may be done with a plug-in of container runtimes: the first
// argument of its command.
var pluginVerbs = []string{"install", "remove"}

// pluginVerb reports what args ask for: to install, else to remove.
func pluginVerb(command string, args []string) (install bool, err error) {
	if len(args) == 0 {
		return false, misuse("%s does what? It is install or remove", command)
	}
	if err := oneOf(command, args[0], pluginVerbs...); err != nil {
		return false, err
	}
	return args[0] == pluginVerbs[0], noArguments(args[1:])
}

// installed is what --json prints of install.
type installed struct {
	versioned
	Plugin        string `json:"plugin"`                  // path
	Configuration string `json:"configuration,omitempty"` // path
}

// print says what was installed.
func (i installed) print(in *invocation) error {
	if in.json {
		return printJSON(in.Out, i)
	}
	for _, path := range []string{i.Plugin, i.Configuration} {
		if path == "" {
			continue
		}
		if _, err := fmt.Fprintln(in.Out, path); err != nil {
			return err
		}
	}
	return nil
}
