//! Configurations of tunnels, NAT, VLANs, IPv6 and routes that are wrong: each is refused by `dr-director --check`, `dr-ctl
//! check` and a start alike, with file and line, place, reason and help; and by a director that runs, which stays as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{DirectorProcess, Family, Method, Network, Site, client, director, process, wait};

/// Both tools' exit code for a configuration that is refused.
const REFUSED: i32 = 5;

/// A good configuration with all that is new: each case replaces a piece of it.
const GOOD: &str = r#"
[[ports]]
name = "lan"
device = "net_af_packet0,iface=eth0"
addresses = ["10.0.0.1/24", "2001:db8::1/64"]
mtu = 1500
[[ports.vlans]]
id = 100
addresses = ["10.1.0.1/24", "2001:db8:1::1/64"]
mtu = 1400
[[routes]]
network = "10.9.0.0/16"
gateway = "10.1.0.254"
[[routes]]
network = "2001:db8:9::/48"
gateway = "2001:db8:1::254"
[nat]
local_addresses = ["10.0.0.200", "2001:db8::200"]
[[services]]
protocol = "tcp"
address = "192.0.2.10"
port = 80
[[services.real_servers]]
address = "10.9.0.11"
forwarding = "tunnel"
tunnel = { type = "gue", port = 6080 }
[[services.real_servers]]
address = "10.0.0.12"
port = 8080
forwarding = "nat"
[[services.real_servers]]
address = "10.1.0.13"
forwarding = "fullnat"
client_address = "proxy-v2"
[[services]]
protocol = "tcp"
address = "2001:db8:ffff::10"
port = 80
persistence = { prefix_length = 64 }
[[services.real_servers]]
address = "2001:db8:9::11"
forwarding = "nat"
"#;

