//! Hostile clients of the control socket: each is answered with an error or closed, and nobody else notices.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ctl::config::Protocol;
use ctl::protocol::REQUEST_BYTES_MAX;
use lab::client::Traffic;
use lab::wait::HANGS;
use lab::{DirectorProcess, Lab, VIP};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use scheduler::Algorithm;

/// How long dr-ctl may take after others misbehaved.
const OTHERS_LIMIT: Duration = Duration::from_secs(2);

/// Attempts to be answered in time, or while a client misbehaves, whom the daemon closes after 5 or 10 s: a busy machine may
/// use that up, and what goes wrong by itself does so each time.
const ATTEMPTS: usize = 5;

const IDLE_CLIENTS: usize = 1000;

/// Runs `attack` while traffic and dr-ctl go on, and looks whether the daemon is well afterwards.
fn withstands(attack: impl Fn(&DirectorProcess) -> Result<()>) -> Result<()> {
    let lab = Lab::builder().real_servers(2).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1, 1])?;
    let director = lab.start_director(&config)?;
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    let memory = director.resident_kib()?;
    let mut times = Vec::new();
    while times.iter().all(|&time| time >= OTHERS_LIMIT) {
        ensure!(times.len() < ATTEMPTS, "another client waited {times:?}");
        attack(&director)?;
        let start = Instant::now();
        goes_on(&director)?;
        times.push(start.elapsed());
    }
    let grown = director.resident_kib()?.saturating_sub(memory);
    ensure!(grown < 64 << 10, "the daemon has grown by {grown} KiB");
    traffic.wait_for_more(20)?;
    traffic.stop()?;
    director.finish()
}

/// Another client is answered, and a change made.
fn goes_on(director: &DirectorProcess) -> Result<()> {
    director.status()?;
    director.ctl(&["set-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--weight", "2"])?;
    director.ctl(&["set-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--weight", "1"])?;
    Ok(())
}

/// Another client does not wait for the end of one that misbehaves, which is returned: it is still there afterwards.
fn goes_on_beside(
    director: &DirectorProcess,
    misbehave: impl Fn() -> Result<UnixStream>,
) -> Result<UnixStream> {
    for _ in 0..ATTEMPTS {
        let stream = misbehave()?;
        goes_on(director)?;
        if is_open(&stream)? {
            return Ok(stream);
        }
    }
    bail!("others were answered after the one that misbehaves was closed")
}

/// Whether the daemon has not closed a connection. Space between a request's words changes nothing.
fn is_open(mut stream: &UnixStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let written = stream.write(b" ");
    stream.set_nonblocking(false)?;
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(false),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
        _ => Ok(true),
    }
}

fn connect(director: &DirectorProcess) -> Result<UnixStream> {
    let stream = UnixStream::connect(director.socket())?;
    stream.set_read_timeout(Some(HANGS))?;
    stream.set_write_timeout(Some(HANGS))?;
    Ok(stream)
}

/// All that comes until the daemon closes. A close with unread input looks like a reset.
fn read_to_close(stream: &mut UnixStream) -> Result<String> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Err(error).context("neither an answer nor a close")
        }
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[test]
fn socket_is_for_owner_and_group_only() -> Result<()> {
    withstands(|director| {
        let metadata = fs::metadata(director.socket())?;
        ensure!(metadata.file_type().is_socket());
        ensure!(metadata.permissions().mode() & 0o7777 == 0o660, "{:o}", metadata.permissions().mode());
        Ok(())
    })
}

