//! A director over ports in memory: real control code, real workers, no DPDK. The workers run as tasks beside the
//! control thread's, so that tests need no second CPU and no clock but tokio's.
#![allow(dead_code)] // each test file uses its part

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use ctl::config::Config;
use ctl::protocol::{Changed, Command, ErrorReply, NeighbourState};
use dataplane::clock::{Clock, ManualClock};
use dataplane::memory::{MemoryPort, MemoryPortConfig, MemoryQueuePair};
use dataplane::packet::arp::{ArpPacket, REPLY, REQUEST};
use dataplane::packet::ndp::{NeighbourKind, NeighbourMessage};
use dataplane::port::PortStatus;
use dataplane::worker::Worker;
use director::assembly::{Assembly, AssemblyError, StartedPorts, assemble};
use director::commands::{Answer, Executed, execute};
use director::control::{Platform, SharedControl};
use director::daemon::tick_for_ever;
use director::host_interface::{HostAccess, HostThread};
use tokio::task::LocalSet;

/// MAC of port 0; port N's ends in N.
pub(crate) const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
/// Whoever sends to the director.
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];

/// A director and the world around it.
pub(crate) struct Rig {
    pub(crate) control: SharedControl,
    pub(crate) ports: Vec<MemoryPort>,
    pub(crate) workers: Rc<RefCell<Vec<Worker<MemoryQueuePair>>>>,
    pub(crate) clock: ManualClock,
    pub(crate) network: Rc<RefCell<Network>>,
}

/// What is on the wire.
#[derive(Default)]
pub(crate) struct Network {
    /// Hosts that answer ARP.
    pub(crate) hosts: HashMap<Ipv4Addr, [u8; 6]>,
    /// Frames sent by the director, with their port, but for its ARP requests for hosts.
    pub(crate) sent: Vec<(usize, Vec<u8>)>,
    /// ARP requests for hosts, with their destination MAC.
    pub(crate) requests: Vec<([u8; 6], ArpPacket)>,
    /// Hosts that answer neighbour solicitations.
    pub(crate) hosts_v6: HashMap<Ipv6Addr, [u8; 6]>,
    /// Neighbour solicitations for hosts, with their destination MAC and VLAN (0: untagged).
    pub(crate) solicitations: Vec<([u8; 6], u16, NeighbourMessage)>,
}

/// The parts of a director whose ports are in memory. `prepare` sees each worker's queue pairs before it gets them.
pub(crate) fn assembled(
    config: &Config,
    workers: usize,
    port_config: &MemoryPortConfig,
    prepare: impl FnMut(usize, &mut MemoryQueuePair),
) -> (Assembly<MemoryQueuePair>, Vec<MemoryPort>, ManualClock) {
    let (assembly, ports, hand) = try_assembled(config, workers, port_config, prepare, HostAccess::None);
    (assembly.unwrap_or_else(|error| panic!("{error}")), ports, hand)
}

fn try_assembled(
    config: &Config,
    workers: usize,
    port_config: &MemoryPortConfig,
    mut prepare: impl FnMut(usize, &mut MemoryQueuePair),
    access: HostAccess,
) -> (Result<Assembly<MemoryQueuePair>, AssemblyError>, Vec<MemoryPort>, ManualClock) {
    if let Err(problems) = ctl::validate::validate_for_start(config) {
        panic!("{problems:?}");
    }
    let mut ports = Vec::new();
    let mut queues: Vec<Vec<MemoryQueuePair>> = (0..workers).map(|_| Vec::new()).collect();
    for number in 0..config.ports.len() {
        let mut mac = PORT_MAC;
        mac[5] = number as u8;
        let (port, pairs) = MemoryPort::new(MemoryPortConfig { queues: workers, mac, ..port_config.clone() });
        for (worker, mut pair) in pairs.into_iter().enumerate() {
            prepare(worker, &mut pair);
            queues[worker].push(pair);
        }
        ports.push(port);
    }
    let started = StartedPorts {
        ports: ports.iter().map(|port| Box::new(port.clone()) as Box<dyn PortStatus>).collect(),
        queues,
        pool: ports[0].pool(),
    };
    let (clock, hand) = Clock::manual();
    let platform = Platform { dpdk: "none (in-memory ports)".to_owned(), ..Platform::default() };
    let assembly = assemble(config.clone(), started, (0..workers).collect(), &clock, platform, access);
    (assembly, ports, hand)
}