/// What is wrong, what it is put for, and words of the refusal: where, what, why.
const CASES: &[(&str, &str, &[&str])] = &[
    // Tunnels.
    (
        "address = \"10.8.0.11\"",
        "address = \"10.9.0.11\"",
        &["services[0].real_servers[0].address", "10.8.0.11", "no directly connected network", "10.1.0.0/24"],
    ),
    (
        "tunnel = { type = \"gue\" }",
        "tunnel = { type = \"gue\", port = 6080 }",
        &["tunnel.port", "gue needs one"],
    ),
    (
        "tunnel = { type = \"ipip\", checksum = \"csum\" }",
        "tunnel = { type = \"gue\", port = 6080 }",
        &["tunnel.checksum", "ipip has no checksum"],
    ),
    ("tunnel = { type = \"vxlan\" }", "tunnel = { type = \"gue\", port = 6080 }", &["vxlan", "ipip"]),
    (
        "forwarding = \"dr\"\ntunnel",
        "forwarding = \"tunnel\"\ntunnel",
        &["services[0].real_servers[0]", "dr"],
    ),
    // NAT and full NAT.
    (
        "forwarding = \"dr\"\n[[services.real_servers]]\naddress = \"10.1.0.13\"",
        "forwarding = \"nat\"\n[[services.real_servers]]\naddress = \"10.1.0.13\"",
        &["services[0].real_servers[1].port", "8080", "keeps the client's port"],
    ),
    (
        "address = \"2001:db8::12\"",
        "address = \"10.0.0.12\"",
        &["services[0].real_servers[1].address", "IPv6", "IPv4"],
    ),
    (
        "forwarding = \"nat\"\nclient_address",
        "forwarding = \"fullnat\"\nclient_address",
        &["services[0].real_servers[2].client_address", "full NAT"],
    ),
    ("client_address = \"header\"", "client_address = \"proxy-v2\"", &["header", "proxy-v2"]),
    (
        "[\"2001:db8::200\"]",
        "[\"10.0.0.200\", \"2001:db8::200\"]",
        &["services[0].real_servers[2].forwarding", "IPv4 address in nat.local_addresses"],
    ),
    ("\"10.0.0.1\"", "\"10.0.0.200\"", &["nat.local_addresses[0]", "10.0.0.1", "DIP"]),
    ("\"192.0.2.10\", \"2001", "\"10.0.0.200\", \"2001", &["nat.local_addresses[0]", "192.0.2.10", "VIP"]),
    (
        "\"10.0.0.12\", \"2001",
        "\"10.0.0.200\", \"2001",
        &["nat.local_addresses[0]", "10.0.0.12", "real server"],
    ),
    (
        "\"10.9.0.200\"",
        "\"10.0.0.200\"",
        &["nat.local_addresses[0]", "10.9.0.200", "no directly connected network"],
    ),
    (
        "address = \"10.0.0.12\"\nport = 8080\nforwarding = \"nat\"\n[[services.real_servers]]\naddress = \"10.0.0.12\"\nport = 8080\nforwarding = \"nat\"\n",
        "address = \"10.0.0.12\"\nport = 8080\nforwarding = \"nat\"\n",
        &["services[0].real_servers[2].address", "10.0.0.12:8080", "already"],
    ),
    // Routes.
    (
        "network = \"10.9.0.0/16\"\ngateway = \"10.0.0.254\"\n[[routes]]\nnetwork = \"10.9.0.0/16\"",
        "network = \"10.9.0.0/16\"",
        &["routes[1].network", "10.9.0.0/16", "routes[0] already"],
    ),
    ("network = \"10.0.0.0/24\"", "network = \"10.9.0.0/16\"", &["routes[0].network", "directly connected"]),
    (
        "network = \"10.9.0.1/16\"",
        "network = \"10.9.0.0/16\"",
        &["routes[0].network", "not a network", "10.9.0.0/16"],
    ),
    (
        "gateway = \"10.7.0.254\"",
        "gateway = \"10.1.0.254\"",
        &["routes[0].gateway", "10.7.0.254", "no directly connected network"],
    ),
    ("gateway = \"10.1.0.1\"", "gateway = \"10.1.0.254\"", &["routes[0].gateway", "10.1.0.1", "DIP"]),
    (
        "gateway = \"2001:db8:1::254\"\n[[routes]]\nnetwork = \"2001:db8:8::/48\"",
        "gateway = \"10.1.0.254\"\n[[routes]]\nnetwork = \"2001:db8:9::/48\"",
        &["routes[0].gateway", "IPv6", "IPv4"],
    ),
    (
        "gateway = \"fe80::254\"",
        "gateway = \"2001:db8:1::254\"",
        &["routes[1].gateway", "link-local", "interface"],
    ),
    (
        "gateway = \"fe80::254\"\ninterface = \"lan.101\"",
        "gateway = \"2001:db8:1::254\"",
        &["routes[1].interface", "lan.101", "lan.100"],
    ),
    // VLANs.
    (
        "addresses = []",
        "addresses = [\"10.1.0.1/24\", \"2001:db8:1::1/64\"]",
        &["ports[0].vlans[0].addresses", "VLAN 100", "no address"],
    ),
    ("id = 0", "id = 100", &["ports[0].vlans[0].id", "0 is under 1"]),
    ("id = 4095", "id = 100", &["ports[0].vlans[0].id", "4095", "4094"]),
    (
        "[[ports.vlans]]\nid = 100\naddresses = [\"10.3.0.1/24\"]\n[[routes]]\nnetwork = \"10.9",
        "[[routes]]\nnetwork = \"10.9",
        &["ports[0].vlans[1].id", "100", "ports[0].vlans[0]"],
    ),
    ("[\"10.0.0.129/25\", ", "[\"10.1.0.1/24\", ", &["ports[0].vlans[0].addresses[0]", "overlaps"]),
    ("mtu = 9001", "mtu = 1400", &["ports[0].vlans[0].mtu", "9001"]),
    // IPv6.
    ("mtu = 1279", "mtu = 1400", &["ports[0].vlans[0].mtu", "1279", "1280", "IPv6"]),
    ("mtu = 1000", "mtu = 1500", &["ports[0]", "1000", "1280"]),
    (
        "address = \"::ffff:192.0.2.10\"",
        "address = \"2001:db8:ffff::10\"",
        &["services[1].address", "IPv4-mapped"],
    ),
    ("address = \"ff02::10\"", "address = \"2001:db8:ffff::10\"", &["services[1].address", "multicast"]),
    ("address = \"fe80::10\"", "address = \"2001:db8:ffff::10\"", &["services[1].address", "link-local"]),
    ("prefix_length = 129", "prefix_length = 64", &["services[1].persistence.prefix_length", "129", "128"]),
    ("netmask = \"255.255.255.0\"", "prefix_length = 64", &["services[1].persistence", "netmask"]),
    // Host interfaces.
    (
        "host_interface = \"a-name-that-is-too-long\"\nname = \"lan\"",
        "name = \"lan\"",
        &["ports[0].host_interface", "a-name-that-is-too-long"],
    ),
    ("qinq = \"perhaps\"\nname = \"lan\"", "name = \"lan\"", &["perhaps", "drop", "pass"]),
];

