//! A real server: the VIP on `lo`, silent about it in ARP, with real nginx and a UDP server that answer by its name.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::process::Process;
use crate::wait;

/// Bytes of `/slow`, which nginx sends at [`SLOW_BYTES_PER_SECOND`].
pub const SLOW_BYTES: usize = 400 * 1024;

/// Rate of `/slow`.
pub const SLOW_BYTES_PER_SECOND: usize = 100 * 1024;

/// A real server, as LVS's documents set one up for direct routing.
pub struct RealServer {
    /// The host.
    pub host: Host,
    /// Its RIP.
    pub address: Ipv4Addr,
    nginx: Option<Process>,
}

/// A line of nginx's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client as nginx saw it.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// The address that it spoke to.
    pub server: IpAddr,
    /// HTTP status of the answer.
    pub status: u16,
    /// What was asked for.
    pub path: String,
}

impl RealServer {
    /// Makes a real server of a host: the VIP on `lo`, where ARP does not tell of it.
    pub fn set_up(host: Host, address: Ipv4Addr, vip: Ipv4Addr) -> Result<RealServer> {
        let server = Self::without_vip(host, address);
        server.keep_vips_silent()?;
        server.add_vip(vip)?;
        Ok(server)
    }

    /// Makes a real server of a host that has no VIP: for NAT, where it is asked for at its RIP.
    pub fn without_vip(host: Host, address: Ipv4Addr) -> RealServer {
        RealServer { host, address, nginx: None }
    }

    /// ARP tells of no address of `lo`. Of an IPv6 address on `lo` neighbour discovery tells by itself nothing.
    pub fn keep_vips_silent(&self) -> Result<()> {
        for interface in ["all", "lo"] {
            self.host.set(&format!("net/ipv4/conf/{interface}/arp_ignore"), "1")?;
            self.host.set(&format!("net/ipv4/conf/{interface}/arp_announce"), "2")?;
        }
        Ok(())
    }

    /// Its host's name, with which it answers.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Adds another VIP.
    pub fn add_vip(&self, vip: impl Into<IpAddr>) -> Result<()> {
        let vip = vip.into();
        self.host.add_address("lo", &format!("{vip}/{}", if vip.is_ipv4() { 32 } else { 128 }))
    }

    /// Starts nginx on `ports` of all addresses: it answers its host's name, and `/slow` at a limited rate. What is PUT
    /// below `/upload/` is in `upload` of the host's directory, and what is in `files` there can be got. `/proxied` is who speaks
    /// to whom by PROXY protocol.
    pub fn start_nginx(&mut self, ports: &[u16]) -> Result<()> {
        let listen: Vec<String> =
            ports.iter().flat_map(|port| [port.to_string(), format!("[::]:{port}")]).collect();
        self.start_nginx_on(&listen, ports)
    }

    /// The same, with the arguments of nginx's `listen`, and the ports on which it must answer before this returns.
    pub fn start_nginx_on(&mut self, listen: &[String], ports: &[u16]) -> Result<()> {
        let directory = self.host.directory();
        for files in ["files", "upload"] {
            fs::create_dir_all(directory.join(files))?;
        }
        fs::write(directory.join("slow"), vec![b'.'; SLOW_BYTES])?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, self.nginx_configuration(listen)?)?;
        let mut command = self.host.command("nginx");
        command.arg("-p").arg(directory).arg("-c").arg(&configuration);
        // The log of before `error_log` is read would be a file of the distribution's.
        command.args(["-e", "stderr"]);
        let mut nginx = Process::spawn(command, "nginx", directory)?;
        wait::until(&format!("nginx on {}", self.name()), || {
            if let Some(status) = nginx.ended()? {
                bail!("nginx on {} ended with {status}:\n{}", self.name(), nginx.log());
            }
            Ok(ports.iter().all(|&port| self.host.connect(Ipv4Addr::LOCALHOST, port).is_ok()).then_some(()))
        })?;
        self.nginx = Some(nginx);
        Ok(())
    }

    fn nginx_configuration(&self, arguments: &[String]) -> Result<String> {
        let name = self.name();
        let directory = self.host.directory().display();
        let mut listen = String::new();
        for argument in arguments {
            write!(listen, "listen {argument}; ")?;
        }
        Ok(format!(
            r#"user root;
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    log_format lab '$remote_addr $remote_port $server_addr $status $request_uri';
    access_log {directory}/access.log lab;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    default_type text/plain;
    keepalive_requests 1000000;
    server {{
        {listen}
        root {directory};
        location / {{ return 200 "{name}"; }}
        location = /proxied {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"; }}
        location /files/ {{ }}
        location /upload/ {{ dav_methods PUT; client_max_body_size 0; }}
        location = /slow {{ limit_rate {SLOW_BYTES_PER_SECOND}; add_header X-Real-Server {name}; }}
    }}
}}
"#
        ))
    }

    /// Stops nginx; its log stays.
    pub fn stop_nginx(&mut self) {
        self.nginx = None;
    }

    /// Every request that nginx has logged.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let path: PathBuf = self.host.directory().join("access.log");
        let log = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        log.lines()
            .map(|line| parse(line).with_context(|| format!("not a line of the log: {line}")))
            .collect()
    }

    /// Starts a UDP server on `address:port`; it must be the VIP for its answers to carry the VIP.
    pub fn start_udp(&self, address: impl Into<IpAddr>, port: u16) -> Result<UdpServer> {
        UdpServer::start(&self.host, address.into(), port)
    }
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.split(' ');
    let request = Request {
        client: words.next()?.parse().ok()?,
        client_port: words.next()?.parse().ok()?,
        server: words.next()?.parse().ok()?,
        status: words.next()?.parse().ok()?,
        path: words.next()?.to_owned(),
    };
    words.next().is_none().then_some(request)
}

/// Answers each datagram with its host's name, a space, and the datagram.
pub struct UdpServer {
    stopped: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    fn start(host: &Host, address: IpAddr, port: u16) -> Result<UdpServer> {
        let socket = host.udp_socket(address, port)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stopped = Arc::new(AtomicBool::new(false));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let name = host.name().to_owned();
        let thread = {
            let (stopped, clients) = (Arc::clone(&stopped), Arc::clone(&clients));
            std::thread::spawn(move || {
                let mut datagram = [0; 2048];
                while !stopped.load(Ordering::Relaxed) {
                    // A time-out, or an ICMP error of an earlier answer: neither ends a server.
                    let Ok((length, client)) = socket.recv_from(&mut datagram) else {
                        continue;
                    };
                    clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
                    let answer = [name.as_bytes(), b" ", &datagram[..length]].concat();
                    let _ = socket.send_to(&answer, client);
                }
            })
        };
        Ok(UdpServer { stopped, clients, thread: Some(thread) })
    }

    /// Where each datagram came from, in the order of arrival.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed, and the test that misses its answers has failed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_parse_and_others_do_not() {
        let request = parse("10.0.0.100 40000 192.0.2.10 200 /?7").unwrap();
        assert_eq!(request.client, Ipv4Addr::new(10, 0, 0, 100));
        assert_eq!((request.client_port, request.status, request.path.as_str()), (40000, 200, "/?7"));
        for bad in [
            "",
            "10.0.0.100",
            "10.0.0.100 40000 192.0.2.10 200",
            "x 1 192.0.2.10 200 /",
            "10.0.0.1 1 192.0.2.10 200 / /",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
