//! Tests of the tables: every line as people see it.

use ctl::config::{Drain, NatConfig, RouteConfig, TunnelChecksum, TunnelConfig, TunnelType};
use ctl::protocol::*;

use super::*;

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn config(text: &str) -> ctl::config::ServiceConfig {
    ctl::config::Config::from_toml(&format!("[[services]]\n{text}"), "test").unwrap().services.remove(0)
}

#[test]
fn show_looks_as_ipvsadm_does() {
    let real_server = |last: u8, weight, state, mac, active, inactive| RealServerView {
        address: [10, 0, 0, last].into(),
        port: None,
        forwarding: Forwarding::Dr,
        tunnel: None,
        client_address: ClientAddress::None,
        weight,
        state,
        mac,
        interface: "lan0".to_owned(),
        gateway: None,
        active_connections: active,
        inactive_connections: inactive,
        persistent_connections: 0,
        upper_threshold: 0,
        lower_threshold: 0,
        drain: None,
        drain_seconds_left: None,
    };
    let full = RealServerView {
        upper_threshold: 1000,
        persistent_connections: 5,
        drain: Some(Drain { until_unix_seconds: Some(4_102_444_800), keep_persistent: false }),
        drain_seconds_left: Some(243),
        ..real_server(13, 0, RealServerState::Draining, None, 999, 1)
    };
    let other = RealServerView { upper_threshold: 10, lower_threshold: 2, ..full.clone() };
    let silent = RealServerView { state: RealServerState::Unresolved, ..full.clone() };
    let silent_for_good =
        RealServerView { drain: Some(Drain::default()), drain_seconds_left: None, ..silent.clone() };
    let answer = Show {
        services: vec![
            ServiceView {
                service: config("protocol='tcp'\naddress='192.0.2.10'\nport=80\nscheduler='wrr'\n"),
                real_servers: vec![
                    real_server(11, 1, RealServerState::Up, Some(mac(0x0b)), 12, 3),
                    real_server(112, 65535, RealServerState::Unresolved, None, 0, 1_000_000),
                ],
            },
            ServiceView {
                service: config(
                    "protocol='udp'\naddress='192.0.2.10'\nport=53\nscheduler_flags=['flag-1','flag-3']\none_packet=true\n\
                     slow_start_seconds=60\npersistence={netmask='255.255.255.0',engine='sip'}\n\
                     timeouts={udp=30,tcp_close=1}\n",
                ),
                real_servers: vec![],
            },
            ServiceView {
                service: config(
                    "group='web'\nfwmark=7\npersistence={timeout_seconds=60}\n\
                     members=[{protocol='tcp',address='192.0.2.11',port=80},{protocol='tcp',address='192.0.2.11',port=0}]\n",
                ),
                real_servers: vec![full, other, silent, silent_for_good],
            },
        ],
    };
    let expected = "\
Protocol VIP:Port Scheduler Flags
  -> RealServer:Port  Forward  Weight  State                             MAC                Interface  Thresholds  PersistConn  ActiveConn  InActConn
tcp 192.0.2.10:80 wrr
  -> 10.0.0.11:80     Route         1  up                                02:00:00:00:00:0b  lan0       -                     0          12          3
  -> 10.0.0.112:80    Route     65535  unresolved                        -                  lan0       -                     0           0    1000000
udp 192.0.2.10:53 wlc (flag-1,flag-3) persistent 360 mask 255.255.255.0 pe sip ops slow-start 1m00s timeout tcp_close=1,udp=30
group web fwmark 7 wlc persistent 60
  member tcp 192.0.2.11:80
  member tcp 192.0.2.11:0
  -> 10.0.0.13        Route         0  draining, 4m03s left              -                  lan0       1000/750              5         999          1
  -> 10.0.0.13        Route         0  draining, 4m03s left              -                  lan0       10/2                  5         999          1
  -> 10.0.0.13        Route         0  unresolved, draining, 4m03s left  -                  lan0       1000/750              5         999          1
  -> 10.0.0.13        Route         0  unresolved, draining              -                  lan0       1000/750              5         999          1
";
    assert_eq!(show(&answer), expected);
}

