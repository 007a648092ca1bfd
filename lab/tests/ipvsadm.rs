//! `ipvsadm` under its own name, as an operator uses it, with traffic through the services that it made.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lab::client::{self, Connection, Traffic};
use lab::topology::CLIENT;
use lab::{DirectorProcess, Lab, VIP, director, process, wait};

const SERVICE: &str = "192.0.2.10:80";

const TITLE: &str = "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n";

/// ipvsadm, as a link to `dr-ctl` that finds the daemon by the environment.
struct Ipvsadm {
    link: PathBuf,
    socket: PathBuf,
}

impl Ipvsadm {
    fn link(lab: &Lab, director: &DirectorProcess, name: &str) -> Result<Ipvsadm> {
        let link = lab.network().directory().join(name);
        symlink(director::binary("dr-ctl")?, &link)?;
        Ok(Ipvsadm { link, socket: director.socket().to_owned() })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.link);
        command.env("DR_CONTROL_SOCKET", &self.socket).args(line.split_whitespace());
        command
    }

    /// Runs a command line, which must succeed in silence on the standard error, and returns what it printed. A change is in
    /// force afterwards.
    fn run(&self, line: &str) -> Result<String> {
        let output = process::output(&mut self.command(line))?;
        let error = process::text(&output.stderr);
        ensure!(
            output.status.success() && error.is_empty() || director::was_late(&self.socket, &output)?,
            "ipvsadm {line}: {}\n{error}",
            output.status
        );
        Ok(process::text(&output.stdout))
    }

    /// Runs a command line, which must fail, and returns its exit code and what it printed as error.
    fn refused(&self, line: &str) -> Result<(i32, String)> {
        let output = process::output(&mut self.command(line))?;
        let code = output.status.code().context("it was killed")?;
        ensure!(code != 0, "ipvsadm {line} did not fail");
        Ok((code, process::text(&output.stderr)))
    }

    /// Runs a command line with this text as its standard input. A change is in force afterwards.
    fn fed(&self, line: &str, input: &str) -> Result<Output> {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let mut output = child.wait_with_output()?;
        if director::was_late(&self.socket, &output)? {
            output.status = ExitStatus::default();
        }
        Ok(output)
    }

    /// The listing without its first line, which has the size of the table.
    fn list(&self) -> Result<String> {
        let text = self.run("-Ln")?;
        let (first, rest) = text.split_once('\n').context("an empty listing")?;
        ensure!(first.starts_with("IP Virtual Server version 1.2.1 (size="), "{first}");
        Ok(rest.to_owned())
    }
}

/// A director without services, and ipvsadm.
fn started() -> Result<(Lab, DirectorProcess, Ipvsadm)> {
    let lab = Lab::builder().build()?;
    let director = lab.start_director(&lab.configuration()?)?;
    let ipvsadm = Ipvsadm::link(&lab, &director, "ipvsadm")?;
    Ok((lab, director, ipvsadm))
}

/// The same with a service, rr, over the first real servers.
fn started_with_http(real_servers: usize) -> Result<(Lab, DirectorProcess, Ipvsadm)> {
    let (lab, director, ipvsadm) = started()?;
    ipvsadm.run(&format!("-A -t {SERVICE} -s rr"))?;
    for server in &lab.real_servers[..real_servers] {
        ipvsadm.run(&format!("-a -t {SERVICE} -r {} -g", server.address))?;
    }
    director.wait_until_up(real_servers)?;
    Ok((lab, director, ipvsadm))
}

/// A line of the listing, as printf of the original makes it: the trailing spaces are real.
fn server_line(rip: &str, weight: u32, active: u32, inactive: u32) -> String {
    format!("  -> {:<28} Route   {weight:<6} {active:<10} {inactive:<10}\n", format!("{rip}:80"))
}

