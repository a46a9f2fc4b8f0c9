package api

import (
	"context"
	"net/http"
	"time"
)

// Bounds of a ping: how long its answer may take at most, and how long where the request
// does not say.
const (
	MaxPingTimeout     = 10 * time.Second
	DefaultPingTimeout = 2 * time.Second
)

// PingRequest asks a host of the network for one answer.
type PingRequest struct {
	Host string `json:"host"` // nickname or name
	// Path is "udp", "tcp", or the underlay address and port of a path over UDP, one of
	// those that the pair has; empty: the way that frames take.
	Path    string   `json:"path,omitempty"`
	Timeout Duration `json:"timeout,omitzero"` // 0: DefaultPingTimeout
}

// Pong is what came of a ping.
type Pong struct {
	Version  int    `json:"version"`
	Host     string `json:"host"` // name
	Nickname string `json:"nickname"`
	Answered bool   `json:"answered"`
	RTTMicro int64  `json:"rtt_us"` // of one that was answered
	// Way is how the question left, Back how the answer came.
	Way  PingWay  `json:"way"`
	Back *PingWay `json:"back,omitempty"`
}

// PingWay is a way between the two hosts.
type PingWay struct {
	Path   string `json:"path"`             // udp, tcp or relay
	Remote string `json:"remote,omitempty"` // address and port of the path over UDP
	Via    string `json:"via,omitempty"`    // nickname of the relay that it was handed to
}

func versionPong(p *Pong) { p.Version = Version }

// Ping asks a host for one answer. That none came in time is no error.
func (c *Client) Ping(ctx context.Context, r PingRequest) (Pong, error) {
	return ask[Pong](ctx, c, http.MethodPost, pathPing, r)
}