#[test]
fn every_forwarding_method_and_family_is_shown() {
    let real_server = |address: &str, forwarding| RealServerView {
        address: address.parse().unwrap(),
        port: None,
        forwarding,
        tunnel: None,
        client_address: ClientAddress::None,
        weight: 1,
        state: RealServerState::Up,
        mac: None,
        interface: "lan0.100".to_owned(),
        gateway: None,
        active_connections: 0,
        inactive_connections: 0,
        persistent_connections: 0,
        upper_threshold: 0,
        lower_threshold: 0,
        drain: None,
        drain_seconds_left: None,
    };
    let gue = TunnelConfig { kind: TunnelType::Gue, port: Some(6080), checksum: TunnelChecksum::Csum };
    let answer = Show {
        services: vec![ServiceView {
            service: config(
                "protocol='tcp'\naddress='2001:db8::10'\nport=80\npersistence={prefix_length=64}\n",
            ),
            real_servers: vec![
                real_server("2001:db8:1::11", Forwarding::Dr),
                RealServerView { port: Some(8080), ..real_server("2001:db8:1::11", Forwarding::Nat) },
                RealServerView {
                    client_address: ClientAddress::ProxyV2,
                    ..real_server("2001:db8:1::12", Forwarding::FullNat)
                },
                RealServerView {
                    gateway: Some([10, 1, 0, 254].into()),
                    tunnel: Some(TunnelConfig::default()),
                    ..real_server("10.9.0.13", Forwarding::Tunnel)
                },
                RealServerView { tunnel: Some(gue), ..real_server("10.1.0.14", Forwarding::Tunnel) },
            ],
        }],
    };
    let expected = "\
Protocol VIP:Port Scheduler Flags
  -> RealServer:Port       Forward             Weight  State  MAC  Interface                Thresholds  PersistConn  ActiveConn  InActConn
tcp [2001:db8::10]:80 wlc persistent 360 mask 64
  -> [2001:db8:1::11]:80    Route                    1  up     -    lan0.100                 -                     0           0          0
  -> [2001:db8:1::11]:8080  Masq                     1  up     -    lan0.100                 -                     0           0          0
  -> [2001:db8:1::12]:80    FullNAT proxy-v2         1  up     -    lan0.100                 -                     0           0          0
  -> 10.9.0.13:80           Tunnel ipip              1  up     -    lan0.100 via 10.1.0.254  -                     0           0          0
  -> 10.1.0.14:80           Tunnel gue:6080:+c       1  up     -    lan0.100                 -                     0           0          0
";
    let squeezed = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    assert_eq!(squeezed(&show(&answer)), squeezed(expected), "{}", show(&answer));
}

fn some_stats() -> Stats {
    let counters = |connections| TrafficCounters {
        connections,
        packets: connections * 10,
        bytes: connections * 1000,
        reply_packets: connections * 8,
        reply_bytes: connections * 9000,
    };
    let rates = |connections_per_second| TrafficRates {
        connections_per_second,
        packets_per_second: connections_per_second * 10,
        bytes_per_second: connections_per_second * 1000,
        reply_packets_per_second: connections_per_second * 8,
        reply_bytes_per_second: connections_per_second * 9000,
    };
    let packets = PacketTotals {
        received: 100,
        forwarded: 90,
        punted: 4,
        drops: [("no_service".to_owned(), 6), ("truncated".to_owned(), 0)].into(),
        to_host: 3,
        handed_over: 2,
        taken_over: 5,
        ..PacketTotals::default()
    };
    Stats {
        services: vec![ServiceStats {
            service: ServiceId::new(ctl::config::Protocol::Tcp, [192, 0, 2, 10], 80),
            totals: counters(9),
            rates: rates(4),
            real_servers: vec![RealServerStats {
                address: [10, 0, 0, 11].into(),
                port: Some(8080),
                counters: counters(7),
                rates: rates(3),
            }],
        }],
        totals: packets.clone(),
        workers: vec![WorkerStats {
            worker: 0,
            cpu: 3,
            packets,
            control_frames_sent: 5,
            connections: 2,
            connection_capacity: 1_048_576,
            stateless: [("creation_rate".to_owned(), 2), ("table_full".to_owned(), 0)].into(),
            generation: 7,
        }],
        ports: vec![PortStats {
            port: "lan0".to_owned(),
            link_is_up: true,
            rx_packets: 100,
            rx_bytes: 6400,
            tx_packets: 95,
            tx_bytes: 6080,
            rx_missed: 0,
            rx_errors: 0,
            rx_no_mbuf: 0,
            tx_errors: 0,
        }],
    }
}