/// The words of the one line of a listing that has `text`.
fn words_of(listing: &str, text: &str) -> Result<Vec<String>> {
    let mut lines = listing.lines().filter(|line| line.contains(text));
    let line = lines.next().with_context(|| format!("no {text} in:\n{listing}"))?;
    ensure!(lines.next().is_none(), "{text} is listed twice:\n{listing}");
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn services_and_real_servers_are_added_edited_deleted_and_listed() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(2)?;
    let listing =
        |service: &str, servers: &[String]| format!("{TITLE}TCP  {SERVICE} {service}\n{}", servers.concat());
    let both = [server_line("10.0.0.11", 1, 0, 0), server_line("10.0.0.12", 1, 0, 0)];
    ensure!(ipvsadm.list()? == listing("rr", &both), "{}", ipvsadm.list()?);
    ensure!(ipvsadm.run("-L -n")? == ipvsadm.run("--list --numeric")?);

    // As an edit gives every attribute anew, this one takes the weight back to 1.
    ipvsadm.run(&format!("-e -t {SERVICE} -r 10.0.0.11:80 -w 3 -x 100 -y 50"))?;
    ensure!(words_of(&ipvsadm.list()?, "10.0.0.11")?[3] == "3");
    ensure!(words_of(&ipvsadm.run("-Ln --thresholds")?, "10.0.0.11")?[2..4] == ["100", "50"]);
    ipvsadm.run(&format!("-e -t {SERVICE} -r 10.0.0.11:80"))?;
    ensure!(ipvsadm.list()? == listing("rr", &both));
    ensure!(words_of(&ipvsadm.run("-Ln --thresholds")?, "10.0.0.11")?[2..4] == ["0", "0"]);

    ipvsadm.run(&format!("-E -t {SERVICE} -s sh -b sh-port -p 120 -M 255.255.255.0"))?;
    let flags = "sh (sh-port) persistent 120 mask 255.255.255.0";
    ensure!(ipvsadm.list()? == listing(flags, &both), "{}", ipvsadm.list()?);
    client::get_many(&lab.client, VIP, 80, 4)?;
    let persistent = ipvsadm.run("-Ln --persistent-conn")?;
    let templates =
        ["10.0.0.11", "10.0.0.12"].map(|rip| words_of(&persistent, rip).map(|words| words[3].clone()));
    let mut templates = templates.into_iter().collect::<Result<Vec<_>>>()?;
    templates.sort();
    ensure!(templates == ["0", "1"], "one client is remembered by one of them:\n{persistent}");
    ipvsadm.run(&format!("-E -t {SERVICE}"))?;
    ensure!(words_of(&ipvsadm.list()?, SERVICE)?[2..] == ["wlc"]);

    ipvsadm.run(&format!("-d -t {SERVICE} -r 10.0.0.11"))?;
    ensure!(!ipvsadm.list()?.contains("10.0.0.11"));
    ipvsadm.run("-A -u 192.0.2.10:53 -o")?;
    ensure!(words_of(&ipvsadm.list()?, "UDP")?[2..] == ["wlc", "ops"]);
    ipvsadm.run(&format!("-D -t {SERVICE}"))?;
    ensure!(!ipvsadm.list()?.contains("TCP"));
    ipvsadm.run("-C")?;
    ensure!(ipvsadm.list()? == TITLE);
    ensure!(director.show()?.services.is_empty());
    director.finish()
}

#[test]
fn misuse_has_ipvsadms_texts_and_codes_and_changes_nothing() -> Result<()> {
    let (_lab, director, ipvsadm) = started_with_http(1)?;
    let before = ipvsadm.list()?;
    for (line, code, text) in [
        ("-A -t 192.0.2.10:80", 255, "Service already exists"),
        ("-E -t 192.0.2.10:81", 255, "No such service"),
        ("-D -t 192.0.2.10:81", 255, "No such service"),
        ("-a -t 192.0.2.10:80 -r 10.0.0.11", 255, "Destination already exists"),
        ("-a -t 192.0.2.10:81 -r 10.0.0.11", 255, "Service not defined"),
        ("-e -t 192.0.2.10:80 -r 10.0.0.12", 255, "No such destination"),
        ("-d -t 192.0.2.10:80 -r 10.0.0.12", 255, "No such destination"),
        ("-A -t 192.0.2.10:81 -s warp", 255, "Scheduler or persistence engine not found"),
        ("-A -t 192.0.2.10:0", 2, "Zero port specified for non-persistent service"),
        ("-a -t 192.0.2.10:80 -r 10.9.0.1", 255, "is in no directly connected network"),
        ("-a -t 192.0.2.10:80 -r 10.0.0.12 -w 70000", 2, "illegal weight specified"),
        ("-a -t 192.0.2.10:80 -r 10.0.0.12 -y 5", 255, ""),
        ("-A -t 192.0.2.300:80", 2, "illegal virtual server address[:port] specified"),
        ("-A -t 192.0.2.10:81 -o", 2, "One-Packet Scheduling is only for UDP virtual services"),
        ("-A -L", 2, "invalid option `-L'"),
        ("-a -t 192.0.2.10:80", 2, "You need to supply the 'real-server' option"),
        ("-L -t 192.0.2.99:80", 1, "No such service"),
        ("--frobnicate", 255, ""),
    ] {
        let (was, said) = ipvsadm.refused(line)?;
        ensure!(
            was == code && said.to_lowercase().contains(&text.to_lowercase()),
            "ipvsadm {line}: {was} {said}"
        );
        ensure!(ipvsadm.list()? == before, "ipvsadm {line} changed something");
    }
    director.finish()
}

