// Package api is the local interface of a running ripstop: the types, the server
// inside the daemon and the client that the command line uses.
//
//	ripstop attach … ──► Client ── HTTP+JSON over a unix socket, 0660 ──► Server ──► Backend (mesh.Node)
//
//	GET  /v1/status                                   Status
//	GET  /v1/topology                                 Topology
//	POST /v1/explain                                  ExplainRequest → Explanation
//	POST /v1/ping                                     PingRequest → Pong
//	POST /v1/internals                                InternalsRequest → Internals
//	POST /v1/connect  /v1/forget                      Connect-, ForgetRequest → {}
//	POST /v1/attach/reserve → /commit | /cancel       AttachRequest → AttachPlan → CommitRequest → Endpoint
//	POST /v1/detach                                   DetachRequest → AttachPlan
//	POST /v1/expose   /v1/hide                        ExposeRequest → Endpoint, {} → {}
//	GET  /v1/ipam                                     IPAM
//	POST /v1/ipam/allocate /release                   Allocate-, ReleaseRequest → Address, Moved
//	POST /v1/ipam/start /adopt                        {} → {}
//	POST /v1/leave    /v1/rmpeer                      Leave-, RemoveRequest → Moved
//	POST /v1/stop     /v1/reset                       {} → {}
//	GET  /metrics                                     the same Status for Prometheus, as text
//
//	Prometheus ── HTTP on the loopback, if `up --metrics` says where ──► LoopbackServer ──► Backend
//
// Every other answer is one JSON object with "version": 1; a refusal has an "error" in
// it. Fields are only ever added within a version; a reader ignores what it does
// not know. A request has at most MaxBody bytes, and unknown fields in it are
// refused, so that a newer client's wish is never silently dropped.
//
// The file permissions of the socket are the whole access control: who may open
// it may do everything the daemon can. ListenMetrics asks nobody who he is, and
// answers nothing but GET /metrics; loopback.go keeps pages of the web out.
//
// Read types.go and ipam.go first, then backend.go, server.go, socket.go and client.go; metrics are
// listed in metrics.go, written by exposition.go and answered by metrics_server.go.
package api

// Version is the version of every object here.
const Version = 1

// DefaultSocket is where a daemon answers unless it is told otherwise.
const DefaultSocket = "/run/ripstop/ripstop.sock"

// MaxBody bounds a request's body in bytes.
const MaxBody = 1 << 20

// The paths of the interface; the number in them is Version.
const (
	pathStatus    = "/v1/status"
	pathTopology  = "/v1/topology"
	pathExplain   = "/v1/explain"
	pathPing      = "/v1/ping"
	pathInternals = "/v1/internals"
	pathConnect   = "/v1/connect"
	pathForget    = "/v1/forget"
	pathReserve   = "/v1/attach/reserve"
	pathCommit    = "/v1/attach/commit"
	pathCancel    = "/v1/attach/cancel"
	pathDetach    = "/v1/detach"
	pathExpose    = "/v1/expose"
	pathHide      = "/v1/hide"
	pathStop      = "/v1/stop"
	pathReset     = "/v1/reset"
	pathDNS       = "/v1/dns"
	pathDNSAdd    = "/v1/dns/add"
	pathDNSRemove = "/v1/dns/remove"
	pathDNSLookup = "/v1/dns/lookup"
)
