package cli

// counterText explains a counter of the daemon.
type counterText struct {
	means  string
	advice string // what to do when it rises; empty: nothing, it is part of the ordinary
}

// Advice that several counters share.
const (
	adviceForged   = "with others on the underlay this is expected now and then; a steady stream comes from somebody who sends rubbish: see who by a capture of the port"
	adviceRestart  = "nothing while a host starts again; if it goes on, compare `ripstop status peers` on both hosts"
	adviceVersions = "run the same version of ripstop on all hosts: `ripstop status peers` shows them"
	adviceReport   = "this should not be: write down `ripstop status --json` of both hosts, and report it"
	adviceClaim    = "`ripstop status endpoints` shows who has it; what sends it may be allowed to by `ripstop attach --allow-mac` or `--allow-address`"
	adviceCopies   = "find what sends so much broadcast or multicast: tcpdump on the bridge; it is limited so that it does not flood all hosts"
	adviceRoute    = "`ripstop status routes` and the peers above show to whom there is no way"
	advicePort     = "see the container's own settings; if it is meant to, `ripstop attach --allow-mac` and `--allow-address` let it"
	adviceSlow     = "the host is short of processor time: `top` shows what takes it"
	adviceUnderlay = "look at the host's own network: `ip route`, `ip link`, and its firewall's output rules"
	adviceStranger = "nothing, if programs that scan ports come by; else see who by the daemon's log with `ripstop up --log-level debug`"
)