#[test]
fn stats_show_services_workers_ports_and_the_drops_that_happened() {
    let expected = "\
Protocol VIP:Port -> RealServer  Connections  Packets  Bytes  ReplyPackets  ReplyBytes  Conn/s  Packets/s  Bytes/s  ReplyPackets/s  ReplyBytes/s
tcp 192.0.2.10:80                          9       90   9000            72       81000       4         40     4000              32         36000
  -> 10.0.0.11:8080                        7       70   7000            56       63000       3         30     3000              24         27000

Worker  CPU  Received  Forwarded  Stateless  Punted  ToHost  HandedOver  Dropped  ControlSent  Connections  Capacity  Generation
     0    3       100         90          2       4       3           2        6            5            2   1048576           7

Port  Link  RxPackets  RxBytes  TxPackets  TxBytes  RxMissed  RxErrors  RxNoMbuf  TxErrors
lan0  up          100     6400         95     6080         0         0         0         0

All workers               Packets
received                      100
forwarded                      90
of them without state           2
  creation_rate                 2
punted                          4
to the host                     3
handed to other workers         2
taken from other workers        5
dropped                         6
  no_service                    6
";
    assert_eq!(stats(&some_stats(), false), expected);
    assert_eq!(stats(&some_stats(), true), expected.split_once("\n\n").unwrap().0.to_owned() + "\n");
}

fn some_connection() -> ConnectionView {
    ConnectionView {
        protocol: Some(ctl::config::Protocol::Tcp),
        is_template: false,
        engine_data: None,
        group: None,
        state: "ESTABLISHED".to_owned(),
        expires_seconds: 899,
        client_address: [198, 51, 100, 7].into(),
        client_port: 40000,
        virtual_address: [192, 0, 2, 10].into(),
        virtual_port: 80,
        real_server: [10, 0, 0, 11].into(),
        real_server_port: 80,
        forwarding: Forwarding::Dr,
        local: None,
        worker: Some(1),
    }
}

#[test]
fn connections_look_as_in_ipvsadm_and_say_how_many_there_are() {
    let answer = Connections { matching: 5000, connections: vec![some_connection()] };
    let expected = "\
Protocol  Expire  State        Source              Virtual        Destination   Worker
tcp        14:59  ESTABLISHED  198.51.100.7:40000  192.0.2.10:80  10.0.0.11:80       1
";
    let query = ConnectionsQuery::default();
    let footer = "1 of 5000 connections shown\n";
    assert_eq!(connections(&answer, &query, false), format!("{expected}{footer}"));
    let page = ConnectionsQuery { offset: 100, ..query.clone() };
    let footer = "1 of 5000 connections shown, after the first 100\n";
    assert_eq!(connections(&answer, &page, false), format!("{expected}{footer}"));
    assert_eq!(connections(&answer, &query, true), "5000\n");
}

#[test]
fn what_full_nat_and_nat_made_of_a_connection_is_shown() {
    let local = Some("[2001:db8:1::200]:1025".parse().unwrap());
    let full_nat = ConnectionView {
        client_address: "2001:db8:7::7".parse().unwrap(),
        virtual_address: "2001:db8::10".parse().unwrap(),
        real_server: "2001:db8:1::11".parse().unwrap(),
        real_server_port: 8080,
        forwarding: Forwarding::FullNat,
        local,
        ..some_connection()
    };
    let nat = ConnectionView { real_server_port: 8080, forwarding: Forwarding::Nat, ..some_connection() };
    let answer = Connections { matching: 2, connections: vec![full_nat, nat] };
    let expected = "\
Protocol  Expire  State        Source                 Virtual            Destination            Worker  Local
tcp        14:59  ESTABLISHED  [2001:db8:7::7]:40000  [2001:db8::10]:80  [2001:db8:1::11]:8080       1  [2001:db8:1::200]:1025
tcp        14:59  ESTABLISHED  198.51.100.7:40000     192.0.2.10:80      10.0.0.11:8080              1  -
2 of 2 connections shown
";
    assert_eq!(connections(&answer, &ConnectionsQuery::default(), false), expected);
}

#[test]
fn templates_have_no_worker_and_may_be_of_a_group_or_a_call() {
    let template = ConnectionView {
        is_template: true,
        client_port: 0,
        worker: None,
        state: "ASSURED".to_owned(),
        ..some_connection()
    };
    let of_group = ConnectionView {
        protocol: None,
        group: Some("web".parse().unwrap()),
        virtual_address: [0, 0, 0, 7].into(),
        virtual_port: 0,
        real_server_port: 0,
        ..template.clone()
    };
    let of_call = ConnectionView { engine_data: Some("a@b".to_owned()), ..template.clone() };
    let query = ConnectionsQuery { kind: EntryKind::Templates, ..ConnectionsQuery::default() };
    let answer = Connections { matching: 2, connections: vec![of_group, of_call] };
    let expected = "\
Protocol  Expire  State    Source          Virtual        Destination   Worker  EngineData
ip         14:59  ASSURED  198.51.100.7:0  group web      10.0.0.11:0        -  -
tcp        14:59  ASSURED  198.51.100.7:0  192.0.2.10:80  10.0.0.11:80       -  a@b
2 of 2 persistence templates shown
";
    assert_eq!(connections(&answer, &query, false), expected);
}

