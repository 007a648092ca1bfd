//! One host: a network namespace with its name, its directory and what runs in it.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::process::{self, Process};
use crate::wait::HANGS;

/// Seconds after which a command of a host is killed: no test hangs.
const COMMAND_SECONDS_MAX: &str = "120";

/// A host. A copy names the same host; [`crate::Network`] removes it.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    namespace: String,
    directory: PathBuf,
}

impl Host {
    pub(crate) fn create(name: &str, namespace: String, directory: PathBuf) -> Result<Host> {
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        process::run(Command::new("ip").args(["netns", "add", &namespace])).with_context(|| {
            format!("cannot make host {name}; network namespaces need root (CAP_SYS_ADMIN) and iproute2")
        })?;
        let host = Host { name: name.to_owned(), namespace, directory };
        host.ip("link set lo up")?;
        host.set("net/ipv6/conf/all/disable_ipv6", "1")?;
        host.set("net/ipv6/conf/default/disable_ipv6", "1")?;
        for place in ["all", "default"] {
            host.set(&format!("net/ipv4/conf/{place}/rp_filter"), "0")?;
            host.set(&format!("net/ipv4/conf/{place}/accept_redirects"), "0")?;
        }
        host.set("net/ipv4/ip_forward", "0")?;
        Ok(host)
    }

    /// Gives it IPv6, which a host has none of at first. Its addresses are used at once, without asking whether somebody has
    /// them.
    pub fn enable_ipv6(&self) -> Result<()> {
        for (name, value) in
            [("accept_dad", "0"), ("accept_ra", "0"), ("accept_redirects", "0"), ("disable_ipv6", "0")]
        {
            for place in ["default", "all"] {
                self.set(&format!("net/ipv6/conf/{place}/{name}"), value)?;
            }
        }
        Ok(())
    }

    /// Its name in the network: `client`, `rs1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of its namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A directory for its files, removed with the network.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Runs a command to its end and returns what it printed; a failure is an error that has its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        process::run(&mut self.limited(arguments)?)
    }

    /// Runs a command to its end, whatever that is.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        process::output(&mut self.limited(arguments)?)
    }

    /// Starts a command that runs until the returned guard is dropped.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Process> {
        let (program, rest) = arguments.split_first().context("no command")?;
        let mut command = self.command(program);
        command.args(rest);
        let name = Path::new(program).file_name().context("no command")?.to_string_lossy().into_owned();
        Process::spawn(command, &name, &self.directory)
    }

    fn limited(&self, arguments: &[&str]) -> Result<Command> {
        ensure!(!arguments.is_empty(), "no command");
        let mut command = self.command("timeout");
        command.args(["--kill-after=1", COMMAND_SECONDS_MAX]).args(arguments);
        Ok(command)
    }

    /// One command of iproute2, its words separated by spaces.
    pub fn ip(&self, words: &str) -> Result<String> {
        process::run(Command::new("ip").args(["-n", &self.namespace]).args(words.split_whitespace()))
    }

    /// Sets a sysctl; its path is below `/proc/sys`.
    pub fn set(&self, sysctl: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(Path::new("/proc/sys").join(sysctl), value))?
            .with_context(|| format!("{}: cannot set {sysctl} to {value}", self.name))
    }

    /// Names of its interfaces.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let links: serde_json::Value = serde_json::from_str(&self.ip("-j link show")?)?;
        let links = links.as_array().context("ip printed no list")?;
        Ok(links.iter().filter_map(|link| Some(link["ifname"].as_str()?.to_owned())).collect())
    }

    /// Leaves an interface to the DPDK port over it. The kernel sees its frames as well: it must answer no ARP there, and take
    /// no packet for the addresses that other interfaces of it have (the port's host interface).
    pub fn leave_to_dpdk(&self, interface: &str) -> Result<()> {
        self.ip(&format!("link set {interface} arp off"))?;
        self.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "1")
    }

    /// MAC address of an interface.
    pub fn mac(&self, interface: &str) -> Result<String> {
        let link = self.link(interface)?;
        link["address"].as_str().map(str::to_owned).with_context(|| format!("{interface} has no MAC address"))
    }

    /// MTU of an interface.
    pub fn mtu(&self, interface: &str) -> Result<u64> {
        self.link(interface)?["mtu"].as_u64().with_context(|| format!("{interface} has no MTU"))
    }

    fn link(&self, interface: &str) -> Result<serde_json::Value> {
        let links: serde_json::Value = serde_json::from_str(&self.ip(&format!("-j link show {interface}"))?)?;
        Ok(links[0].clone())
    }

    /// Adds an address (`10.0.0.2/24`, `2001:db8::2/64`).
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        let options = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface}{options}")).map(drop)
    }

    /// Runs `work` on a thread that is on this host: its sockets are the host's, wherever they are used later.
    ///
    /// The thread ends with `work`. The caller's own thread never enters a namespace: the test harness may own it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.namespace);
        let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Opens a TCP connection from this host; reads and writes time out after [`HANGS`].
    pub fn connect(&self, address: impl Into<IpAddr>, port: u16) -> Result<TcpStream> {
        let address = SocketAddr::new(address.into(), port);
        let stream = self
            .enter(|| TcpStream::connect_timeout(&address, HANGS))?
            .with_context(|| format!("{} cannot connect to {address}", self.name))?;
        stream.set_read_timeout(Some(HANGS))?;
        stream.set_write_timeout(Some(HANGS))?;
        Ok(stream)
    }

    /// A UDP socket of this host, on a port of the system's choice if `port` is 0; reads time out after
    /// [`HANGS`].
    pub fn udp_socket(&self, address: impl Into<IpAddr>, port: u16) -> Result<UdpSocket> {
        let address = SocketAddr::new(address.into(), port);
        let socket = self
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("{} cannot use UDP {address}", self.name))?;
        socket.set_read_timeout(Some(HANGS))?;
        Ok(socket)
    }
}