// counterTexts are all counters of losses and troubles that a daemon may show, and those
// beside them that are no loss, by name.
var counterTexts = map[string]counterText{
	// What the plane counts that is no loss.
	"datagrams_out":     {"datagrams sent", ""},
	"datagrams_in":      {"datagrams received", ""},
	"datagrams_relayed": {"datagrams passed on between other hosts", ""},
	"control_relayed":   {"session messages passed on between other hosts", ""},
	"frames_fragmented": {"frames sent in pieces", ""},
	"frames_answered":   {"ARP and neighbour questions answered in the place of another host", ""},

	// The plane, on the way out.
	"drop_no_route":          {"there was no way to the host that a frame or relayed datagram was for", adviceRoute},
	"drop_no_session":        {"keys with the other host were not agreed on yet", "nothing in the first second of talking to a host; if it goes on: `ripstop status peers` shows with whom there is no cipher"},
	"drop_too_big":           {"a frame was too long even in pieces", "lower the MTU of what sends it"},
	"drop_offload_unknown":   {"the kernel handed over a super-frame of a kind that cannot be cut", "`ripstop up --no-offload tunnel` leaves the cutting to the kernel; if that helps, report it"},
	"drop_session_exhausted": {"a session was used up before new keys were agreed on", adviceReport},
	"drop_send_error":        {"the kernel would not send a datagram", adviceUnderlay + "; the udp_ counters beside it say why"},
	"drop_tcp_queue_full":    {"more was to be sent over a TCP connection than it carries", "let UDP pass: the line about udp says between which hosts"},

	// The plane, on the way in.
	"drop_device_write":         {"the kernel did not take a frame from ripstop", "see that the bridge and its device are up: `ip link`"},
	"drop_datagram_short":       {"a datagram was too short to be one of ripstop's", adviceForged},
	"drop_datagram_type":        {"a datagram was of a kind that this version does not know", adviceVersions},
	"drop_datagram_index":       {"a datagram was of a session that is over", adviceRestart},
	"drop_datagram_replayed":    {"a datagram came twice, or far too late", "the underlay doubles or delays packets, or somebody sends recorded ones: look at it by a capture"},
	"drop_datagram_forged":      {"a datagram was damaged, or not sealed by whom it says", adviceForged},
	"drop_datagram_address":     {"in a network of cipher none: a datagram came from an address that is not verified", adviceForged},
	"drop_fragments_incomplete": {"pieces of a frame were missing", "the underlay loses packets: see the line about loss"},
	"drop_record_malformed":     {"a record in a sealed datagram made no sense", adviceVersions},
	"drop_record_network":       {"a record was of another virtual network than this host has", adviceVersions},
	"drop_relay_forged":         {"a relayed datagram was damaged, or not from the neighbour it says", adviceForged},
	"drop_relay_loop":           {"a datagram that this host sent was handed to it to be relayed", adviceReport},
	"drop_relay_hop_limit":      {"a relayed datagram went round too many hosts", "nothing while routes change; else " + adviceReport},
	"drop_session_requests":     {"another host asked for new keys too often", adviceRestart},
	"drop_control_queue_full":   {"the daemon did not keep up with session messages", adviceSlow},

	// The switch.
	"drop_none":                  {"no reason", adviceReport},
	"drop_runt":                  {"a frame was shorter than an Ethernet header", "find the container that sends it: tcpdump on the bridge"},
	"drop_bad_source":            {"a frame's source was a group address, or zero", "find the container that sends it: tcpdump on the bridge"},
	"drop_link_local_group":      {"frames for the bridge itself, such as spanning tree, stay on this host", ""},
	"drop_forged_mac":            {"a frame's source was the MAC of an endpoint somewhere else", adviceClaim},
	"drop_forged_address":        {"a packet's source was the address of an endpoint somewhere else", adviceClaim},
	"drop_fenced":                {"from or to an endpoint whose address or MAC another host has", "the line about endpoints says which, and what to run"},
	"drop_unmanaged_port":        {"with --strict-ports: from a bridge port that ripstop did not attach", "`ripstop attach` it, or start without --strict-ports"},
	"drop_destination_here":      {"the bridge has delivered it on this host", ""},
	"drop_unreachable":           {"the host of the destination could not be reached", adviceRoute},
	"drop_no_other_host":         {"broadcast and multicast while no other host is there", ""},
	"drop_source_copy_cap":       {"one container sent more broadcast, multicast or to unknown MACs than is copied", adviceCopies},
	"drop_host_copy_cap":         {"this host sent more broadcast, multicast or to unknown MACs than is copied", adviceCopies},
	"drop_reply_room":            {"an answer did not fit where it was to go", adviceReport},
	"drop_unknown_peer":          {"a frame came from a host that is not in the table yet", adviceRestart},
	"drop_destination_elsewhere": {"another host sent here what is for an endpoint somewhere else", "nothing while an endpoint moves; else `ripstop status endpoints` on both hosts should agree"},
	"drop_longer_than_receiver":  {"a packet was longer than the MTU of its receiver, and nobody could be told", "give both the same MTU: `ripstop attach --mtu`"},
	"drop_hop_limit":             {"a relayed datagram went round too many hosts", "nothing while routes change; else " + adviceReport},

	// The sockets.
	"drop_receive_buffer_full": {"datagrams came faster than the daemon took them from the kernel", adviceSlow + "; the line about buffers says whether they may be larger"},
	"drop_datagram_truncated":  {"a datagram was longer than what was left of the buffer", "no host of ripstop sends such: see who does by a capture of the port"},
	"udp_receive_errors":       {"the kernel reported an error in the place of a datagram", adviceUnderlay},
	"udp_too_big":              {"a datagram was longer than the way to the other host carries; ripstop sends shorter ones after that", "nothing, unless it goes on: then look at the MTU of the host's interfaces by `ip link`"},
	"udp_no_buffers":           {"the queue of a network interface was full", "the interface is slower than what is sent: `tc -s qdisc` shows its queue"},
	"udp_refused":              {"a packet filter of this host would not let a datagram out", "let UDP out of this host: `nft list ruleset` shows the rules of output"},
	"udp_unreachable":          {"this host knows no way to an address of another host", "`ip route`; it is ordinary for hosts with addresses that others cannot reach"},
	"udp_send_errors":          {"the kernel would not send a datagram, for another reason", adviceUnderlay},

	// The device.
	"drop_tap_queue_full":       {"containers sent faster than the daemon took it from the device", adviceSlow},
	"drop_tap_unknown_offload":  {"the kernel handed over a frame whose header says something unknown", "`ripstop up --no-offload all` does without; if that helps, report it"},
	"drop_routed_not_ip":        {"routed mode carries IP only", ""},
	"drop_routed_malformed":     {"a packet's lengths or sums contradicted each other", "find who sends it: tcpdump on the device"},
	"drop_routed_other_station": {"a frame for another MAC, which its sender sent to all", ""},
	"drop_routed_unreachable":   {"nobody on the overlay has the address that this host sent to", "see what this host sends there: tcpdump on the device"},
	"drop_routed_queue_full":    {"more was sent than is kept while a destination is asked for", "nothing for a moment; if it goes on, what is sent to answers nothing"},
	"drop_routed_conflict":      {"another host says that it has an address of this one", "find it by `ripstop status endpoints`, and give one of the two another: `ripstop up --mode routed --address`"},
	"drop_routed_no_address":    {"this host sent packets of a family in which it has no address on the overlay", "give it one: `ripstop up --mode routed --address`"},

	// The port rules.
	"port_rule_forged_mac":      {"a container sent from a MAC that is not its own", advicePort},
	"port_rule_forged_ipv4":     {"a container sent from an IPv4 address that is not its own", advicePort},
	"port_rule_forged_ipv6":     {"a container sent from an IPv6 address that is not its own", advicePort},
	"port_rule_arp_shape":       {"a container sent ARP that is not about Ethernet and IPv4", advicePort},
	"port_rule_arp_forged_mac":  {"a container sent ARP with a MAC that is not its own", advicePort},
	"port_rule_arp_forged_ipv4": {"a container sent ARP for an address that is not its own", advicePort},
	"port_rule_nd_forged":       {"a container advertised an IPv6 address or MAC that is not its own", advicePort},
	"port_rule_router":          {"a container sent router advertisements or redirects", "stop its router daemon (radvd, bird), or let it by `ripstop attach --allow-address any`"},
	"port_rule_dhcp_server":     {"a container answered as a DHCP server", "stop it, or let it by `ripstop attach --allow-address any`"},
	"port_rule_tagged":          {"a container sent frames with more VLAN tags than are looked behind", "use one tag or two"},
	"port_rule_endpoint_taken":  {"a bridge port that ripstop did not attach used the MAC or address of an endpoint", "give what is behind that port others: `ripstop status endpoints` lists those that are taken"},
	"port_rule_strict":          {"with --strict-ports: from a bridge port that ripstop did not attach", "`ripstop attach` it, or start without --strict-ports"},
	"port_rule_underlay_guard":  {"a container sent to the daemon's own port on this host", "a peer was given by an address inside the overlay: `ripstop status links` lists them"},

	// Control connections.
	"control_accepted":          {"connections taken from other hosts", ""},
	"control_refused_overlay":   {"a connection came through the overlay itself", "a host dials an address inside the overlay: name one of the network below"},
	"control_refused_total":     {"too many strangers had connections at once", adviceStranger},
	"control_refused_prefix":    {"too many strangers of one network had connections at once", adviceStranger},
	"control_refused_rate":      {"connections of one network came too fast", adviceStranger},
	"control_evicted":           {"a stranger's connection gave way to a newer one", ""},
	"control_foreign":           {"a connection of another program, or of a host with another secret", "a host that should be a member has another secret: compare `ripstop secret show`"},
	"control_said_nothing":      {"a connection on which nothing was said", ""},
	"control_handshake_failed":  {"a handshake was broken off", adviceRestart},
	"control_accept_errors":     {"the kernel gave no connection for want of descriptors or memory", "raise LimitNOFILE of the service, or free memory"},
	"control_unknown_kind":      {"a message of a kind that this version does not know", ""},
	"control_malformed":         {"a message could not be read", adviceVersions},
	"control_datagram_overflow": {"a datagram over TCP gave way to a newer one", "let UDP pass: the line about udp says between which hosts"},
	"control_queue_full":        {"a message to another host waited for too long", "the way to that host is slower than what is to be told: see the lines about links and loss"},
	"control_crossed":           {"two connections between the same hosts crossed, and one was kept", ""},
	"control_duplicate":         {"a second connection between the same hosts was closed", ""},

	// Names.
	"dns_queries":           {"questions", ""},
	"dns_answers":           {"questions answered from the network's names", ""},
	"dns_forwarded":         {"questions passed on to this host's resolvers", ""},
	"dns_busy":              {"more questions were under way than are passed on at once", "find the container that asks so much: tcpdump -n port 53 on the bridge"},
	"dns_dropped":           {"a question could not be read, or its answer not sent", ""},
	"dns_loops":             {"this host's resolver asks here again for what it was asked", "name another resolver for this host: `ripstop up --resolv-conf`"},
	"dns_upstream_failures": {"this host's resolvers did not answer", "see /etc/resolv.conf, or the file of `ripstop up --resolv-conf`"},
}
