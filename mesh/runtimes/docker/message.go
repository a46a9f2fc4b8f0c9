package docker

// What Docker sends and wants to hear, by the names of its fields: libnetwork's
// drivers/remote/api and ipams/remote/api. What is not needed is left out.

// nothing is a request or an answer without a field.
type nothing struct{}

type implements struct{ Implements []string }

type networkCapabilities struct {
	Scope             string // whether Docker knows a network on this host alone: local
	ConnectivityScope string // whether its containers reach those of other hosts: global
	GwAllocChecker    bool   // GwAllocCheck is answered (Docker 28)
}

// skipGateway is the answer to GwAllocCheck: no address for a gateway is needed.
type skipGateway struct{ SkipIPv4, SkipIPv6 bool }

type addressCapabilities struct {
	RequiresMACAddress    bool // RequestAddress has the endpoint's
	RequiresRequestReplay bool // after a restart of Docker
}

type addressSpaces struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }

type poolRequest struct {
	AddressSpace string
	Pool         string // --subnet; empty: one is chosen
	SubPool      string // --ip-range: addresses are chosen out of it
	V6           bool
	Options      map[string]string // --ipam-opt
}

// dockersOwn begins the options that Docker adds by itself.
const dockersOwn = "com.docker."

type poolAnswer struct {
	PoolID string
	Pool   string // CIDR
	Data   map[string]string
}

type releasePoolRequest struct{ PoolID string }

type addressRequest struct {
	PoolID  string
	Address string // empty: one is chosen
	Options map[string]string
}

// The keys of an addressRequest's options, and a value.
const (
	optionType  = "RequestAddressType"
	optionMAC   = "com.docker.network.endpoint.macaddress"
	typeGateway = "com.docker.network.gateway"
)

type addressAnswer struct {
	Address string // with the length of its pool
	Data    map[string]string
}

type releaseAddressRequest struct {
	PoolID  string
	Address string
}

type networkRequest struct {
	NetworkID string
	Options   map[string]any
	IPv4Data  []poolData
	IPv6Data  []poolData
}

// optionGeneric is the key of a network's options at which those of --opt are.
const optionGeneric = "com.docker.network.generic"

// poolData is a pool of a network.
type poolData struct{ AddressSpace, Pool string }

type deleteNetworkRequest struct{ NetworkID string }

type endpointRequest struct {
	NetworkID  string
	EndpointID string
	Interface  *endpointInterface
	Options    map[string]any
}

// optionPorts is the key of an endpoint's options at which the published ports are.
const optionPorts = "com.docker.network.portmap"

type endpointInterface struct{ Address, AddressIPv6, MacAddress string }

// endpointAnswer has what the request left open, which is nothing. Docker refuses an
// answer that repeats what it said.
type endpointAnswer struct{ Interface endpointChoice }

type endpointChoice struct{}

// endpointName names an endpoint in all calls about one that is there.
type endpointName struct{ NetworkID, EndpointID string }

type endpointInfo struct{ Value map[string]any }

type joinRequest struct {
	endpointName
	SandboxKey string // path of the container's namespace, which may not be there yet
}

type joinAnswer struct {
	InterfaceName         interfaceName
	StaticRoutes          []staticRoute
	DisableGatewayService bool // or Docker adds an interface to docker_gwbridge
}

type interfaceName struct {
	SrcName   string // in the host's namespace
	DstPrefix string // of the name in the container; Docker puts a number behind it
}

type staticRoute struct {
	Destination string // CIDR
	RouteType   int    // onLink: through this interface
}

// onLink is a route without a next hop.
const onLink = 1
