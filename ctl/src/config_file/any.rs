//! Any configuration, for property tests.

use proptest::prelude::*;
use scheduler::{Algorithm, SchedulerFlags};

use crate::config::{
    ClientAddress, Config, ConnectionsConfig, DirectorConfig, Drain, Family, Forwarding, HostInterface,
    Hugepages, Ipv6, NatConfig, Netmask, Persistence, PersistenceEngine, PortConfig, Protocol, Qinq,
    RealServerConfig, RouteConfig, ServiceConfig, ServiceId, Timeouts, TunnelChecksum, TunnelConfig,
    TunnelType, VirtualAddress, VlanConfig,
};
use crate::mac::MacAddress;

fn any_director() -> impl Strategy<Value = DirectorConfig> {
    let sizes = (
        any::<u32>(),
        prop::option::of(any::<u32>()),
        any::<u16>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
    );
    let rates = (
        prop::sample::select(vec![Ipv6::Auto, Ipv6::On, Ipv6::Off]),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
    );
    let texts = (".{0,20}", prop::option::of(".{0,20}"), prop::collection::vec(".{0,20}", 0..3));
    let cpus = || prop::collection::vec(0usize..4096, 0..4);
    let listen = prop::option::of(any::<std::net::SocketAddr>().prop_map(|mut address| {
        // A flow label is no part of an address's text.
        if let std::net::SocketAddr::V6(address) = &mut address {
            address.set_flowinfo(0);
        }
        address
    }));
    let hugepages = prop::sample::select(vec![Hugepages::Auto, Hugepages::Off, Hugepages::Required]);
    (cpus(), cpus(), hugepages, sizes, texts, listen, rates).prop_map(
        |(worker_cpus, control_cpus, hugepages, sizes, texts, metrics_listen, rates)| DirectorConfig {
            worker_cpus,
            control_cpus,
            hugepages,
            memory_mib: sizes.0,
            mbuf_count: sizes.1,
            mbuf_data_room: Some(sizes.2),
            connection_capacity_per_worker: sizes.3,
            service_capacity: sizes.4,
            real_server_capacity: sizes.5,
            template_capacity: sizes.6,
            control_socket: texts.0.into(),
            control_group: texts.1,
            metrics_listen,
            ipv6: rates.0,
            host_packets_per_second: rates.1,
            icmp_packets_per_second: rates.2,
            fragment_capacity_per_worker: rates.3,
            eal_arguments: texts.2,
        },
    )
}

fn any_networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let v4 = (any::<std::net::Ipv4Addr>(), 0u8..=32)
        .prop_map(|(address, length)| ipnet::IpNet::new(address.into(), length).unwrap());
    let v6 = (any::<std::net::Ipv6Addr>(), 0u8..=128)
        .prop_map(|(address, length)| ipnet::IpNet::new(address.into(), length).unwrap());
    prop::collection::vec(prop_oneof![v4, v6], 0..3)
}

fn any_host_interface() -> impl Strategy<Value = HostInterface> {
    let named = ".{0,20}".prop_filter("a word of its own", |name| name != "auto" && name != "off");
    prop_oneof![Just(HostInterface::Auto), Just(HostInterface::Off), named.prop_map(HostInterface::Named)]
}

fn any_port() -> impl Strategy<Value = PortConfig> {
    let vlan = (any::<u16>(), any_networks(), prop::option::of(any::<u16>()), any_host_interface())
        .prop_map(|(id, addresses, mtu, host_interface)| VlanConfig { id, addresses, mtu, host_interface });
    let qinq = prop::sample::select(vec![Qinq::Drop, Qinq::Pass]);
    let tagged = (any_host_interface(), qinq, prop::collection::vec(vlan, 0..3));
    let sizes = (any::<u16>(), any::<u16>(), prop::option::of(any::<u16>()));
    (".{0,20}", ".{0,20}", any_networks(), sizes, tagged).prop_map(
        |(name, device, addresses, (rx_descriptors, tx_descriptors, mtu), tagged)| {
            let (host_interface, qinq, vlans) = tagged;
            PortConfig {
                name,
                device,
                addresses,
                rx_descriptors,
                tx_descriptors,
                mtu,
                host_interface,
                qinq,
                vlans,
            }
        },
    )
}

fn any_route() -> impl Strategy<Value = RouteConfig> {
    let network = any_networks().prop_filter_map("one", |networks| networks.first().copied());
    (network, any::<std::net::IpAddr>(), prop::option::of(".{0,20}"))
        .prop_map(|(network, gateway, interface)| RouteConfig { network, gateway, interface })
}

fn any_timeouts() -> impl Strategy<Value = Timeouts> {
    prop::collection::vec(prop::option::of(any::<u32>()), Timeouts::NAMES.len()).prop_map(|seconds| {
        let mut timeouts = Timeouts::default();
        for (timeout, seconds) in timeouts.values_mut().into_iter().zip(seconds) {
            *timeout = seconds;
        }
        timeouts
    })
}

fn any_connections() -> impl Strategy<Value = ConnectionsConfig> {
    let numbers = (any::<u8>(), any::<u32>(), any::<u32>());
    (any_timeouts(), any::<[bool; 9]>(), numbers).prop_map(|(timeouts, switches, numbers)| {
        ConnectionsConfig {
            timeouts,
            sloppy_tcp: switches[0],
            sloppy_sctp: switches[1],
            secure_tcp: switches[2],
            conn_reuse_mode: numbers.0,
            expire_nodest_conn: switches[3],
            expire_quiescent_template: switches[4],
            lblc_expiration_seconds: numbers.1,
            creation_rate_per_worker: numbers.2,
            pmtu_disc: switches[5],
            tunnel_mss_clamp: switches[6],
            schedule_icmp: switches[7],
            nat_icmp_send: switches[8],
        }
    })
}