#[test]
fn traffic_is_counted_listed_and_zeroed() -> Result<()> {
    const REQUESTS: u32 = 12;
    let (lab, director, ipvsadm) = started_with_http(2)?;
    client::get_many(&lab.client, VIP, 80, REQUESTS)?;
    lab.barrier(&director)?;
    let stats = ipvsadm.run("-Ln --stats --exact")?;
    let counted = director.stats()?.services[0].totals;
    let service = words_of(&stats, SERVICE)?;
    let numbers =
        [counted.connections, counted.packets, 0, counted.bytes, 0].map(|number| number.to_string());
    ensure!(counted.connections == u64::from(REQUESTS), "{counted:?}");
    // SYN, ACK, the request, at least one FIN or ACK of the end.
    ensure!(counted.packets >= u64::from(REQUESTS) * 4, "{counted:?}");
    ensure!(service[2..] == numbers, "{stats}{counted:?}");
    for rip in ["10.0.0.11", "10.0.0.12"] {
        ensure!(words_of(&stats, rip)?[2] == (REQUESTS / 2).to_string(), "{stats}");
    }
    // The estimator's first look comes within two seconds.
    wait::until("a rate", || {
        client::get_many(&lab.client, VIP, 80, 2)?;
        Ok((words_of(&ipvsadm.run("-Ln --rate")?, SERVICE)?[3] != "0").then_some(()))
    })?;
    lab.barrier(&director)?;
    ipvsadm.run(&format!("-Z -t {SERVICE}"))?;
    ensure!(words_of(&ipvsadm.run("-Ln --stats")?, SERVICE)?[2..] == ["0"; 5]);
    client::get_many(&lab.client, VIP, 80, 2)?;
    ensure!(words_of(&ipvsadm.run("-Ln --stats")?, SERVICE)?[2] == "2");
    lab.barrier(&director)?;
    ipvsadm.run("-Z")?;
    ensure!(words_of(&ipvsadm.run("-Ln --stats")?, SERVICE)?[2..] == ["0"; 5]);
    director.finish()
}

#[test]
fn connection_is_listed_with_its_client_state_and_expiry() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(2)?;
    let mut connection = Connection::open(&lab.client, VIP, 80)?;
    let home = format!("{}:80", lab.rip(&connection.get("/")?)?);
    let source = format!("{CLIENT}:{}", connection.client_port()?);
    let listing = ipvsadm.run("-Lcn")?;
    let titles = "IPVS connection entries\n\
                  pro expire state       source             virtual            destination\n";
    ensure!(listing.starts_with(titles), "{listing}");
    let words = words_of(&listing, &source)?;
    ensure!(words[0] == "TCP" && words[2..] == ["ESTABLISHED", &source, SERVICE, &home], "{listing}");
    ensure!(words[1] == "15:00" || words[1].starts_with("14:"), "{listing}");
    let rip = home.trim_end_matches(":80");
    ensure!(words_of(&ipvsadm.list()?, rip)?[4..] == ["1", "0"], "{}", ipvsadm.list()?);

    drop(connection);
    wait::until("FIN_WAIT in the listing", || {
        let words = words_of(&ipvsadm.run("-Lcn")?, &source)?;
        Ok((words[2] == "FIN_WAIT" && (words[1].starts_with("01:") || words[1] == "02:00")).then_some(()))
    })?;
    ensure!(words_of(&ipvsadm.list()?, rip)?[4..] == ["0", "1"], "{}", ipvsadm.list()?);
    director.finish()
}

