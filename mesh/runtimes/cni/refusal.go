package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"ripstop/mesh/api"
	"ripstop/tun/attach"
	"ripstop/tun/netns"
)

// Codes of our own; those below 100 are the protocol's.
const (
	codeChanged uint = 100 // CHECK: the attachment is not as ADD left it
	codeTaken   uint = 101 // ADD: somebody has that address, MAC, name or interface
)

// object is an error as the protocol has it.
type object struct {
	CNIVersion string `json:"cniVersion"`
	*types.Error
}

func refuse(code uint, format string, args ...any) *types.Error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}

// invalid refuses a configuration.
func invalid(format string, args ...any) *types.Error {
	return refuse(types.ErrInvalidNetworkConfig, format, args...)
}

// answerVersion is the version of an answer to a call of that version.
func answerVersion(asked string) string {
	if slices.Contains(versions.SupportedVersions(), asked) {
		return asked
	}
	return latest
}

// refusal is what a runtime is told of an error from below.
func (c *call) refusal(err error) *types.Error {
	r := types.NewError(types.ErrInternal, err.Error(), "")
	var answer *api.Error
	switch {
	case errors.Is(err, api.ErrUnreachable) && errors.Is(err, fs.ErrPermission):
		r.Code, r.Details = types.ErrTryAgainLater, "the runtime has to be root"
	case errors.Is(err, api.ErrUnreachable):
		r.Code, r.Details = types.ErrTryAgainLater, "start one by `ripstop up`, or say in the network's configuration by \"socket\" where it listens"
	case errors.As(err, &answer):
		r.Code = codeOf(answer.Code)
	case errors.Is(err, attach.ErrDefaultRoute):
		r.Code, r.Details = codeTaken, "behind another plug-in that gives a default route leave isDefaultGateway out"
	case errors.Is(err, attach.ErrInterfaceTaken):
		r.Code, r.Msg = codeTaken, fmt.Sprintf("the container has an interface %s already", c.inside())
		r.Details = "behind another plug-in give this one another name by \"interface\" in the network's configuration"
	case errors.Is(err, netns.ErrOwn), errors.Is(err, netns.ErrNotNamespace), gone(err):
		r.Code = types.ErrInvalidNetNS
	}
	return r
}

// codeOf is the protocol's code for a refusal by the daemon.
func codeOf(code api.Code) uint {
	switch code {
	case api.CodeInvalid:
		return types.ErrInvalidNetworkConfig
	case api.CodeConflict:
		return codeTaken
	case api.CodeUnavailable, api.CodeStopping:
		return types.ErrTryAgainLater
	case api.CodeUnsupported:
		return types.ErrPluginNotAvailable
	}
	return types.ErrInternal
}