#[test]
fn neighbours_show_when_they_last_spoke() {
    let neighbour = |last, state, mac, confirmed_seconds_ago, unanswered_requests| NeighbourView {
        address: [10, 0, 0, last].into(),
        interface: "lan0".to_owned(),
        state,
        mac,
        confirmed_seconds_ago,
        unanswered_requests,
    };
    let answer = Neighbours {
        neighbours: vec![
            neighbour(11, NeighbourState::Reachable, Some(mac(0x0b)), Some(65), 0),
            neighbour(12, NeighbourState::Unresolved, None, None, 17),
        ],
    };
    let expected = "\
Address    Interface  State       MAC                Confirmed  Unanswered
10.0.0.11  lan0       reachable   02:00:00:00:00:0b  1m05s ago           0
10.0.0.12  lan0       unresolved  -                          -          17
";
    assert_eq!(neighbours(&answer), expected);
}

#[test]
fn status_begins_with_the_verdict() {
    let mut answer = Status {
        version: "0.1.0".to_owned(),
        dpdk: "22.11.7".to_owned(),
        pid: 4711,
        uptime_seconds: 90061,
        generation: 7,
        services: 2,
        real_servers: 6,
        real_servers_up: 5,
        connections: 1234,
        connection_buckets: 1 << 17,
        templates: 5,
        template_capacity: 262_144,
        buffers: 8191,
        buffers_in_use: 12,
        connection_options: ConnectionsConfig { timeouts: Timeouts::IPVS, ..ConnectionsConfig::default() },
        memory: "512 MiB, no hugepages".to_owned(),
        warnings: vec![],
        ports: vec![PortView {
            name: "lan0".to_owned(),
            device: "net_af_packet0,iface=eth1".to_owned(),
            mac: mac(1),
            addresses: vec!["10.0.0.1/24".parse().unwrap()],
            mtu: 1500,
            link_is_up: false,
            host_interface: Some("dr-lan0".to_owned()),
            vlans: vec![VlanView {
                id: 100,
                addresses: vec!["10.1.0.1/24".parse().unwrap(), "2001:db8:1::1/64".parse().unwrap()],
                mtu: 1400,
                host_interface: None,
            }],
        }],
        nat: NatConfig { local_addresses: vec![[10, 0, 0, 200].into(), [10, 0, 0, 201].into()] },
        has_ipv6: true,
        routes: vec![RouteConfig {
            network: "0.0.0.0/0".parse().unwrap(),
            gateway: [10, 0, 0, 254].into(),
            interface: None,
        }],
    };
    let facts = "\
Version           0.1.0, DPDK 22.11.7
Process           4711, up 1d01h
Configuration     generation 7
Virtual services  2
Real servers      6, 5 of them up
Connections       1234
Templates         5 of 262144
Packet buffers    12 of 8191
Options           defaults
Timeouts          tcp_established 900, tcp_fin_wait 120, udp 300
IPv6              on
Local addresses   10.0.0.200,10.0.0.201
Memory            512 MiB, no hugepages

Port      Link  MAC                 MTU  Addresses                     Host     Device
lan0      down  02:00:00:00:00:01  1500  10.0.0.1/24                   dr-lan0  net_af_packet0,iface=eth1
lan0.100  down  02:00:00:00:00:01  1400  10.1.0.1/24,2001:db8:1::1/64  -        -

Route      Gateway     Interface
0.0.0.0/0  10.0.0.254  -
";
    assert_eq!(status(&answer), format!("dr-director is well\n{facts}"));
    answer.warnings = vec!["port lan0 has no link".to_owned()];
    let warned = format!("dr-director runs, with a warning:\n  - port lan0 has no link\n{facts}");
    assert_eq!(status(&answer), warned);
}

#[test]
fn options_that_are_not_the_defaults_are_told() {
    let mut options = ConnectionsConfig {
        timeouts: Timeouts { udp: Some(30), sctp_init: Some(7), ..Timeouts::IPVS },
        sloppy_tcp: true,
        conn_reuse_mode: 0,
        ..ConnectionsConfig::default()
    };
    assert_eq!(describe_options(&options), "sloppy_tcp true, conn_reuse_mode 0");
    let timeouts = "tcp_established 900, tcp_fin_wait 120, udp 30, sctp_init 7";
    assert_eq!(describe_timeouts(&options.timeouts), timeouts);
    options.timeouts = Timeouts { udp: Some(30), sctp_init: Some(7), ..Timeouts::default() };
    assert_eq!(describe_timeouts(&options.timeouts), timeouts, "an absent one is IPVS's");
}

#[test]
fn durations_are_as_long_as_they_need_to_be() {
    for (seconds, text) in
        [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86400, "1d00h")]
    {
        assert_eq!(duration(seconds), text);
    }
}