#[test]
fn set_is_seen_in_timeout_and_holds_for_connections() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(1)?;
    ensure!(ipvsadm.run("-L --timeout")? == "Timeout (tcp tcpfin udp): 900 120 300\n");
    ipvsadm.run("--set 1000 1 0")?;
    ensure!(
        ipvsadm.run("-L --timeout")? == "Timeout (tcp tcpfin udp): 1000 1 300\n",
        "0 is to change nothing"
    );
    client::get_many(&lab.client, VIP, 80, 3)?;
    wait::until("FIN_WAIT to be over after a second", || {
        Ok((director.status()?.connections == 0).then_some(()))
    })?;
    let mut connection = Connection::open(&lab.client, VIP, 80)?;
    connection.get("/")?;
    let words = words_of(&ipvsadm.run("-Lcn")?, "ESTABLISHED")?;
    ensure!(words[1].starts_with("16:"), "{words:?}");
    ensure!(ipvsadm.refused("--set 1 2 9999999")?.0 == 2);
    director.finish()
}

#[test]
fn thresholds_hold_over_real_connections() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(2)?;
    ipvsadm.run("--set 0 1 0")?;
    ipvsadm.run(&format!("-e -t {SERVICE} -r 10.0.0.11 -x 4 -y 2"))?;
    let mut connections = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..12 {
        let mut connection = Connection::open(&lab.client, VIP, 80)?;
        servers.push(connection.get("/")?);
        connections.push(connection);
    }
    let shares = client::shares(servers.iter().map(String::as_str));
    ensure!(shares.values().eq(&[4, 8]), "with a threshold of 4: {shares:?}");
    ensure!(words_of(&ipvsadm.run("-Ln --thresholds")?, "10.0.0.11")?[2..] == ["4", "2", "4", "0"]);

    // Below the lower one it gets new ones again, and at the lower one it does not yet.
    let close = |connections: &mut Vec<Connection>, servers: &mut Vec<String>, count: usize| {
        for _ in 0..count {
            let place = servers.iter().position(|server| server == "rs1").context("none is left")?;
            servers.remove(place);
            drop(connections.remove(place));
        }
        anyhow::Ok(())
    };
    let left = |count: &str| {
        wait::until(&format!("{count} connections of rs1 to be left"), || {
            let words = words_of(&ipvsadm.run("-Ln --thresholds")?, "10.0.0.11")?;
            Ok((words[4] == count && words[5] == "0").then_some(()))
        })
    };
    close(&mut connections, &mut servers, 2)?;
    left("2")?;
    let answers = client::get_many(&lab.client, VIP, 80, 4)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs2"), "{answers:?}");
    close(&mut connections, &mut servers, 1)?;
    left("1")?;
    let answers = client::get_many(&lab.client, VIP, 80, 4)?;
    ensure!(answers.iter().any(|answer| answer.server == "rs1"), "{answers:?}");
    director.finish()
}

#[test]
fn save_clear_restore_gives_the_same_table() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(3)?;
    ipvsadm.run(&format!("-e -t {SERVICE} -r 10.0.0.12 -w 4 -x 10 -y 5"))?;
    ipvsadm.run("-A -u 192.0.2.10:53 -s mh -b mh-port -o")?;
    ipvsadm.run("-a -u 192.0.2.10:53 -r 10.0.0.13 -w 7")?;
    ipvsadm.run("-A -f 7 -s wrr -p 300 -M 255.255.0.0")?;
    ipvsadm.run("-a -f 7 -r 10.0.0.11")?;
    director.ctl(&["add-member", "fwmark-7", "tcp:192.0.2.10:81"])?;
    let (saved, listed) = (ipvsadm.run("-Sn")?, ipvsadm.list()?);
    let config = director.ctl(&["save"])?;
    ensure!(saved.contains(&format!("-A -t {SERVICE} -s rr\n")), "{saved}");
    ensure!(saved.contains("-r 10.0.0.12:80 -g -w 4 -x 10 -y 5"), "{saved}");
    ipvsadm.run("-C")?;
    ensure!(ipvsadm.list()? == TITLE);
    let output = ipvsadm.fed("-R", &saved)?;
    ensure!(output.status.success(), "{output:?}\n{saved}");
    ensure!(ipvsadm.list()? == listed, "{listed}{}", ipvsadm.list()?);
    ensure!(ipvsadm.run("-Sn")? == saved);
    ensure!(director.ctl(&["save"])? == config);
    director.wait_until_up(5)?;
    client::get_many(&lab.client, VIP, 80, 6)?;
    director.finish()
}

