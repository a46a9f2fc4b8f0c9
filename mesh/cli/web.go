package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/spf13/pflag"

	"ripstop/mesh/api/page"
)

const webText = `
Serves a page for a browser on this host that shows the network live, and prints its URL, until it
is ended (Ctrl-C): the hosts and the links between them, what this host knows of each other one, what
is attached where, how much of the addresses is given out, names, and warnings. When the daemon does
not answer the page says so, and goes on when it does again.

Nothing can be changed by the page. It is served on a loopback address only. Its URL has a random key
in it, new each time: who knows the URL reads the page, other users of this host do not.

To look from another machine, let ssh carry the port: give a port by --listen, run there
` + "`ssh -L 8080:127.0.0.1:8080 HOST`" + `, and open the URL there.

Examples:
  ripstop web
  ripstop web --listen 127.0.0.1:8080
  ripstop web --json`

// webAnswer is what --json prints, before the page is served.
type webAnswer struct {
	versioned
	URL string `json:"url"`
}

func webCommand() command {
	return command{
		name: "web", args: "[flags]", short: "show the network live on a page for a browser", client: true, text: webText,
		setup: func(flags *pflag.FlagSet) action {
			listen := netip.MustParseAddrPort("127.0.0.1:0")
			flags.Var(single[netip.AddrPort]{&listen, page.ParseAddress, "ADDR:PORT"}, "listen", "answer here, on a loopback address; port 0 takes any free one")
			return func(ctx context.Context, in *invocation, args []string) error {
				if err := noArguments(args); err != nil {
					return err
				}
				client := in.client()
				defer client.Close()
				if _, err := client.Status(ctx); err != nil {
					return err
				}
				server, err := page.Listen(page.Config{Address: listen, Daemon: client, Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					return err
				}
				defer server.Close()
				if err := showURL(in, server.URL()); err != nil {
					return err
				}
				return server.Run(ctx)
			}
		},
	}
}

// showURL says where the page is.
func showURL(in *invocation, url string) error {
	if in.json {
		return printJSON(in.Out, webAnswer{head(), url})
	}
	_, err := fmt.Fprintln(in.Out, url)
	return err
}