impl Rig {
    /// A director with this configuration file.
    pub(crate) fn new(config: &str, workers: usize) -> Rig {
        let config = Config::from_toml(config, "test").unwrap_or_else(|error| panic!("{error}"));
        let (assembly, ports, clock) = assembled(&config, workers, &MemoryPortConfig::default(), |_, _| {});
        Rig {
            control: assembly.control.shared(),
            ports,
            workers: Rc::new(RefCell::new(assembly.workers)),
            clock,
            network: Rc::default(),
        }
    }

    /// The same with taps of the kernel, in the network namespace of the calling thread, and their thread.
    pub(crate) fn with_host(config: &str) -> Result<(Rig, Option<HostThread>), AssemblyError> {
        let config = Config::from_toml(config, "test").unwrap_or_else(|error| panic!("{error}"));
        let (assembly, ports, clock) =
            try_assembled(&config, 1, &MemoryPortConfig::default(), |_, _| {}, HostAccess::Taps);
        let Assembly { control, workers, host_frames } = assembly?;
        let host_thread = control.start_host_thread(host_frames).unwrap();
        let workers = Rc::new(RefCell::new(workers));
        Ok((Rig { control: control.shared(), ports, workers, clock, network: Rc::default() }, host_thread))
    }

    /// Runs `test` with control thread, workers and network beside it.
    pub(crate) fn run<T>(&self, test: impl AsyncFnOnce(&Rig) -> T) -> T {
        self.run_without_workers(async |rig| {
            let workers = tokio::task::spawn_local(poll_for_ever(rig.workers.clone()));
            let result = test(rig).await;
            workers.abort();
            result
        })
    }

    /// The same with workers that do nothing, as if their CPUs were taken away.
    pub(crate) fn run_without_workers<T>(&self, test: impl AsyncFnOnce(&Rig) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = LocalSet::new();
        tasks.spawn_local(tick_for_ever(self.control.clone()));
        tasks.spawn_local(carry_for_ever(self.ports.clone(), self.network.clone()));
        runtime.block_on(tasks.run_until(test(self)))
    }

    /// Executes a command given as JSON.
    pub(crate) async fn command(&self, verb: &str, arguments: &str) -> Result<Executed, ErrorReply> {
        execute(&self.control, &command(verb, arguments)).await
    }

    /// The same for a change that must succeed: its lines.
    pub(crate) async fn change(&self, verb: &str, arguments: &str) -> Vec<String> {
        match self.command(verb, arguments).await {
            Ok(Executed { answer: Answer::Changed(Changed { changes }), .. }) => changes,
            other => panic!("{verb} {arguments}: {other:?}"),
        }
    }

    /// State and MAC of a neighbour.
    pub(crate) fn neighbour(&self, address: &str) -> (NeighbourState, Option<String>) {
        let view = self.control.borrow().neighbours_view();
        let address: IpAddr = address.parse().unwrap();
        let found = view.neighbours.into_iter().find(|neighbour| neighbour.address == address);
        let found = found.unwrap_or_else(|| panic!("no neighbour {address}"));
        (found.state, found.mac.map(|mac| mac.to_string()))
    }

    /// Lets a frame arrive.
    pub(crate) fn inject(&self, port: usize, frame: &[u8]) {
        assert!(self.ports[port].inject_spread(frame));
    }

    /// Takes what the director sent so far.
    pub(crate) fn take_sent(&self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.network.borrow_mut().sent)
    }
}

