//! Tests of the tables: every line as people see it.

use ctl::protocol::*;

use super::*;

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

#[test]
fn show_looks_as_ipvsadm_does() {
    let real_server = |last: u8, weight, state, mac, active, inactive| RealServerView {
        address: Ipv4Addr::new(10, 0, 0, last),
        weight,
        state,
        mac,
        port: "lan0".to_owned(),
        active_connections: active,
        inactive_connections: inactive,
    };
    let answer = Show {
        services: vec![
            ServiceView {
                protocol: ctl::config::Protocol::Tcp,
                address: Ipv4Addr::new(192, 0, 2, 10),
                port: 80,
                scheduler: scheduler::Algorithm::Wrr,
                real_servers: vec![
                    real_server(11, 1, RealServerState::Up, Some(mac(0x0b)), 12, 3),
                    real_server(112, 65535, RealServerState::Unresolved, None, 0, 1_000_000),
                ],
            },
            ServiceView {
                protocol: ctl::config::Protocol::Udp,
                address: Ipv4Addr::new(192, 0, 2, 10),
                port: 53,
                scheduler: scheduler::Algorithm::Wlc,
                real_servers: vec![],
            },
        ],
    };
    let expected = "\
Protocol VIP:Port Scheduler
  -> RealServer:Port  Forward  Weight  State       MAC                Port  ActiveConn  InActConn
tcp 192.0.2.10:80 wrr
  -> 10.0.0.11:80     Route         1  up          02:00:00:00:00:0b  lan0          12          3
  -> 10.0.0.112:80    Route     65535  unresolved  -                  lan0           0    1000000
udp 192.0.2.10:53 wlc
";
    assert_eq!(show(&answer), expected);
}

fn some_stats() -> Stats {
    let counters =
        |connections| TrafficCounters { connections, packets: connections * 10, bytes: connections * 1000 };
    let packets = PacketTotals {
        received: 100,
        forwarded: 90,
        punted: 4,
        drops: [("no_service".to_owned(), 6), ("truncated".to_owned(), 0)].into(),
    };
    Stats {
        services: vec![ServiceStats {
            protocol: ctl::config::Protocol::Tcp,
            address: Ipv4Addr::new(192, 0, 2, 10),
            port: 80,
            totals: counters(9),
            real_servers: vec![RealServerStats {
                address: Ipv4Addr::new(10, 0, 0, 11),
                counters: counters(7),
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
Protocol VIP:Port -> RealServer  Connections  Packets  Bytes
tcp 192.0.2.10:80                          9       90   9000
  -> 10.0.0.11                             7       70   7000

Worker  CPU  Received  Forwarded  Punted  Dropped  ControlSent  Connections  Capacity  Generation
     0    3       100         90       4        6            5            2   1048576           7

Port  Link  RxPackets  RxBytes  TxPackets  TxBytes  RxMissed  RxErrors  RxNoMbuf  TxErrors
lan0  up          100     6400         95     6080         0         0         0         0

All workers   Packets
received          100
forwarded          90
punted              4
dropped             6
  no_service        6
";
    assert_eq!(stats(&some_stats(), false), expected);
    assert_eq!(stats(&some_stats(), true), expected.split_once("\n\n").unwrap().0.to_owned() + "\n");
}

#[test]
fn connections_look_as_in_ipvsadm_and_say_how_many_there_are() {
    let answer = Connections {
        matching: 5000,
        connections: vec![ConnectionView {
            protocol: ctl::config::Protocol::Tcp,
            state: "ESTABLISHED".to_owned(),
            expires_seconds: 899,
            client_address: Ipv4Addr::new(198, 51, 100, 7),
            client_port: 40000,
            virtual_address: Ipv4Addr::new(192, 0, 2, 10),
            virtual_port: 80,
            real_server: Ipv4Addr::new(10, 0, 0, 11),
            worker: 1,
        }],
    };
    let expected = "\
Protocol  Expire  State        Source              Virtual        Destination   Worker
tcp        14:59  ESTABLISHED  198.51.100.7:40000  192.0.2.10:80  10.0.0.11:80       1
1 of 5000 connections shown
";
    assert_eq!(connections(&answer), expected);
}

#[test]
fn neighbours_show_when_they_last_spoke() {
    let neighbour = |last, state, mac, confirmed_seconds_ago, unanswered_requests| NeighbourView {
        address: Ipv4Addr::new(10, 0, 0, last),
        port: "lan0".to_owned(),
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
RealServer  Port  State       MAC                Confirmed  Unanswered
10.0.0.11   lan0  reachable   02:00:00:00:00:0b  1m05s ago           0
10.0.0.12   lan0  unresolved  -                          -          17
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
        memory: "512 MiB, no hugepages".to_owned(),
        warnings: vec![],
        ports: vec![PortView {
            name: "lan0".to_owned(),
            device: "net_af_packet0,iface=eth1".to_owned(),
            mac: mac(1),
            addresses: vec!["10.0.0.1/24".parse().unwrap()],
            mtu: 1500,
            link_is_up: false,
        }],
    };
    let facts = "\
Version           0.1.0, DPDK 22.11.7
Process           4711, up 1d01h
Configuration     generation 7
Virtual services  2
Real servers      6, 5 of them up
Connections       1234
Memory            512 MiB, no hugepages

Port  Link  MAC                 MTU  Addresses    Device
lan0  down  02:00:00:00:00:01  1500  10.0.0.1/24  net_af_packet0,iface=eth1
";
    assert_eq!(status(&answer), format!("dr-director is well\n{facts}"));
    answer.warnings = vec!["port lan0 has no link".to_owned()];
    let warned = format!("dr-director runs, with a warning:\n  - port lan0 has no link\n{facts}");
    assert_eq!(status(&answer), warned);
}

#[test]
fn durations_are_as_long_as_they_need_to_be() {
    for (seconds, text) in
        [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86400, "1d00h")]
    {
        assert_eq!(duration(seconds), text);
    }
}