fn any_address() -> impl Strategy<Value = VirtualAddress> {
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    (protocol, any::<std::net::IpAddr>(), any::<u16>()).prop_map(|(protocol, address, port)| VirtualAddress {
        protocol,
        address,
        port,
    })
}

fn any_real_server() -> impl Strategy<Value = RealServerConfig> {
    let mac = any::<[u8; 6]>().prop_map(|mut bytes| {
        bytes[0] = bytes[0] & 0xfe | 2;
        MacAddress(bytes)
    });
    // TOML has no larger integers.
    let until = prop::option::of(0..=i64::MAX as u64);
    let drain = (until, any::<bool>())
        .prop_map(|(until_unix_seconds, keep_persistent)| Drain { until_unix_seconds, keep_persistent });
    let thresholds = (any::<u32>(), any::<u32>());
    let choices = (prop::option::of(mac), prop::option::of(drain));
    let tunnel = (
        prop::sample::select(TunnelType::ALL.to_vec()),
        prop::option::of(any::<u16>()),
        prop::sample::select(TunnelChecksum::ALL.to_vec()),
    );
    let tunnel = prop::option::of(tunnel.prop_map(|((_, kind), port, (_, checksum))| TunnelConfig {
        kind,
        port,
        checksum,
    }));
    let forwarding = prop::sample::select(Forwarding::ALL.to_vec());
    let client_address = prop::sample::select(ClientAddress::ALL.to_vec());
    let way = (forwarding, tunnel, client_address, prop::option::of(any::<u16>()));
    (any::<std::net::IpAddr>(), any::<u16>(), thresholds, choices, way).prop_map(
        |(address, weight, (upper_threshold, lower_threshold), (mac, drain), way)| {
            let ((_, forwarding), tunnel, (_, client_address), port) = way;
            RealServerConfig {
                address,
                port,
                weight,
                mac,
                forwarding,
                client_address,
                upper_threshold,
                lower_threshold,
                tunnel: tunnel.and_then(TunnelConfig::unless_default),
                drain,
            }
        },
    )
}

fn any_service() -> impl Strategy<Value = ServiceConfig> {
    let group = ("[a-zA-Z0-9][a-zA-Z0-9._-]{0,30}", prop::collection::vec(any_address(), 0..3))
        .prop_map(|(name, members)| (ServiceId::Group(name.parse().unwrap()), members));
    let own = any_address().prop_map(|address| (ServiceId::Virtual(address), Vec::new()));
    let engine = prop::option::of(prop::sample::select(vec![PersistenceEngine::Sip]));
    let netmask = prop_oneof![
        Just(Netmask::Host),
        any::<std::net::Ipv4Addr>().prop_map(Netmask::ipv4),
        any::<u8>().prop_map(Netmask::ipv6),
    ];
    let persistence = (any::<u32>(), netmask, engine)
        .prop_map(|(timeout_seconds, netmask, engine)| Persistence { timeout_seconds, netmask, engine });
    let flags =
        any::<[bool; 3]>().prop_map(|[fallback, port, flag_3]| SchedulerFlags { fallback, port, flag_3 });
    let scheduler = (prop::sample::select(Algorithm::ALL.to_vec()), flags, any::<u32>());
    let family = prop::sample::select(vec![Family::V4, Family::V6]);
    let choices = (prop::option::of(persistence), prop::option::of(any::<u32>()), any::<bool>(), family);
    let real_servers = prop::collection::vec(any_real_server(), 0..4);
    (prop_oneof![own, group], scheduler, choices, any_timeouts(), real_servers).prop_map(
        |(
            (id, members),
            (scheduler, scheduler_flags, slow_start_seconds),
            choices,
            timeouts,
            real_servers,
        )| {
            let (persistence, fwmark, one_packet, family) = choices;
            let mut real_servers: Vec<RealServerConfig> = real_servers;
            for real_server in &mut real_servers {
                real_server.port = real_server.id().within(id).port;
            }
            ServiceConfig {
                id,
                members,
                group_family: if matches!(id, ServiceId::Group(_)) { family } else { Family::V4 },
                fwmark: fwmark.filter(|_| matches!(id, ServiceId::Group(_))),
                scheduler,
                scheduler_flags,
                slow_start_seconds,
                persistence,
                one_packet,
                timeouts,
                real_servers,
            }
        },
    )
}

pub(crate) fn any_config() -> impl Strategy<Value = Config> {
    let connections = prop::option::of(any_connections());
    let nat = prop::option::of(
        prop::collection::vec(any::<std::net::IpAddr>(), 0..3)
            .prop_map(|local_addresses| NatConfig { local_addresses }),
    );
    let ports = prop::collection::vec(any_port(), 0..3);
    let routes = prop::collection::vec(any_route(), 0..3);
    let services = prop::collection::vec(any_service(), 0..4);
    (any_director(), ports, routes, connections, nat, services).prop_map(
        |(director, ports, routes, connections, nat, services)| Config {
            director,
            ports,
            routes,
            connections,
            nat,
            services,
        },
    )
}
