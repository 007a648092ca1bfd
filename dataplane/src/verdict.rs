//! What becomes of a packet, and by which reason one is dropped or forwarded without a connection.

use crate::port::PortId;

/// Every received packet ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sent to the real server in this destination slot.
    Forward(u32),
    /// Sent to the real server in this destination slot in pieces that are to be made: it is larger than what the way there
    /// carries, and may be cut.
    ForwardInPieces(u32),
    /// Sent as it is now, which is final.
    Ready(Ready),
    /// Held until the first fragment of its packet comes.
    Hold,
    /// Its pieces, which are final, wait among what the worker originates. The frame itself is freed, and counted as
    /// forwarded.
    InPieces(Ready),
    /// Handed to the control thread.
    Punt(PuntQueue),
    /// Handed to the host that the director runs on, through the interface's host interface.
    Host,
    /// Handed to the worker whose connection it is of.
    HandOver(HandOver),
    /// Freed and counted; the sender may be told (ICMP) where the reason demands it.
    Drop(DropReason),
    /// Dropped as [`DropReason::TooBig`]; the sender is told what size would do.
    TooBig(u16),
}

/// Which worker a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Its index.
    pub worker: u16,
    /// What it is to judge the packet as.
    pub kind: PacketKind,
}

/// What a packet is before it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// A packet of a flow.
    Flow,
    /// A piece of a packet.
    Fragment,
    /// IP, but neither TCP, UDP nor SCTP.
    Other,
}

/// A frame that is ready to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The real server's destination slot, for the counters.
    pub slot: u32,
    /// Out of this port.
    pub port: PortId,
    /// It comes from the real server, not from the client.
    pub is_reply: bool,
}

/// The queue by which a frame goes to the control thread: a flood of pings must not keep it from hearing its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PuntQueue {
    /// ARP and neighbour discovery.
    Neighbour,
    /// ICMP echo requests.
    Echo,
}

