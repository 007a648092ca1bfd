//! What a client does: HTTP requests with curl and on connections that last, UDP requests, ARP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::host::Host;
use crate::process;
use crate::wait::{self, HANGS};

/// One answer that curl got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The body: name of the real server.
    pub server: String,
    /// HTTP status.
    pub status: u16,
    /// Port that the request came from.
    pub client_port: u16,
    /// How long it took.
    pub duration: Duration,
}

/// Ports that requests come from: below those that the kernel gives out itself (`ip_local_port_range`).
const CLIENT_PORTS: std::ops::Range<u32> = 10_000..32_768;

static REQUESTS_MADE: AtomicU32 = AtomicU32::new(0);

/// Requests `/`, one after the other, each on a connection of its own and from a port that none had before: on a tuple
/// that it knows the director stays with the real server, and shares would not be exact. A request that fails is an error.
pub fn get_many(client: &Host, vip: impl Into<IpAddr>, port: u16, count: u32) -> Result<Vec<Answer>> {
    curl(client, None, vip.into(), port, count)
}

/// The same, from one of the client's addresses: the name of the real server that answered each.
pub fn get_many_from(
    client: &Host,
    source: impl Into<IpAddr>,
    vip: impl Into<IpAddr>,
    port: u16,
    count: u32,
) -> Result<Vec<String>> {
    let answers = curl(client, Some(source.into()), vip.into(), port, count)?;
    Ok(answers.into_iter().map(|answer| answer.server).collect())
}

fn curl(client: &Host, source: Option<IpAddr>, vip: IpAddr, port: u16, count: u32) -> Result<Vec<Answer>> {
    let interface = source.map(|source| format!("interface = {source}\n")).unwrap_or_default();
    let server = SocketAddr::new(vip, port);
    let first = REQUESTS_MADE.fetch_add(count, Ordering::Relaxed);
    let requests: String = (0..count)
        .map(|number| {
            let client_port = CLIENT_PORTS.start + (first + number) % CLIENT_PORTS.len() as u32;
            format!(
                "next\nurl = http://{server}/\nlocal-port = {client_port}\n{interface}\
                 header = \"Connection: close\"\nmax-time = {}\n\
                 write-out = \" %{{http_code}} %{{num_connects}} %{{local_port}} %{{time_total}}\\n\"\n",
                HANGS.as_secs()
            )
        })
        .collect();
    // Two of a client may run at the same time.
    let file = client.directory().join(format!("requests-{first}.curl"));
    std::fs::write(&file, requests).with_context(|| format!("cannot write {}", file.display()))?;
    let file = file.to_str().context("the temporary directory's name is not UTF-8")?;
    let text = client.run(&["curl", "--silent", "--show-error", "--fail-early", "--config", file])?;
    // `num_connects` proves that it reused no connection.
    let answers: Vec<Answer> = text
        .lines()
        .map(|line| parse(line).with_context(|| format!("curl said: {line}")))
        .collect::<Result<_>>()?;
    ensure!(answers.len() == count as usize, "{} answers to {count} requests:\n{text}", answers.len());
    Ok(answers)
}

fn parse(line: &str) -> Option<Answer> {
    let mut words = line.split(' ');
    let server = words.next()?.to_owned();
    let status = words.next()?.parse().ok()?;
    let is_own_connection = words.next()? == "1";
    let client_port = words.next()?.parse().ok()?;
    let duration = Duration::try_from_secs_f64(words.next()?.parse().ok()?).ok()?;
    is_own_connection.then_some(Answer { server, status, client_port, duration })
}

/// An HTTP connection that stays open.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Opens it.
    pub fn open(client: &Host, vip: impl Into<IpAddr>, port: u16) -> Result<Connection> {
        Ok(Connection { stream: BufReader::new(client.connect(vip, port)?) })
    }

    /// Requests a path and returns the body.
    pub fn get(&mut self, path: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes())?;
        let (mut is_ok, mut length) = (false, 0);
        loop {
            let mut line = String::new();
            ensure!(
                self.stream.read_line(&mut line)? > 0,
                "the connection was closed before the answer was whole"
            );
            is_ok |= line.starts_with("HTTP/1.1 200 ");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        ensure!(is_ok, "the answer is not a 200");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8(body)?)
    }

    /// The client's port.
    pub fn client_port(&self) -> Result<u16> {
        Ok(self.stream.get_ref().local_addr()?.port())
    }
}

/// Requests one after the other in the background, each on a connection of its own.
pub struct Traffic {
    stopped: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<Vec<String>>>>,
}

/// Pause of [`Traffic`] between requests: a few hundred a second, and CPU left for others.
const TRAFFIC_PAUSE: Duration = Duration::from_millis(2);