fn refusal(mut command: Command) -> Result<String> {
    let output = process::output(&mut command)?;
    let (said, code) = (process::text(&output.stderr), output.status.code());
    ensure!(code == Some(REFUSED), "{command:?} ended with {code:?}: {said}");
    Ok(said)
}

/// A command line that checks a file.
fn checks(file: &Path) -> Result<[Command; 2]> {
    let mut daemon = Command::new(director::binary("dr-director")?);
    daemon.arg("--config").arg(file).arg("--check");
    let mut tool = Command::new(director::binary("dr-ctl")?);
    tool.arg("check").arg(file);
    Ok([daemon, tool])
}

#[test]
fn each_wrong_configuration_is_refused_with_place_reason_and_help() -> Result<()> {
    let network = Network::new()?;
    let file = network.directory().join("bad.toml");
    fs::write(&file, GOOD)?;
    for mut command in checks(&file)? {
        process::run(&mut command).context("what is good")?;
    }
    let mut wrong = Vec::new();
    for (bad, good, words) in CASES {
        ensure!(GOOD.matches(good).count() == 1, "not one piece of the good one: {good}");
        fs::write(&file, GOOD.replace(good, bad))?;
        for command in checks(&file)? {
            let program = format!("{command:?}");
            match refusal(command) {
                // The file with line and column, and what to do.
                Ok(said) => {
                    let words = words.iter().chain(&["bad.toml:", "help:"]);
                    let missing: Vec<_> = words.filter(|word| !said.contains(**word)).collect();
                    if !missing.is_empty() {
                        wrong.push(format!("{program}: `{bad}` is refused without {missing:?}:\n{said}"));
                    }
                }
                Err(error) => wrong.push(format!("`{bad}`: {error}")),
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * CASES.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn daemon_does_not_start_with_a_wrong_configuration_and_says_why() -> Result<()> {
    let network = Network::new()?;
    let host = network.add_host("director")?;
    let text =
        director::text(&host, 1)? + &GOOD.replace("network = \"10.9.0.0/16\"", "network = \"10.10.0.0/16\"");
    let error = DirectorProcess::start_with_text(&host, &text).err().context("it started")?.to_string();
    for word in [
        "director.toml:",
        "services[0].real_servers[0].address",
        "10.9.0.11",
        "no directly connected network",
    ] {
        ensure!(error.contains(word), "it says nothing of {word}: {error}");
    }
    Ok(())
}

/// Each: what is asked of a director that runs, and what the refusal must name.
const CHANGES: &[(&[&str], &[&str])] = &[
    (
        &["add-rs", "tcp", "192.0.2.10:80", "10.8.0.11", "--forwarding", "tunnel"],
        &["10.8.0.11", "no directly connected network", "help:"],
    ),
    (&["add-rs", "tcp", "192.0.2.10:80", "10.1.0.12:81"], &["81", "keeps the client's port", "help:"]),
    (&["add-rs", "tcp", "192.0.2.10:80", "2001:db8:1::12"], &["2001:db8:1::12", "IPv6", "help:"]),
    (
        &["add-rs", "tcp", "192.0.2.10:80", "10.1.0.12", "--forwarding", "fullnat"],
        &["nat.local_addresses", "help:"],
    ),
    (
        &["add-rs", "tcp", "192.0.2.10:80", "10.1.0.12", "--forwarding", "tunnel", "--tunnel-type", "gue"],
        &["port", "gue", "help:"],
    ),
    (
        &["add-rs", "tcp", "192.0.2.10:80", "10.1.0.12", "--forwarding", "nat", "--client-address", "toa"],
        &["full NAT", "help:"],
    ),
    (&["add-lip", "10.2.0.200"], &["10.2.0.200", "no directly connected network", "help:"]),
    (&["add-lip", "10.0.0.1"], &["10.0.0.1", "DIP", "help:"]),
    (&["add-lip", "192.0.2.10"], &["192.0.2.10", "VIP", "help:"]),
    (&["del-lip", "10.0.0.200"], &["10.0.0.200", "no local address"]),
    (&["add-vip", "tcp", "[fe80::10]:80"], &["fe80::10", "link-local"]),
    (&["add-vip", "tcp", "[2001:db8:1::1]:80"], &["2001:db8:1::1", "DIP"]),
];

#[test]
fn director_that_runs_refuses_wrong_changes_and_stays_as_it_is() -> Result<()> {
    let site = Site::build(Method::Nat, 1, 1)?;
    // Without a default route some addresses are nowhere.
    let default_route =
        format!("[[routes]]\nnetwork = \"0.0.0.0/0\"\ngateway = \"{}\"\n", Family::V4.router());
    let text = site.configuration()?;
    ensure!(text.contains(&default_route), "{text}");
    let text =
        text.replace(&default_route, "") + &site.service(Family::V4, "tcp", 80, &[Family::V4.rip(1)], "");
    let director = site.start_director(&text, 1)?;
    let saved = director.ctl(&["save"])?;
    for (arguments, words) in CHANGES {
        let (_, message) = director.ctl_refused(arguments)?;
        for word in *words {
            ensure!(message.contains(word), "{arguments:?} is refused without {word}: {message}");
        }
    }
    // Ports and routes are read at the start alone.
    let file = site.network().directory().join("routes.toml");
    fs::write(&file, saved.replace("network = \"10.2.0.0/24\"", "network = \"10.3.0.0/24\""))?;
    let (_, message) = director.ctl_refused(&["apply", file.to_str().context("not UTF-8")?])?;
    ensure!(message.contains("routes"), "{message}");
    ensure!(director.ctl(&["save"])? == saved, "a refused change changed something");
    client::get_many(&site.client, Family::V4.vip(), 80, 10)?;
    site.wait_until_quiet()?;
    director.finish()
}

#[test]
fn gateway_that_never_answers_is_told_and_clients_are_refused() -> Result<()> {
    let site = Site::build(Method::Nat, 0, 1)?;
    site.gateway.ip("link set back down")?;
    let mut text = site.configuration()?;
    for family in Family::ALL {
        text += &site.service(family, "tcp", 80, &[family.far_rip()], "");
    }
    let director = site.start_director(&text, 0)?;
    for family in Family::ALL {
        let gateway = family.gateway().to_string();
        wait::until("the alarm", || {
            let warnings = director.status()?.warnings;
            let is_told =
                warnings.iter().any(|text| text.contains("never answered") && text.contains(&gateway));
            Ok(is_told.then_some(()))
        })?;
        let dropped = || Ok::<_, anyhow::Error>(director.stats()?.totals.drops["no_real_server"]);
        let before = dropped()?;
        let vip = family.vip();
        let url = if vip.is_ipv4() { format!("http://{vip}/") } else { format!("http://[{vip}]/") };
        let refused = site.client.output(&["curl", "--silent", "--max-time", "20", &url])?;
        // Curl's 7: it could not connect, as it was told by an ICMP error.
        ensure!(refused.status.code() == Some(7), "{refused:?}");
        ensure!(dropped()? > before, "{:?}", director.stats()?.totals);
    }
    // It answers at last.
    site.gateway.ip("link set back up")?;
    for family in Family::ALL {
        site.gateway
            .add_address(
                "back",
                &format!("{}/{}", family.gateway(), if family == Family::V4 { 24 } else { 64 }),
            )
            .or_else(|error| {
                // IPv4 addresses stay with an interface that is down.
                if family == Family::V4 { Ok(()) } else { Err(error) }
            })?;
    }
    director.wait_until_up(2)?;
    director.finish()
}