macro_rules! reasons {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in metrics and `dr-ctl`.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// One sentence for people.
            pub fn description(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped. The set is closed: every reason has a counter and is exported even at 0.
    DropReason {
        /// The frame ends before its Ethernet, ARP, IPv4, TCP or UDP header does.
        Truncated = "truncated",
        /// The frame's headers lie in several segments, or the frame in a buffer that is shared.
        NotContiguous = "not_contiguous",
        /// The destination MAC is neither the port's own nor a broadcast that the director answers.
        WrongMac = "wrong_mac",
        /// The EtherType is none of IPv4, IPv6, ARP and VLAN.
        UnknownEtherType = "unknown_ethertype",
        /// An ARP packet that concerns no VIP, DIP or real server of this port, or is no Ethernet/IPv4 ARP.
        ArpIgnored = "arp_ignored",
        /// The frame has a VLAN that the port does not have, or none where the port has VLANs only.
        UnknownVlan = "unknown_vlan",
        /// The frame has two VLAN tags, or one of 802.1ad.
        Qinq = "qinq",
        /// IPv4 or IPv6 header: version, header length or total length impossible.
        BadIpHeader = "bad_ip_header",
        /// IPv4 header checksum wrong.
        BadIpChecksum = "bad_ip_checksum",
        /// IPv4 options that cannot be, or a source route, which nobody may choose here (RFC 7126 section 4.3).
        BadIpOptions = "bad_ip_options",
        /// Source address that no host may use (RFC 1812 section 5.3.7), or equal to the destination.
        BadSource = "bad_source",
        /// IPv6 extension headers: malformed, too many, out of order, or with a routing header or option that forbids it.
        BadExtensionHeader = "bad_extension_header",
        /// Fragment of a packet that can only be forwarded whole.
        Fragment = "fragment",
        /// Fragment that is empty, reaches beyond 65,535 bytes, has no whole transport header or overwrites one, or leads elsewhere than an earlier one.
        BadFragment = "bad_fragment",
        /// Fragment whose packet's first fragment did not come in time.
        FragmentTimeout = "fragment_timeout",
        /// Fragment whose packet's first fragment had not come when there was no more room to wait for it.
        FragmentEvicted = "fragment_evicted",
        /// Destination address is neither a VIP nor a DIP.
        NotLocal = "not_local",
        /// TTL too low to be forwarded (RFC 1812 section 5.3.1).
        TtlExpired = "ttl_expired",
        /// TCP data offset, UDP length or length of SCTP's first chunk impossible.
        BadTransportHeader = "bad_transport_header",
        /// A packet to a service that knows its clients by SIP's Call-ID, without a proper one.
        BadSip = "bad_sip",
        /// For a VIP or DIP, but no virtual service has this protocol and port.
        NoService = "no_service",
        /// Packet that belongs to no connection and may not open one.
        NoConnection = "no_connection",
        /// Its real server's addresses are translated, which needs a connection, and the connection table is full.
        ConnectionTableFull = "nat_table_full",
        /// Its real server's addresses are translated, which needs a connection, and the worker has opened as many as it may
        /// at once, or an FTP session awaits as many.
        CreationLimit = "nat_creation_rate",
        /// The real server could not tell the packet's connection from another one: the client has the same port there by another virtual service.
        TupleInUse = "tuple_in_use",
        /// No local address and port is left to stand for the client towards the real server (full NAT).
        NoLocalPort = "no_local_port",
        /// The virtual service has no real server that may get a new connection.
        NoRealServer = "no_real_server",
        /// The connection's real server was removed.
        RealServerRemoved = "real_server_removed",
        /// Packet larger than the MTU of the port towards the real server.
        TooBig = "too_big",
        /// No room in front of the packet for what the way to the real server needs.
        NoHeadroom = "no_headroom",
        /// No free buffers for the pieces that the packet had to be cut into.
        NoBuffer = "no_buffer",
        /// There is no way to where the packet goes, or the next hop's MAC address is not known.
        NoRoute = "no_route",
        /// An ICMP message that is malformed or quotes a packet that is none of ours.
        IcmpIgnored = "icmp_ignored",
        /// An ICMP message with a wrong checksum.
        BadIcmp = "bad_icmp",
        /// An ICMP error about a packet in a tunnel: what it says was learnt, and the client told where that concerns it.
        TunnelError = "tunnel_error",
        /// More packets for the host than it may get.
        HostRate = "host_rate",
        /// The queue to the host is full.
        HostQueueFull = "host_queue_full",
        /// A line of FTP has to be rewritten, and the worker remembers as many streams of changed length as it can.
        TooManyStreams = "too_many_streams",
        /// The inbox of the worker whose connection the packet is of is full.
        HandOverFull = "hand_over_full",
        /// The port did not take the frame for sending.
        TxFull = "tx_full",
        /// The control thread's queue is full.
        PuntQueueFull = "punt_queue_full",
    }
}

reasons! {
    /// Why a packet was forwarded by consistent hash, without a connection. The set is closed, as that of the drops.
    StatelessReason {
        /// The worker had opened as many connections as it may at once.
        CreationRate = "creation_rate",
        /// The worker's connection table is full.
        TableFull = "table_full",
        /// The connection may have begun without state, and its real server is over its threshold.
        Threshold = "threshold",
        /// The connection may have begun without state, and the packet, an RST or ABORT, ends it.
        Ending = "ending",
    }
}

reasons! {
    /// What the director tells a packet's sender of it (ICMP, ICMPv6).
    IcmpError {
        /// Packet too big, or fragmentation needed.
        TooBig = "too_big",
        /// Time (TTL, hop limit) exceeded.
        TimeExceeded = "time_exceeded",
        /// Destination unreachable.
        Unreachable = "unreachable",
        /// Parameter problem: a header that cannot be.
        ParameterProblem = "parameter_problem",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_by_their_place_and_named_once() {
        let mut names = std::collections::HashSet::new();
        for (place, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert!(names.insert(reason.name()));
            assert!(reason.description().ends_with('.'));
        }
        for (place, &reason) in StatelessReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, place);
            assert!(names.insert(reason.name()));
            assert!(reason.description().ends_with('.'));
        }
    }
}
