package mesh

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"

	"ripstop/crypto"
	"ripstop/mesh/store"
)

// stateFile is a file of the state directory that is still to be written.
type stateFile struct {
	name string
	text []byte
}

// maxSecretFile bounds what is read of a secret file, bytes.
const maxSecretFile = 16 << 10

// errNoSecret is the answer to peers without a secret.
var errNoSecret = &ExitError{Code: 2, Err: errors.New("no secret: run `ripstop secret new` once and bring its output to every host (RIPSTOP_SECRET or --secret-file)")}

// loadIdentity reads the host's seed, or makes one at the first start and adds it to fresh.
func loadIdentity(s *store.Store, fresh *[]stateFile) (*crypto.Identity, error) {
	text, err := s.ReadFile(store.Seed)
	if err == nil {
		seed, err := crypto.ParseSeed(text)
		if err != nil {
			return nil, fmt.Errorf("state file %s: %w: bring it back from a backup, or remove the state directory for a new identity", store.Seed, err)
		}
		return crypto.NewIdentity(seed)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	seed, err := crypto.NewSeed(rand.Reader)
	if err != nil {
		return nil, err
	}
	if text, err = seed.MarshalText(); err != nil {
		return nil, err
	}
	*fresh = append(*fresh, stateFile{store.Seed, append(text, '\n')})
	return crypto.NewIdentity(seed)
}

// loadNetwork finds the network this host belongs to: what cfg says, else what
// the state directory holds, else a new one if nobody is to be joined. What the
// state directory does not hold yet is added to fresh, a new network's admin key first.
func loadNetwork(s *store.Store, cfg *Config, joining bool, fresh *[]stateFile) (network *crypto.Network, err error) {
	var admin *crypto.Admin
	switch {
	case cfg.Secret != "":
		network, err = parseSecret(cfg.Secret, cfg.NetworkName, "RIPSTOP_SECRET")
	case cfg.SecretFile != "":
		network, err = readSecretFile(cfg.SecretFile, cfg.NetworkName)
	default:
		text, readErr := s.ReadFile(store.Network)
		switch {
		case readErr == nil:
			if network, err = crypto.ParseNetwork(text); err != nil {
				err = fmt.Errorf("state file %s: %w: give the secret again by RIPSTOP_SECRET or --secret-file", store.Network, err)
			}
			return network, err
		case !errors.Is(readErr, fs.ErrNotExist):
			return nil, readErr
		case joining:
			return nil, errNoSecret
		}
		network, admin, err = crypto.NewNetwork(rand.Reader, crypto.CipherAuto)
	}
	if err != nil {
		return nil, err
	}
	if admin != nil {
		text, err := admin.MarshalText()
		if err != nil {
			return nil, err
		}
		*fresh = append(*fresh, stateFile{store.Admin, text})
	}
	text, err := network.MarshalText()
	if err != nil {
		return nil, err
	}
	*fresh = append(*fresh, stateFile{store.Network, text})
	return network, nil
}

// readSecretFile reads a token, a network file or a passphrase.
func readSecretFile(path, networkName string) (*crypto.Network, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w: check --secret-file", err)
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 && info.Mode()&fs.ModeCharDevice == 0 {
		return nil, fmt.Errorf("secret file %s: not a file: check --secret-file", path)
	}
	if info.Size() > maxSecretFile {
		return nil, fmt.Errorf("secret file %s: %d bytes, %d are the most: it holds a token, a network file or a passphrase", path, info.Size(), maxSecretFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	if len(text) > maxSecretFile {
		return nil, fmt.Errorf("secret file %s: more than %d bytes: it holds a token, a network file or a passphrase", path, maxSecretFile)
	}
	return parseSecret(string(text), networkName, "secret file "+path)
}

// parseSecret reads a token, a network file's text or a passphrase; where says
// what it was read from.
func parseSecret(text, networkName, where string) (*crypto.Network, error) {
	secret := strings.TrimSpace(text)
	network, err := crypto.ParseNetwork([]byte(secret))
	if err == nil {
		return network, nil
	}
	if !errors.Is(err, crypto.ErrForeign) {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	// What is neither is a passphrase, unless nobody would type it.
	if strings.ContainsFunc(secret, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, fmt.Errorf("%s: neither a token (rs1-…), nor a network file, nor a passphrase on one line: make one by `ripstop secret new`", where)
	}
	if networkName == "" {
		networkName = "default"
	}
	if network, err = crypto.PassphraseNetwork(secret, networkName); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return network, nil
}
