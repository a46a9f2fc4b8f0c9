package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"ripstop/crypto"
	"ripstop/mesh/store"
)

const secretText = `
` + "`secret new`" + ` makes a network and prints its token: whoever has it may join. Nothing is sent and
nothing else is kept, so the output has to reach every host by a safe way; a file that it goes to
by > may then be read by its owner only. --cipher none makes a network whose frames are neither
encrypted nor protected, for underlays that are private already; that cannot be changed later.

A network also has an admin key, meant for shutting hosts out of it; no version can do that yet.
--admin-file says where to keep it: it is made together with the secret, and nothing can bring it
back later. (A network that ` + "`ripstop up`" + ` makes by itself has it in that host's state directory, as
` + "`admin`" + `.)

` + "`secret show`" + ` prints the token this host uses. Of a passphrase there is nothing to show.

Examples:
  ripstop secret new > secret
  ripstop secret new --admin-file network.admin > secret
                                         keep the admin key, too
  ripstop secret show | ssh vm2 'umask 077; cat > secret && ripstop up --secret-file secret vm1'`

// secretAnswer is what --json prints.
type secretAnswer struct {
	versioned
	Token   string `json:"token"`
	Network string `json:"network"`
	Cipher  string `json:"cipher"`
}

func secretCommand() command {
	return command{
		name: "secret", args: "new|show [flags]", words: []string{"new", "show"}, short: "make or show a network's secret", text: secretText,
		setup: func(flags *pflag.FlagSet) action {
			var cipher, adminFile, state string
			flags.StringVar(&cipher, "cipher", "auto", "`POLICY` auto or none, for new")
			choices(flags, "cipher", "auto", "none")
			flags.StringVar(&adminFile, "admin-file", "", "`FILE` where to keep the network's private admin key, for new")
			flags.StringVar(&state, "state", DefaultState, "`DIR` the daemon's, for show")
			return func(_ context.Context, in *invocation, args []string) error {
				if len(args) == 0 {
					return misuse("new or show is missing")
				}
				if err := noArguments(args[1:]); err != nil {
					return err
				}
				policy, err := crypto.ParseCipherPolicy(cipher)
				if err != nil {
					return oneOf("--cipher", cipher, "auto", "none")
				}
				switch args[0] {
				case "new":
					return secretNew(in, policy, adminFile)
				case "show":
					return secretShow(in, state)
				}
				return misuse("unexpected argument %q: it is new or show", args[0])
			}
		},
	}
}

func secretNew(in *invocation, policy crypto.CipherPolicy, adminFile string) error {
	network, admin, err := crypto.NewNetwork(rand.Reader, policy)
	if err != nil {
		return err
	}
	if adminFile != "" {
		if err := writeNew(adminFile, admin); err != nil {
			return fmt.Errorf("admin key: %w", err)
		}
		return printSecret(in, network)
	}
	if err := printSecret(in, network); err != nil {
		return err
	}
	_, err = fmt.Fprintln(in.Err, "the admin key of this network, with which a later version shall shut hosts out, was not kept: use --admin-file FILE to keep it")
	return err
}

// writeNew writes the admin key into a file that must not be there yet.
func writeNew(path string, admin *crypto.Admin) error {
	b, err := admin.MarshalText()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func secretShow(in *invocation, state string) error {
	// Read beside a running daemon, so without the store's lock. The file is
	// replaced whole, so it is never seen half-written.
	path := filepath.Join(state, store.Network)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no secret in %s: start the host once by `ripstop up`, or say by --state where its state is", state)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be read by its owner only: run it as root", path)
	case err != nil:
		return err
	}
	network, err := crypto.ParseNetwork(b)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if network.Passphrase() {
		return errors.New("this host uses a passphrase, which is not kept: give the other hosts the passphrase itself")
	}
	return printSecret(in, network)
}

func printSecret(in *invocation, network *crypto.Network) error {
	token, err := network.Token()
	if err != nil {
		return err
	}
	if err := keepPrivate(in.Out); err != nil {
		fmt.Fprintf(in.Err, "others may read the file that the secret goes to: %v\n", err)
	}
	if in.json {
		return printJSON(in.Out, secretAnswer{head(), token, network.ID().String(), network.Policy().String()})
	}
	_, err = fmt.Fprintln(in.Out, token)
	return err
}

// keepPrivate lets only its owner read the file that out is, if it is empty, as one is that
// the shell has made or emptied for >. What has something in it, and what is no file, stays
// as it is.
func keepPrivate(out io.Writer) error {
	f, isFile := out.(*os.File)
	if !isFile {
		return nil
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > 0 || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	return f.Chmod(info.Mode().Perm() &^ 0o077)
}
