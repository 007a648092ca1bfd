//! What a scenario leaves in the director that runs it, and another one could meet there: VIPs of its own keep them apart but
//! for what comes from real servers, which are everybody's.

use std::collections::BTreeSet;

use super::packet::{Header, Kind, Layer};
use super::scenario::Step;

/// Tuples of translated connections as their answers have them, and real servers' fragments.
pub fn of(steps: &[Step]) -> BTreeSet<String> {
    let translating: Vec<(&str, &str)> = steps.iter().filter_map(translating_real_server).collect();
    let packets =
        steps.iter().filter_map(|step| if let Step::Packet(_, layers) = step { Some(layers) } else { None });
    packets.flat_map(|layers| translated(layers, &translating).into_iter().chain(fragment(layers))).collect()
}

/// Protocol and address of a real server that gets packets by NAT.
fn translating_real_server(step: &Step) -> Option<(&str, &str)> {
    let Step::Ipvsadm(arguments) = step else { return None };
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let &["-a", service, _, "-r", real_server, ref rest @ ..] = &words[..] else { return None };
    let protocol = match service {
        "-t" => "tcp",
        "-u" => "udp",
        _ => "sctp",
    };
    rest.contains(&"-m").then_some((protocol, real_server))
}

/// What the packet may be a part of, with either end as the client.
fn translated(layers: &[Layer], real_servers: &[(&str, &str)]) -> Vec<String> {
    let headers = || layers.iter().filter_map(header);
    let Some((source, destination)) = headers().find_map(|header| header.addresses) else {
        return Vec::new();
    };
    let transport = |header: &&Header| matches!(header.kind, Kind::Tcp | Kind::Udp | Kind::Sctp);
    let Some(transport) = headers().find(transport) else { return Vec::new() };
    let of_protocol = real_servers.iter().filter(|(protocol, _)| *protocol == transport.kind.name());
    let ends = [(source, "sport"), (destination, "dport")];
    let ports = ends.map(|(address, name)| Some((address, transport.fields.get(name)?)));
    of_protocol
        .flat_map(|(protocol, real_server)| {
            let trace = move |(client, port)| format!("{protocol} {real_server} {client} {port}");
            ports.into_iter().flatten().map(trace)
        })
        .collect()
}

fn fragment(layers: &[Layer]) -> Option<String> {
    let ip = layers.iter().find_map(header)?;
    let (slice, ends) = (ip.slice?, ip.addresses?);
    Some(format!("fragment {ends:?} {}", slice.id))
}

fn header(layer: &Layer) -> Option<&Header> {
    if let Layer::Header(header) = layer { Some(header) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::scenario;

    #[test]
    fn translated_tuples_and_fragments_are_traces() {
        let text = "ipvsadm -A -u 192.0.2.10:53 -s rr\nipvsadm -a -u 192.0.2.10:53 -r 10.0.0.11:5353 -m\n\
                    ipvsadm -A -t 192.0.2.10:80 -s rr\nipvsadm -a -t 192.0.2.10:80 -r 10.0.0.12:80\n\
                    from 10.0.0.254: ip 198.51.100.7 > 192.0.2.10 / udp 40000 > 53\n\
                    from 10.0.0.254: ip 198.51.100.7 > 192.0.2.10 / tcp 40000 > 80 SYN\n\
                    from 10.0.0.11: ip 10.0.0.11 > 198.51.100.7 frag=0:8:9 / udp 5353 > 40000 / data=20\n";
        let traces: Vec<String> = of(&scenario::parse(text).unwrap()).into_iter().collect();
        assert_eq!(
            traces,
            [
                "fragment (10.0.0.11, 198.51.100.7) 9",
                "udp 10.0.0.11:5353 10.0.0.11 5353",
                "udp 10.0.0.11:5353 192.0.2.10 53",
                "udp 10.0.0.11:5353 198.51.100.7 40000",
            ]
        );
    }
}