impl Traffic {
    /// Starts it, and waits for the first answer.
    pub fn start(client: &Host, vip: impl Into<IpAddr>, port: u16) -> Result<Traffic> {
        let vip = SocketAddr::new(vip.into(), port);
        let stopped = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU32::new(0));
        let thread = {
            let (client, stopped, answered) = (client.clone(), Arc::clone(&stopped), Arc::clone(&answered));
            std::thread::spawn(move || {
                client.enter(|| {
                    let mut servers = Vec::new();
                    while !stopped.load(Ordering::Relaxed) {
                        let server = get_once(vip);
                        servers.push(server.with_context(|| format!("request {}", servers.len() + 1))?);
                        answered.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(TRAFFIC_PAUSE);
                    }
                    Ok(servers)
                })?
            })
        };
        let traffic = Traffic { stopped, answered, thread: Some(thread) };
        traffic.wait_for_more(1)?;
        Ok(traffic)
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were answered.
    pub fn wait_for_more(&self, count: u32) -> Result<()> {
        let goal = self.answered() + count;
        wait::until(&format!("{count} more answers"), || {
            let has_ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            Ok((self.answered() >= goal || has_ended).then_some(()))
        })?;
        ensure!(self.answered() >= goal, "the traffic ended before its time: a request failed");
        Ok(())
    }

    /// Ends it and returns who answered each request. A request that failed is an error.
    pub fn stop(mut self) -> Result<Vec<String>> {
        self.end().ok_or_else(|| anyhow!("it was ended before"))?
    }

    fn end(&mut self) -> Option<Result<Vec<String>>> {
        self.stopped.store(true, Ordering::Relaxed);
        let joined = self.thread.take()?.join();
        Some(joined.unwrap_or_else(|_| Err(anyhow!("the traffic's thread panicked"))))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.end() {
            eprintln!("traffic: {error:#}");
        }
    }
}

/// One request on a connection of its own; the calling thread is on the client.
fn get_once(vip: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&vip, HANGS).context("connect")?;
    stream.set_read_timeout(Some(HANGS))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read")?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("not an answer: {answer}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "not a 200: {head}");
    Ok(body.to_owned())
}

/// How many answers came from each server.
pub fn shares<'a>(servers: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for server in servers {
        *shares.entry(server.to_owned()).or_insert(0) += 1;
    }
    shares
}

/// Sends a datagram and waits for the answer: name of the server.
pub fn ask(socket: &UdpSocket, vip: impl Into<IpAddr>, port: u16, question: &str) -> Result<String> {
    let vip = vip.into();
    socket.send_to(question.as_bytes(), (vip, port))?;
    let mut buffer = [0; 2048];
    let (length, from) =
        socket.recv_from(&mut buffer).with_context(|| format!("no answer to `{question}`"))?;
    ensure!(from == (vip, port).into(), "the answer came from {from}");
    let answer = process::text(&buffer[..length]);
    let (server, echo) = answer.split_once(' ').with_context(|| format!("not an answer: {answer}"))?;
    ensure!(echo == question, "asked `{question}`, answered `{answer}`");
    Ok(server.to_owned())
}

/// The MAC addresses that answer ARP for `address`, each of `count` requests a broadcast.
pub fn arping(client: &Host, address: Ipv4Addr, count: u32) -> Result<BTreeSet<String>> {
    let text =
        client.output(&["arping", "-b", "-c", &count.to_string(), "-I", "eth0", &address.to_string()])?;
    let text = process::text(&text.stdout);
    Ok(macs_of(&text))
}

/// The MAC addresses in arping's `Unicast reply from 192.0.2.10 [02:00:0A:00:00:01]  0.642ms`.
fn macs_of(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.contains("reply from"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_lowercase()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curls_lines_parse_and_a_reused_connection_does_not() {
        assert_eq!(parse("rs1 200 1 40000 0.000643").unwrap().server, "rs1");
        for bad in ["", "rs1 200 0 40000 0.1", "rs1 200 1 40000", "rs1 200 1 x 0.1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn arpings_macs_are_those_of_replies() {
        let text = "ARPING 192.0.2.10 from 10.0.0.100 eth0\n\
                    Unicast reply from 192.0.2.10 [02:00:0A:00:00:01]  0.642ms\n\
                    Unicast reply from 192.0.2.10 [02:00:0A:00:00:0B]  0.9ms\n\
                    Sent 1 probes (1 broadcast(s))\nReceived 2 response(s)\n";
        assert_eq!(macs_of(text).into_iter().collect::<Vec<_>>(), ["02:00:0a:00:00:01", "02:00:0a:00:00:0b"]);
    }
}