#[test]
fn malformed_requests_are_answered_with_their_error() -> Result<()> {
    withstands(|director| {
        let deep = format!(r#"{{"version":1,"verb":"apply","arguments":{}"#, "[".repeat(200_000));
        for (line, code, name) in [
            ("", "bad_request", ""),
            ("hello", "bad_request", ""),
            ("null", "bad_request", ""),
            ("[]", "bad_request", ""),
            (r#"{"version":1}"#, "bad_request", "verb"),
            (r#"{"verb":"status"}"#, "wrong_version", "version"),
            (r#"{"version":2,"verb":"status"}"#, "wrong_version", "2"),
            (r#"{"version":"1","verb":"status"}"#, "wrong_version", "1"),
            (r#"{"version":1,"verb":"frobnicate"}"#, "bad_request", "frobnicate"),
            (r#"{"version":1,"verb":7}"#, "bad_request", "verb"),
            (r#"{"version":1,"verb":"add-rs"}"#, "bad_request", "service"),
            (r#"{"version":1,"verb":"show","arguments":[1]}"#, "bad_request", "arguments"),
            (
                r#"{"version":1,"verb":"set-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10",
                "port":"eighty"},"real_server":"10.0.0.11"}}"#,
                "bad_request",
                "port",
            ),
            (
                r#"{"version":1,"verb":"set-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10",
                "port":80},"real_server":"10.0.0.11","weight":70000}}"#,
                "invalid",
                "65535",
            ),
            (&deep, "bad_request", ""),
        ] {
            let line = line.replace('\n', " ");
            let shown: String = line.chars().take(100).collect();
            let answer = director.request(&line).with_context(|| format!("asked {shown}"))?;
            let error = &answer["error"];
            ensure!(error["code"] == code, "asked {shown}, answered {answer}");
            ensure!(
                error["message"].as_str().is_some_and(|message| message.contains(name)),
                "{shown}: {answer}"
            );
            ensure!(answer["version"] == 1, "{answer}");
        }
        let mut stream = connect(director)?;
        stream.write_all(b"\xff\xfe\x00{\"version\":1}\n")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        ensure!(read_to_close(&mut stream)?.contains("bad_request"));
        Ok(())
    })
}

#[test]
fn half_a_request_holds_nobody_up_and_is_closed() -> Result<()> {
    withstands(|director| {
        let mut gone = connect(director)?;
        gone.write_all(br#"{"version":1,"verb":"del-vip","arguments":{"service":{"protocol":"tcp","#)?;
        drop(gone);
        let mut ended = connect(director)?;
        ended.write_all(br#"{"version":1,"verb":"status"}"#)?;
        ended.shutdown(std::net::Shutdown::Write)?;
        read_to_close(&mut ended)?;
        let mut waiting = goes_on_beside(director, || {
            let mut waiting = connect(director)?;
            waiting.write_all(br#"{"version":1,"#)?;
            Ok(waiting)
        })?;
        read_to_close(&mut waiting)?;
        ensure!(director.show()?.services.len() == 1);
        Ok(())
    })
}

#[test]
fn more_than_the_longest_request_without_a_newline_is_refused() -> Result<()> {
    withstands(|director| {
        let mut stream = connect(director)?;
        let chunk = [b'x'; 64 << 10];
        for _ in 0..=REQUEST_BYTES_MAX / chunk.len() {
            // The daemon may close before all of it is sent.
            match stream.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    break;
                }
                Err(error) => return Err(error).context("a flood was neither taken nor refused"),
            }
        }
        let answer = read_to_close(&mut stream)?;
        ensure!(answer.is_empty() || answer.contains("bad_request"), "{answer}");
        Ok(())
    })
}

#[test]
fn thousand_idle_clients_leave_room_for_others() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most)?;
    withstands(|director| {
        let clients = (0..IDLE_CLIENTS).map(|_| connect(director)).collect::<Result<Vec<_>>>()?;
        for _ in 0..5 {
            goes_on(director)?;
        }
        // Those that were idle longest made room.
        ensure!(is_open(clients.last().context("no client")?)?, "all of them were closed");
        Ok(())
    })
}

#[test]
fn client_that_never_reads_is_closed_and_costs_no_memory() -> Result<()> {
    withstands(|director| {
        let requests = r#"{"version":1,"verb":"stats"}"#.to_owned() + "\n";
        let requests = requests.repeat(1000);
        let mut stream = goes_on_beside(director, || {
            let mut stream = connect(director)?;
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            // Until the daemon takes no more.
            let start = Instant::now();
            while stream.write_all(requests.as_bytes()).is_ok() {
                ensure!(start.elapsed() < HANGS, "the daemon takes everything");
            }
            Ok(stream)
        })?;
        let start = Instant::now();
        loop {
            match stream.write(b"\n") {
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    break;
                }
                _ => ensure!(start.elapsed() < HANGS, "it is not closed"),
            }
        }
        Ok(())
    })
}

#[test]
fn clients_may_come_and_go_in_numbers() -> Result<()> {
    withstands(|director| {
        for _ in 0..2000 {
            drop(connect(director)?);
        }
        ensure!(Path::new(&format!("/proc/{}", director.id())).exists());
        Ok(())
    })
}