#[test]
fn restore_under_traffic_fails_no_request_and_moves_no_connection() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(3)?;
    let save = Ipvsadm::link(&lab, &director, "ipvsadm-save")?;
    let restore = Ipvsadm::link(&lab, &director, "ipvsadm-restore")?;
    let mut kept = Connection::open(&lab.client, VIP, 80)?;
    let home = kept.get("/")?;
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    for round in 0..8 {
        let saved = save.run("-n")?;
        let output = if round % 2 == 0 {
            restore.fed("", &saved)?
        } else {
            ipvsadm.fed("-R", &format!("-C\n{saved}"))?
        };
        ensure!(output.status.success(), "{output:?}");
        traffic.wait_for_more(20)?;
        ensure!(kept.get("/")? == home, "round {round} moved a connection");
    }
    // As a script would: another table each time, the last one as the first.
    let saved = save.run("-n")?;
    for scheduler in ["wrr", "lc", "sh", "rr"] {
        let output = restore.fed("", &saved.replace("-s rr", &format!("-s {scheduler}")))?;
        ensure!(output.status.success(), "{output:?}");
        traffic.wait_for_more(20)?;
    }
    ensure!(save.run("-n")? == saved);
    ensure!(kept.get("/")? == home);
    traffic.stop()?;
    let drops = director.stats()?.totals.drops;
    for reason in ["no_service", "no_real_server", "real_server_removed", "no_connection"] {
        ensure!(drops[reason] == 0, "{reason}: {drops:?}");
    }
    director.finish()
}

#[test]
fn restore_with_a_bad_line_changes_nothing_and_names_the_line() -> Result<()> {
    let (lab, director, ipvsadm) = started_with_http(2)?;
    let restore = Ipvsadm::link(&lab, &director, "ipvsadm-restore")?;
    let before = ipvsadm.run("-Sn")?;
    let file = |third: &str| {
        format!(
            "-A -t 192.0.2.10:81 -s rr\n-a -t 192.0.2.10:81 -r 10.0.0.11:81 -g -w 1\n{third}\n-A -t 192.0.2.10:82 -s rr\n"
        )
    };
    for (third, text) in [
        ("-a -t 192.0.2.10:81 -r 10.0.0.11:81 -g -w 1", "Destination already exists"),
        ("-a -t 192.0.2.99:81 -r 10.0.0.12:81 -g -w 1", "Service not defined"),
        ("-a -t 192.0.2.10:81 -r 10.9.0.12:81 -g -w 1", "no directly connected network"),
        ("-A -t 192.0.2.10:83 -s warp", "Scheduler or persistence engine not found"),
        ("-A -t 192.0.2.10:83 -s", ""),
        ("--frobnicate", ""),
        ("nonsense", ""),
    ] {
        for (tool, line) in [(&ipvsadm, "-R"), (&restore, "")] {
            let output = tool.fed(line, &file(third))?;
            let said = process::text(&output.stderr);
            ensure!(!output.status.success(), "`{third}` was taken");
            ensure!(said.contains("line 3:") && said.contains(text), "`{third}`: {said}");
            ensure!(ipvsadm.run("-Sn")? == before, "`{third}` changed something:\n{}", ipvsadm.run("-Sn")?);
        }
    }
    client::get_many(&lab.client, VIP, 80, 4)?;
    director.finish()
}

#[test]
fn without_a_daemon_it_says_so_as_without_a_module() -> Result<()> {
    let (lab, director, ipvsadm) = started()?;
    director.finish()?;
    let (code, said) = ipvsadm.refused("-Ln")?;
    ensure!(code == 2 && said.starts_with("Can't initialize ipvs: "), "{code} {said}");
    let link = Ipvsadm { link: ipvsadm.link, socket: lab.network().directory().join("none") };
    ensure!(link.refused("-C")?.0 == 2);
    ensure!(link.run("--version")?.starts_with("ipvsadm "), "{}", link.run("--version")?);
    Ok(())
}
