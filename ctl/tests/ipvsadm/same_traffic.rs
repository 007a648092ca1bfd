//! Counters, rates and connections: rows read back from what the kernel's ipvsadm printed, printed again.

use std::net::IpAddr;

use ctl::ipvsadm::command::{Family, Forwarding, Netmask};
use ctl::ipvsadm::format::{self, Columns, Style};
use ctl::ipvsadm::resolve::NoNames;
use ctl::ipvsadm::rows::{ConnectionRow, Counters, Label, RealServerRow, ServiceRow};

use crate::captures::captures;
use crate::memory::FixedNames;

fn protocol(name: &str) -> Option<ctl::config::Protocol> {
    use ctl::config::Protocol;
    match name {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn place(text: &str) -> (IpAddr, u16) {
    let (address, port) = text.rsplit_once(':').unwrap();
    let port = match port {
        "http" => 80,
        "domain" => 53,
        "syslog" => 514,
        "sip" => 5060,
        port => port.parse().unwrap(),
    };
    (address.parse().unwrap(), port)
}

fn counters(words: &[&str]) -> Counters {
    let numbers: Vec<u64> = words.iter().map(|word| word.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn counters_and_rates_of_traffic_are_printed_as_ipvsadm_printed_them() {
    for capture in captures() {
        let columns = match capture.name.as_str() {
            "list-traffic-stats" | "list-traffic-stats-exact" => Columns::Stats,
            "list-traffic-rate" => Columns::Rate,
            _ => continue,
        };
        let style = Style { columns, is_numeric: true, is_exact: capture.name.ends_with("exact") };
        let mut lines = capture.printed.stdout.lines();
        let mut text = lines.by_ref().take(3).map(|line| format!("{line}\n")).collect::<String>();
        assert_eq!(text, format::header(4096) + &format::title(columns), "{}", capture.name);
        let mut rows: Vec<ServiceRow> = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let counters = counters(&words[2..]);
            if words[0] != "->" {
                let label = match protocol(words[0]) {
                    Some(protocol) => {
                        let (address, port) = place(words[1]);
                        Label::Virtual { protocol, address, port }
                    }
                    None => Label::Fwmark { mark: words[1].parse().unwrap(), family: Family::V4 },
                };
                rows.push(service(label, counters));
                continue;
            }
            let (address, port) = place(words[1]);
            rows.last_mut().unwrap().real_servers.push(real_server(address, port, counters));
        }
        text.extend(rows.iter().map(|row| format::service(row, style, &NoNames)));
        assert_eq!(text, capture.printed.stdout, "{}", capture.name);
    }
}

fn service(label: Label, counters: Counters) -> ServiceRow {
    ServiceRow {
        label,
        scheduler: "rr".to_owned(),
        flags: Default::default(),
        persistence: None,
        netmask: Netmask::whole(Family::V4),
        engine: None,
        one_packet: false,
        counters,
        rates: counters,
        real_servers: vec![],
    }
}

fn real_server(address: IpAddr, port: u16, counters: Counters) -> RealServerRow {
    RealServerRow {
        address,
        port,
        forwarding: Forwarding::DirectRouting,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        active: 0,
        inactive: 0,
        persistent: 0,
        counters,
        rates: counters,
    }
}

#[test]
fn connections_are_printed_as_ipvsadm_printed_them() {
    for capture in captures() {
        let is_listing = capture.name.starts_with("list-traffic-Lc") || capture.name == "list-empty-Lcn";
        // ipvsadm reads a line into 256 bytes and takes what is left for another connection.
        if !is_listing || capture.name.contains("long-pe-data") {
            continue;
        }
        let rows: Vec<ConnectionRow> = capture.printed.stdout.lines().skip(2).map(connection).collect();
        let has_engine = capture.name.ends_with("persistent-conn");
        let is_numeric = !capture.name.ends_with("names");
        let ours = format::connections(&rows, has_engine, is_numeric, &FixedNames);
        assert_eq!(ours, capture.printed.stdout, "{}", capture.name);
    }
}

fn connection(line: &str) -> ConnectionRow {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (minutes, seconds) = words[1].split_once(':').unwrap();
    ConnectionRow {
        protocol: protocol(words[0]),
        expires: minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap(),
        state: words[2].to_owned(),
        source: place(words[3]),
        destination: place(words[4]),
        real_server: place(words[5]),
        engine: words.get(6).map(|name| (name.to_string(), words[7].to_owned())),
    }
}

#[test]
fn numbers_from_a_hundred_million_on_are_cut_to_units_unless_they_are_exact() {
    let label = Label::Fwmark { mark: 7, family: Family::V4 };
    let counters = [99_999_999, 100_000_000, 1_000_000_000, 100_000_000_000, 123_456_789_012_345];
    let row = service(label, counters);
    for (is_exact, numbers) in [
        (false, " 99999999  100000K    1000M     100G     123T"),
        (true, " 99999999 100000000 1000000000 100000000000 123456789012345"),
    ] {
        let style = Style { columns: Columns::Stats, is_numeric: true, is_exact };
        assert_eq!(format::service(&row, style, &NoNames), format!("{:<33}{numbers}\n", "FWM  7"));
    }
}

#[test]
fn ipv4_names_are_cut_where_ipvsadm_cuts_them_and_ipv6_ones_are_not() {
    let label = |address: &str| Label::Virtual {
        protocol: ctl::config::Protocol::Tcp,
        address: address.parse().unwrap(),
        port: 65_535,
    };
    let style = Style { columns: Columns::Default, is_numeric: false, is_exact: false };
    struct Long;
    impl ctl::ipvsadm::resolve::Names for Long {
        fn address_of(&self, _: &str) -> Option<std::net::Ipv4Addr> {
            None
        }
        fn port_of(&self, _: &str, _: ctl::config::Protocol) -> Option<u16> {
            None
        }
        fn host_of(&self, _: IpAddr) -> Option<String> {
            Some("a-name-of-more-than-thirty-three-letters.example.org".to_owned())
        }
        fn service_of(&self, _: u16, _: ctl::config::Protocol) -> Option<String> {
            None
        }
    }
    let mut row = service(label("192.0.2.10"), [0; 5]);
    row.real_servers.push(real_server("10.0.0.11".parse().unwrap(), 65_535, [0; 5]));
    let text = format::service(&row, style, &Long);
    assert_eq!(
        text,
        "TCP  a-name-of-more-than-thirty-t rr\n  -> a-name-of-more-than-thirty-t Route   1      0          0         \n"
    );
    let text = format::service(&service(label("2001:db8::1"), [0; 5]), style, &Long);
    // Only the buffer of 60 cuts these.
    assert_eq!(text, "TCP  [a-name-of-more-than-thirty-three-letters.example.org]:6553 rr\n");
}
