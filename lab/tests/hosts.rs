//! The test hosts themselves, without dr-director: were they wrong, every other test here would prove nothing.

use anyhow::{Result, ensure};
use lab::topology::{CLIENT, mac_of};
use lab::{Capture, DIP, Lab, VIP, client, wait};

/// Makes the director's host a plain Linux router that has one way to the VIP: the first real server.
fn route_vip_to_first_real_server(lab: &Lab) -> Result<()> {
    lab.director.ip("link set eth0 arp on")?;
    lab.director.add_address("eth0", &format!("{DIP}/24"))?;
    lab.director.set("net/ipv4/ip_forward", "1")?;
    lab.director.set("net/ipv4/conf/all/send_redirects", "0")?;
    lab.director.set("net/ipv4/conf/eth0/send_redirects", "0")?;
    lab.director.ip(&format!("route add {VIP} via {}", lab.real_servers[0].address))?;
    lab.client.ip(&format!("route replace {VIP}/32 via {DIP}")).map(drop)
}

#[test]
fn real_server_answers_from_the_vip_straight_to_the_client() -> Result<()> {
    let lab = Lab::builder().real_servers(2).build()?;
    route_vip_to_first_real_server(&lab)?;
    let capture = lab.capture_director()?;

    let answers = client::get_many(&lab.client, VIP, 80, 20)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs1" && answer.status == 200), "{answers:?}");
    let requests = lab.logged_requests(20)?;
    ensure!(requests[0].len() == 20 && requests[1].is_empty(), "{requests:?}");
    ensure!(requests[0].iter().all(|request| request.client == CLIENT), "{requests:?}");

    let _udp = lab.real_servers[0].start_udp(VIP, 53)?;
    let socket = lab.client.udp_socket(CLIENT, 0)?;
    ensure!(client::ask(&socket, VIP, 53, "who?")? == "rs1");

    lab.wait_until_quiet()?;
    let recording = capture.stop()?;
    // In and out again, at least SYN, ACK with request, and FIN of each connection.
    ensure!(recording.count(&format!("dst host {VIP} and tcp dst port 80"))? >= 20 * 2 * 3);
    ensure!(recording.count(&format!("ip src {VIP}"))? == 0, "{:?}", recording.lines("ip")?);
    ensure!(recording.count("ip and ether src 02:00:0a:00:00:01 and ether dst 02:00:0a:00:00:0b")? >= 20 * 3);
    Ok(())
}

#[test]
fn nobody_answers_arp_for_the_vip_but_a_director() -> Result<()> {
    let lab = Lab::builder().real_servers(2).build()?;
    ensure!(client::arping(&lab.client, VIP, 2)?.is_empty(), "a real server answers ARP for the VIP");
    // The check sees an answer where there is one.
    let rip = lab.real_servers[0].address;
    ensure!(client::arping(&lab.client, rip, 2)?.into_iter().eq([mac_of(rip)]));
    ensure!(client::arping(&lab.client, DIP, 2)?.is_empty(), "the director's kernel answers for the DIP");
    Ok(())
}

#[test]
fn capture_sees_both_directions_and_what_came_before_its_end() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let rip = lab.real_servers[0].address.to_string();
    let capture = Capture::start(&lab.client, "eth0")?;
    for _ in 0..5 {
        lab.client.run(&["ping", "-c", "1", "-W", &wait::HANGS.as_secs().to_string(), "-s", "1472", &rip])?;
    }
    let recording = capture.stop()?;
    ensure!(recording.count("icmp[icmptype] == icmp-echo")? == 5);
    ensure!(recording.count("icmp[icmptype] == icmp-echoreply")? == 5);
    Ok(())
}

#[test]
fn failing_command_tells_its_output_and_status() -> Result<()> {
    let lab = Lab::builder().real_servers(0).build()?;
    let error = lab.client.run(&["sh", "-c", "echo reason >&2; exit 3"]).unwrap_err().to_string();
    ensure!(error.contains("reason") && error.contains('3'), "{error}");
    Ok(())
}
