package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Docker gives the host's forward chain the policy drop, and has the kernel show it the
// frames that only pass a bridge (bridge-nf-call-iptables), so that those of ours are
// lost. It asks a chain first that it leaves to the administrator:
//
//	ip, ip6 filter DOCKER-USER:  the administrator's rules
//	                             iifname BRIDGE, oifname BRIDGE ─▶ counted, accepted   "ripstop"
//	                             return, as Docker wrote it
//
// The rule has the form in which iptables-nft writes and shows it. Tables of the old
// iptables are not nftables' and stay as they are.
const (
	tableFilter  = "filter"
	chainDocker  = "DOCKER-USER"
	dockerPasses = "let frames pass Docker's firewall"
)

// markOurs is the comment of the rule, by which it is known among the administrator's.
var markOurs = userdata.AppendString(nil, userdata.TypeComment, "ripstop")

// PassDocker lets frames pass from one port of a bridge to another where Docker has made
// its chain; added tells whether it had to. Once is enough until somebody flushes the
// chain; Table.Delete ends it. It is no error that there is no such chain.
func PassDocker(bridge string) (added bool, err error) {
	c, err := dial()
	if err != nil {
		return false, fmt.Errorf("firewall: %s: %s: %w", bridge, dockerPasses, err)
	}
	chains, err := dockerChains(c)
	if err != nil {
		return false, fmt.Errorf("firewall: %s: %s: %w", bridge, dockerPasses, err)
	}
	for _, ch := range chains {
		if slices.ContainsFunc(ch.rules, func(r *nftables.Rule) bool { return passes(r, bridge) }) {
			continue
		}
		added = true
		r := &nftables.Rule{Table: ch.chain.Table, Chain: ch.chain, Exprs: passing(bridge), UserData: markOurs}
		if end := slices.IndexFunc(ch.rules, forAll); end >= 0 {
			r.Position = ch.rules[end].Handle
			c.InsertRule(r)
		} else {
			c.AddRule(r)
		}
	}
	if !added {
		return false, nil
	}
	if err := c.Flush(); err != nil {
		return false, fmt.Errorf("firewall: %s: %s: %w", bridge, dockerPasses, err)
	}
	return true, nil
}

// stopPassingDocker removes what PassDocker added.
func stopPassingDocker(bridge string) error {
	c, err := dial()
	if err != nil {
		return err
	}
	chains, err := dockerChains(c)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		for _, r := range ch.rules {
			if !bytes.Equal(r.UserData, markOurs) || !passes(r, bridge) {
				continue
			}
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); !errors.Is(err, unix.ENOENT) { // the chain went meanwhile
		return err
	}
	return nil
}

// dockerChain is a chain of Docker's for the administrator, with its rules in order.
type dockerChain struct {
	chain *nftables.Chain
	rules []*nftables.Rule
}

func dockerChains(c *nftables.Conn) (found []dockerChain, err error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, ch := range chains {
			if ch.Name != chainDocker || ch.Table.Name != tableFilter {
				continue
			}
			rules, err := c.GetRules(ch.Table, ch)
			if errors.Is(err, unix.ENOENT) {
				continue // it went meanwhile
			}
			if err != nil {
				return nil, err
			}
			found = append(found, dockerChain{ch, rules})
		}
	}
	return found, nil
}

// passing is the rule.
func passing(bridge string) []expr.Any {
	name := append([]byte(bridge), 0)
	return rule(
		meta(expr.MetaKeyIIFNAME), equal(name...),
		meta(expr.MetaKeyOIFNAME), equal(name...),
		&expr.Counter{},
		accept(),
	)
}

// passes reports whether a rule is the one, whoever wrote it.
func passes(r *nftables.Rule, bridge string) bool {
	want := passing(bridge)
	have := slices.DeleteFunc(slices.Clone(r.Exprs), isCounter)
	return slices.EqualFunc(have, slices.DeleteFunc(want, isCounter), sameExpression)
}

// sameExpression compares those of which passing is made.
func sameExpression(a, b expr.Any) bool {
	switch a := a.(type) {
	case *expr.Meta:
		b, ok := b.(*expr.Meta)
		return ok && a.Key == b.Key && !a.SourceRegister
	case *expr.Cmp:
		// iptables-nft compares the name and its zero, nft all 16 bytes.
		b, ok := b.(*expr.Cmp)
		return ok && a.Op == b.Op && len(a.Data) >= len(b.Data) && bytes.Equal(bytes.TrimRight(a.Data, "\x00"), bytes.TrimRight(b.Data, "\x00"))
	case *expr.Verdict:
		b, ok := b.(*expr.Verdict)
		return ok && a.Kind == b.Kind && a.Chain == b.Chain
	}
	return false
}

// forAll reports whether a rule decides about every packet.
func forAll(r *nftables.Rule) bool {
	rest := slices.DeleteFunc(slices.Clone(r.Exprs), isCounter)
	if len(rest) != 1 {
		return false
	}
	v, ok := rest[0].(*expr.Verdict)
	return ok && v.Kind != expr.VerdictJump && v.Kind != expr.VerdictContinue
}

func isCounter(e expr.Any) bool {
	_, ok := e.(*expr.Counter)
	return ok
}