/// A command from JSON.
pub(crate) fn command(verb: &str, arguments: &str) -> Command {
    let arguments = if arguments.is_empty() { String::new() } else { format!(r#","arguments":{arguments}"#) };
    let line = format!(r#"{{"version":1,"verb":"{verb}"{arguments}}}"#);
    ctl::request::parse_request(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Waits until `is_true`; tests end by their own assertion, not by a clock, unless something hangs.
pub(crate) async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    const HANGS: Duration = Duration::from_secs(60);
    let wait = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(HANGS, wait).await.is_ok(), "never: {what}");
}

/// Runs a future that must end.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    const HANGS: Duration = Duration::from_secs(60);
    tokio::time::timeout(HANGS, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn poll_for_ever(workers: Rc<RefCell<Vec<Worker<MemoryQueuePair>>>>) {
    loop {
        for worker in workers.borrow_mut().iter_mut() {
            worker.poll();
        }
        tokio::task::yield_now().await;
    }
}

/// The wire: hosts answer ARP requests and neighbour solicitations, all else is kept for the test.
async fn carry_for_ever(ports: Vec<MemoryPort>, network: Rc<RefCell<Network>>) {
    loop {
        for (number, port) in ports.iter().enumerate() {
            for frame in port.take_transmitted() {
                if let Some(answer) = network.borrow_mut().take(number, frame) {
                    port.inject_spread(&answer);
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Network {
    /// A frame that the director sent on this port, and who answers it what.
    fn take(&mut self, port: usize, frame: Vec<u8>) -> Option<Vec<u8>> {
        let (vlan, untagged) = without_tag(&frame);
        let destination = frame[..6].try_into().unwrap();
        let question = ArpPacket::parse(&untagged);
        let is_question = |packet: &ArpPacket| {
            packet.operation == REQUEST && packet.sender_address != packet.target_address
        };
        if let Some(question) = question.filter(is_question) {
            self.requests.push((destination, question));
            let mac = *self.hosts.get(&question.target_address)?;
            return Some(tagged(vlan, &arp_reply(mac, question.target_address, &question)));
        }
        let solicitation = NeighbourMessage::parse(&untagged);
        if let Some(question) = solicitation.filter(|message| message.kind == NeighbourKind::Solicitation) {
            self.solicitations.push((destination, vlan, question));
            let mac = *self.hosts_v6.get(&question.target)?;
            return Some(tagged(vlan, &question.answer(mac)));
        }
        self.sent.push((port, frame));
        None
    }
}

/// A frame's VLAN (0: none) and the frame without its tag.
pub(crate) fn without_tag(frame: &[u8]) -> (u16, Vec<u8>) {
    if frame[12..14] != [0x81, 0] {
        return (0, frame.to_vec());
    }
    (u16::from_be_bytes([frame[14], frame[15]]), [&frame[..12], &frame[16..]].concat())
}

/// The frame in this VLAN; 0: as it is.
pub(crate) fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    match vlan {
        0 => frame.to_vec(),
        _ => [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat(),
    }
}

/// A host's answer to an ARP request of the director.
pub(crate) fn arp_reply(mac: [u8; 6], address: Ipv4Addr, question: &ArpPacket) -> [u8; 60] {
    let reply = ArpPacket {
        operation: REPLY,
        sender_mac: mac,
        sender_address: address,
        target_mac: question.sender_mac,
        target_address: question.sender_address,
    };
    reply.to_frame(question.sender_mac, mac)
}

/// Gratuitous ARP in request form.
pub(crate) fn gratuitous_arp(mac: [u8; 6], address: &str) -> [u8; 60] {
    let address = address.parse().unwrap();
    let packet = ArpPacket {
        operation: REQUEST,
        sender_mac: mac,
        sender_address: address,
        target_mac: [0; 6],
        target_address: address,
    };
    packet.to_frame([0xff; 6], mac)
}

/// The same over IPv6.
pub(crate) fn tcp_v6(port_mac: [u8; 6], client: (Ipv6Addr, u16), service: (Ipv6Addr, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(CLIENT_MAC, port_mac)
        .ipv6(client.0.octets(), service.0.octets(), 64)
        .tcp(client.1, service.1, 1, 1024)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

/// A TCP segment of a client to port `port`'s MAC.
pub(crate) fn tcp(
    port_mac: [u8; 6],
    client: (Ipv4Addr, u16),
    service: (Ipv4Addr, u16),
    flags: &str,
) -> Vec<u8> {
    let (source, destination) = (client.0.octets(), service.0.octets());
    let mut builder = etherparse::PacketBuilder::ethernet2(CLIENT_MAC, port_mac)
        .ipv4(source, destination, 64)
        .tcp(client.1, service.1, 1, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(1),
            'F' => builder.fin(),
            'R' => builder.rst(),
            other => panic!("{other} is no flag"),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame.resize(frame.len().max(60), 0);
    frame
}
