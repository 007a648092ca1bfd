//! UDP through a VIP by direct routing, with a real server program on every real server.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use ctl::config::Protocol;
use lab::topology::{CLIENT, mac_of};
use lab::{DIP, Lab, VIP, client};
use scheduler::Algorithm;

const DATAGRAMS: usize = 600;
const WEIGHTS: [u16; 3] = [1, 2, 3];
const SHARES: [usize; 3] = [100, 200, 300];

#[test]
fn weights_1_2_3_of_600_datagrams_give_100_200_300() -> Result<()> {
    let lab = Lab::builder().build()?;
    let servers: Vec<_> =
        lab.real_servers.iter().map(|server| server.start_udp(VIP, 53)).collect::<Result<_>>()?;
    let config = lab.configuration_with(Protocol::Udp, 53, Algorithm::Wrr, &WEIGHTS)?;
    let director = lab.start_director(&config)?;
    let capture = lab.capture_director()?;

    // All of them open at once: 600 ports.
    let sockets: Vec<UdpSocket> =
        (0..DATAGRAMS).map(|_| lab.client.udp_socket(CLIENT, 0)).collect::<Result<_>>()?;
    let mut answers = Vec::new();
    for (number, socket) in sockets.iter().enumerate() {
        answers.push(client::ask(socket, VIP, 53, &format!("question {number}"))?);
    }
    for (server, (udp, share)) in lab.real_servers.iter().zip(servers.iter().zip(SHARES)) {
        let seen = udp.clients();
        ensure!(seen.len() == share, "{} was asked {} times, not {share}", server.name(), seen.len());
        ensure!(seen.iter().all(|client| client.ip() == CLIENT), "{seen:?}");
        ensure!(answers.iter().filter(|answer| *answer == server.name()).count() == share);
    }

    // The same client port is the same connection: it stays where it is.
    for (socket, first) in sockets.iter().zip(&answers).take(12) {
        ensure!(client::ask(socket, VIP, 53, "again")? == *first);
    }

    lab.barrier(&director)?;
    let recording = capture.stop()?;
    let director_mac = mac_of(DIP);
    let sent =
        recording.count(&format!("dst host {VIP} and udp dst port 53 and ether src {director_mac}"))?;
    ensure!(sent == DATAGRAMS as u64 + 12, "{sent} datagrams left the director");
    ensure!(recording.count(&format!("ip src {VIP} and udp"))? == 0, "a reply passed the director");

    ensure!(director.assert_conservation()?.forwarded == sent);
    ensure!(director.stats()?.services[0].totals.connections == DATAGRAMS as u64);
    director.finish()
}

#[test]
fn tcp_and_udp_on_one_port_are_two_services() -> Result<()> {
    let lab = Lab::builder().real_servers(2).build()?;
    let udp: Vec<_> =
        lab.real_servers.iter().map(|server| server.start_udp(VIP, 80)).collect::<Result<_>>()?;
    let mut config = lab.configuration_with(Protocol::Udp, 80, Algorithm::Rr, &[1, 0])?;
    config.services.push(lab.service(Protocol::Tcp, 80, Algorithm::Rr, &[0, 1]));
    let director = lab.start_director(&config)?;
    let socket = lab.client.udp_socket(CLIENT, 0)?;
    for _ in 0..4 {
        ensure!(client::ask(&socket, VIP, 80, "who?")? == "rs1");
    }
    let answers = client::get_many(&lab.client, VIP, 80, 4)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs2"), "{answers:?}");
    drop(udp);
    director.finish()
}
