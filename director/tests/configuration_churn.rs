//! 10,000 configuration changes while two workers forward at full rate: no packet lost, none to a wrong real server, no
//! connection moved that the change did not name, memory flat.
//!
//! Two worker threads replay traffic over ports in memory, the control thread's real code makes the changes, and every
//! frame sent is judged on the worker that sends it. Nothing here depends on how fast the machine is.

mod rig;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ctl::config::{Config, Protocol, ServiceId};
use ctl::protocol::{Command, ErrorCode};
use dataplane::memory::{MemoryPort, MemoryPortConfig, MemoryQueuePair};
use dataplane::verdict::DropReason;
use dataplane::worker::Worker;
use director::commands::{Answer, Executed, execute};
use director::control::SharedControl;
use director::services::Since;

use rig::{PORT_MAC, assembled, command, tcp};

const WORKERS: usize = 2;
const CHANGES: u64 = 10_000;
/// Changes before memory is measured the first time: caches, queues and slots have reached their size.
const WARM_UP: u64 = 2_000;
/// What the process may have grown by in the other 8,000 changes. Measured: 0 to 300 KiB.
const GROWTH_MAX_KIB: u64 = 4096;

/// Never named by a change.
const STEADY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Its real servers come, go, and change.
const CHURNED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// It comes and goes as a whole.
const FLEETING: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 30);
/// Each of its thousands of real servers is there once in a while, so that slots are handed on.
const ROAMING: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 40);
/// A member of a group that comes and goes; its connections stay.
const MEMBER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const VIPS: [Ipv4Addr; 5] = [STEADY, CHURNED, FLEETING, ROAMING, MEMBER];

/// Established connections and new ones in a round of the replay, per VIP and worker.
const ESTABLISHED: u32 = 500;
const OPENING: u32 = 100;
const FLOWS: u32 = ESTABLISHED + OPENING;

const CONFIG: &str = r#"
    [director]
    connection_capacity_per_worker = 16384
    template_capacity = 16384
    real_server_capacity = 1024
    metrics_listen = "off"
    # The test's clock stands still most of the time.
    [connections]
    creation_rate_per_worker = 0
    [[ports]]
    name = "inside"
    device = "memory0"
    addresses = ["10.0.0.1/16"]
    [[services]]
    protocol = "tcp"
    address = "192.0.2.10"
    port = 80
    scheduler = "wrr"
    real_servers = [
        { address = "10.0.1.1", weight = 1, mac = "02:00:0a:00:01:01" },
        { address = "10.0.1.2", weight = 2, mac = "02:00:0a:00:01:02" },
        { address = "10.0.1.3", weight = 3, mac = "02:00:0a:00:01:03" },
    ]
    [[services]]
    protocol = "tcp"
    address = "192.0.2.20"
    port = 80
    real_servers = [
        { address = "10.0.2.0", mac = "02:00:0a:00:02:00" },
        { address = "10.0.2.1", mac = "02:00:0a:00:02:01" },
    ]
    [[services]]
    protocol = "tcp"
    address = "192.0.2.30"
    port = 80
    scheduler = "lc"
    real_servers = [{ address = "10.0.3.0", mac = "02:00:0a:00:03:00" }]
    [[services]]
    protocol = "tcp"
    address = "192.0.2.40"
    port = 80
    scheduler = "rr"
    real_servers = [{ address = "10.0.4.0", mac = "02:00:0a:00:04:00" }]
    [[services]]
    group = "web"
    scheduler = "mh"
    persistence = { timeout_seconds = 30 }
    members = [
        { protocol = "tcp", address = "192.0.2.50", port = 80 },
        { protocol = "tcp", address = "192.0.2.51", port = 0 },
    ]
    real_servers = [
        { address = "10.0.5.0", mac = "02:00:0a:00:05:00" },
        { address = "10.0.5.1", mac = "02:00:0a:00:05:01" },
    ]
"#;

/// The third and fourth byte of a real server's address name its VIP and itself; its MAC is 02:00 and its address.
fn real_server(vip: usize, number: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, (vip as u32 + 1 + number / 256 * 8) as u8, number as u8)
}

fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [2, 0, a, b, c, d]
}

/// A flow's client is 100.64.0.0 plus its number; one number space a VIP.
fn client(worker: usize, vip: usize, flow: u32) -> (Ipv4Addr, u16) {
    let number = (worker as u32 * VIPS.len() as u32 + vip as u32) * FLOWS + flow;
    (Ipv4Addr::from(0x6440_0000 + number), 5000)
}

/// What a worker's frames are judged by.
#[derive(Default)]
struct Facts {
    /// By real server of [`CHURNED`]: a packet may be sent to it. Cleared when its removal has been acknowledged.
    churned_allowed: [AtomicBool; 8],
    /// Frames sent to a real server of [`STEADY`], by worker.
    steady_sent: [AtomicU64; WORKERS],
    /// Frames sent to others.
    others_sent: AtomicU64,
    /// Wrong frames; the first is told.
    wrong: AtomicU64,
}

/// Judges each frame that a worker sends.
struct Judge {
    facts: Arc<Facts>,
    worker: usize,
    /// By flow: the MAC of its last SYN.
    macs: Vec<[u8; 6]>,
}

impl Judge {
    fn see(&mut self, frame: &[u8]) {
        // The control thread's announcements are no traffic.
        if frame[12..14] != [8, 0] {
            return;
        }
        let mac: [u8; 6] = frame[..6].try_into().unwrap();
        let source = u32::from_be_bytes(frame[26..30].try_into().unwrap());
        let vip = VIPS.iter().position(|vip| vip.octets() == frame[30..34]);
        let is_syn = frame[47] & 2 != 0;
        let flow = source.wrapping_sub(0x6440_0000);
        let verdict = self.judge(mac, vip, flow, is_syn);
        if let Err(reason) = verdict
            && self.facts.wrong.fetch_add(1, Ordering::Relaxed) == 0
        {
            eprintln!("worker {}: {reason}: to {mac:02x?}, VIP {vip:?}, flow {flow}", self.worker);
        }
    }

    fn judge(
        &mut self,
        mac: [u8; 6],
        vip: Option<usize>,
        flow: u32,
        is_syn: bool,
    ) -> Result<(), &'static str> {
        let vip = vip.ok_or("no VIP")?;
        let [2, 0, 10, 0, group, number] = mac else { return Err("no real server's MAC") };
        if usize::from(group - 1) % 8 != vip {
            return Err("another VIP's real server");
        }
        let last = self.macs.get_mut(flow as usize).ok_or("no client")?;
        if is_syn {
            *last = mac;
        } else if *last != mac {
            return Err("a connection has moved");
        }
        match VIPS[vip] {
            STEADY => self.facts.steady_sent[self.worker].fetch_add(1, Ordering::Relaxed),
            CHURNED if !self.facts.churned_allowed[usize::from(number)].load(Ordering::SeqCst) => {
                return Err("its real server was removed, and the removal acknowledged");
            }
            _ => self.facts.others_sent.fetch_add(1, Ordering::Relaxed),
        };
        Ok(())
    }
}

/// What a worker receives round and round: established connections send, and others open, send, and reset, so that
/// every round schedules them anew.
fn traffic(worker: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for flow in 0..FLOWS {
        for (number, &vip) in VIPS.iter().enumerate() {
            let segments: &[&str] = if flow < ESTABLISHED { &["A"] } else { &["S", "A", "R"] };
            let client = client(worker, number, flow);
            frames.extend(segments.iter().map(|flags| tcp(PORT_MAC, client, (vip, 80), flags)));
        }
    }
    frames
}

/// Opens the established connections.
fn opening(worker: usize) -> Vec<Vec<u8>> {
    let flows = (0..ESTABLISHED).flat_map(|flow| (0..VIPS.len()).map(move |vip| (vip, flow)));
    flows.map(|(vip, flow)| tcp(PORT_MAC, client(worker, vip, flow), (VIPS[vip], 80), "S")).collect()
}

/// A reproducible stream of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Draws changes that are valid, and keeps what runs in mind.
struct Churn {
    dice: Dice,
    churned: [bool; 8],
    fleeting: bool,
    member: bool,
    roaming: std::collections::VecDeque<u32>,
    next_roaming: u32,
}

fn service_id(vip: Ipv4Addr) -> ServiceId {
    ServiceId::new(Protocol::Tcp, vip, 80)
}

fn service(vip: Ipv4Addr) -> String {
    format!(r#""service":{{"protocol":"tcp","address":"{vip}","port":80}}"#)
}

fn described(address: Ipv4Addr, weight: u64) -> String {
    let mac: Vec<_> = mac(address).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(r#"{{"address":"{address}","weight":{weight},"mac":"{}"}}"#, mac.join(":"))
}

/// A change, and the real server of [`CHURNED`] that it removes or adds.
enum Change {
    Other(Command),
    Removes(Command, usize),
    Adds(Command, usize),
}

impl Churn {
    fn new() -> Self {
        let mut churned = [false; 8];
        churned[..2].fill(true);
        Churn { dice: Dice(2), churned, fleeting: true, member: true, roaming: [0].into(), next_roaming: 1 }
    }

    fn draw(&mut self) -> Change {
        match self.dice.below(13) {
            0..=2 => self.real_server(),
            3..=5 => self.come_or_go(),
            6 => self.fleet(),
            7 | 8 => self.roam(),
            9 => self.schedule(),
            10 => self.persist(),
            11 => self.come_or_go_as_a_member(),
            _ => self.options(),
        }
    }

    /// Weight, thresholds or drain of one that is there.
    fn real_server(&mut self) -> Change {
        let present: Vec<_> = (0..8).filter(|&number| self.churned[number]).collect();
        let Some(&number) = present.get(self.dice.below(8) as usize % present.len().max(1)) else {
            return self.come_or_go();
        };
        let address = real_server(1, number as u32);
        let what = match self.dice.below(4) {
            0 | 1 => format!(r#""weight":{}"#, self.dice.below(10)),
            2 => format!(r#""upper_threshold":{},"lower_threshold":0"#, self.dice.below(3) * 200),
            _ => format!(r#""drain":{}"#, self.dice.below(3) == 0),
        };
        let arguments = format!(r#"{{{},"real_server":"{address}",{what}}}"#, service(CHURNED));
        Change::Other(command("set-rs", &arguments))
    }

    fn persist(&mut self) -> Change {
        let persistence = match self.dice.below(3) {
            0 => r#""off""#,
            1 => r#"{"timeout_seconds":5}"#,
            _ => r#"{"timeout_seconds":60,"netmask":"255.255.255.0"}"#,
        };
        let arguments = format!(r#"{{{},"persistence":{persistence}}}"#, service(CHURNED));
        Change::Other(command("set-vip", &arguments))
    }

    fn come_or_go_as_a_member(&mut self) -> Change {
        self.member ^= true;
        let verb = if self.member { "add-member" } else { "del-member" };
        let member = format!(r#"{{"protocol":"tcp","address":"{MEMBER}","port":80}}"#);
        Change::Other(command(verb, &format!(r#"{{"group":"web","member":{member}}}"#)))
    }

    /// What every service has in common, as far as it changes nothing for these packets.
    fn options(&mut self) -> Change {
        let (udp, reuse) = (1 + self.dice.below(9), 1 + 2 * self.dice.below(2));
        let own = 100 + self.dice.below(9);
        let commands = format!(
            r#"{{"commands":[
                {{"verb":"set-options","arguments":{{"timeouts":{{"udp":{udp}}},"conn_reuse_mode":{reuse}}}}},
                {{"verb":"set-vip","arguments":{{{},"timeouts":{{"tcp_established":{own}}}}}}},
                {{"verb":"zero","arguments":{{}}}}
            ]}}"#,
            service(CHURNED)
        );
        Change::Other(command("batch", &commands.replace('\n', "")))
    }

    fn come_or_go(&mut self) -> Change {
        let number = self.dice.below(8) as usize;
        let address = real_server(1, number as u32);
        self.churned[number] ^= true;
        if self.churned[number] {
            let real_server = described(address, 1 + self.dice.below(5));
            let arguments = format!(r#"{{{},"real_server":{real_server}}}"#, service(CHURNED));
            return Change::Adds(command("add-rs", &arguments), number);
        }
        let arguments = format!(r#"{{{},"real_server":"{address}"}}"#, service(CHURNED));
        Change::Removes(command("del-rs", &arguments), number)
    }

    fn fleet(&mut self) -> Change {
        self.fleeting ^= true;
        if !self.fleeting {
            return Change::Other(command("del-vip", &format!("{{{}}}", service(FLEETING))));
        }
        let real_servers: Vec<_> = (0..4).map(|number| described(real_server(2, number), 1)).collect();
        let arguments = format!(
            r#"{{"protocol":"tcp","address":"{FLEETING}","port":80,"scheduler":"wlc","real_servers":[{}]}}"#,
            real_servers.join(",")
        );
        Change::Other(command("add-vip", &arguments))
    }

    fn roam(&mut self) -> Change {
        if self.roaming.len() >= 3 {
            let address = real_server(3, self.roaming.pop_front().unwrap());
            return Change::Other(command(
                "del-rs",
                &format!(r#"{{{},"real_server":"{address}"}}"#, service(ROAMING)),
            ));
        }
        self.roaming.push_back(self.next_roaming);
        let real_server = described(real_server(3, self.next_roaming), 1);
        self.next_roaming = (self.next_roaming + 1) % (31 * 256);
        Change::Other(command("add-rs", &format!(r#"{{{},"real_server":{real_server}}}"#, service(ROAMING))))
    }

    fn schedule(&mut self) -> Change {
        let name = ["rr", "wrr", "lc", "wlc"][self.dice.below(4) as usize];
        Change::Other(command("set-vip", &format!(r#"{{{},"scheduler":"{name}"}}"#, service(CHURNED))))
    }
}

/// Makes a change and waits until every worker runs it. A machine on which a worker gets no CPU for two seconds has the
/// command answered as late; the change is waited for all the same.
async fn make(control: &SharedControl, command: &Command) {
    let result = execute(control, command).await;
    match result {
        Ok(Executed { answer: Answer::Changed(_), .. }) => {}
        Err(late) if late.code == ErrorCode::Timeout => {
            let reached = || control.borrow().oldest_running() >= control.borrow().newest_generation();
            rig::until("a late change runs", reached).await;
        }
        other => panic!("{command:?}: {other:?}"),
    }
}

async fn churn(control: &SharedControl, facts: &Facts, clock: &dataplane::clock::ManualClock) -> u64 {
    let mut churn = Churn::new();
    let mut resident_before = 0;
    for number in 0..CHANGES {
        match churn.draw() {
            Change::Other(command) => make(control, &command).await,
            Change::Adds(command, real_server) => {
                facts.churned_allowed[real_server].store(true, Ordering::SeqCst);
                make(control, &command).await;
            }
            Change::Removes(command, real_server) => {
                make(control, &command).await;
                facts.churned_allowed[real_server].store(false, Ordering::SeqCst);
            }
        }
        control.borrow_mut().tick();
        if number % 20 == 0 {
            // Connections to removed real servers expire, so that slots are handed on.
            clock.advance_seconds(1);
        }
        if number + 1 == WARM_UP {
            resident_before = resident_kib();
        }
    }
    resident_kib().saturating_sub(resident_before)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn run_worker(mut worker: Worker<MemoryQueuePair>, stop: &AtomicBool) -> Worker<MemoryQueuePair> {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..8 {
            worker.poll();
        }
        // The test machine has fewer CPUs than a director would.
        std::thread::yield_now();
    }
    worker
}

#[test]
fn ten_thousand_changes_under_full_traffic_lose_misdirect_and_move_nothing() {
    let facts = Arc::new(Facts::default());
    facts.churned_allowed[..2].iter().for_each(|allowed| allowed.store(true, Ordering::SeqCst));
    let config = Config::from_toml(CONFIG, "test").unwrap();
    let flows = WORKERS * VIPS.len() * FLOWS as usize;
    let frames = WORKERS * VIPS.len() * ESTABLISHED as usize + 1024;
    let port_config =
        MemoryPortConfig { frames, rx_capacity: frames, frame_size: 128, ..MemoryPortConfig::default() };
    let (assembly, ports, clock) = assembled(&config, WORKERS, &port_config, |worker, queues| {
        let mut judge = Judge { facts: facts.clone(), worker, macs: vec![[0; 6]; flows] };
        queues.verify(move |frame| judge.see(frame));
        queues.replay(traffic(worker));
    });
    let port: &MemoryPort = &ports[0];
    for worker in 0..WORKERS {
        // What is injected comes before what is replayed.
        opening(worker).iter().for_each(|frame| assert!(port.inject(worker, frame)));
    }
    let control = assembly.control.shared();
    let stop = AtomicBool::new(false);
    let grown = std::thread::scope(|scope| {
        let threads: Vec<_> =
            assembly.workers.into_iter().map(|worker| scope.spawn(|| run_worker(worker, &stop))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let grown = runtime.block_on(churn(&control, &facts, &clock));
        port.stop_replay();
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| {
            // What was received before the replay stopped has been sent: a round ends with nothing in hand.
            thread.join().unwrap().poll();
        });
        grown
    });
    check(&control, &facts, port, grown);
}

fn check(control: &SharedControl, facts: &Facts, port: &MemoryPort, grown: u64) {
    assert_eq!(facts.wrong.load(Ordering::Relaxed), 0, "frames to a wrong real server");
    let control = control.borrow();
    assert!(control.newest_generation() > CHANGES * 3 / 4, "generation {}", control.newest_generation());
    let stats = control.stats(&Default::default()).unwrap();
    // Otherwise the churn has not touched what it is about.
    for reason in [DropReason::RealServerRemoved, DropReason::NoRealServer, DropReason::NotLocal] {
        assert_ne!(stats.totals.drops[reason.name()], 0, "{}", reason.name());
    }
    for worker in &stats.workers {
        let (packets, number) = (&worker.packets, worker.worker as usize);
        let dropped: u64 = packets.drops.values().sum();
        assert_eq!(packets.received, packets.forwarded + packets.punted + dropped, "{packets:?}");
        let injected = u64::from(ESTABLISHED) * VIPS.len() as u64;
        assert_eq!(packets.received, port.replayed(number) + injected);
        let allowed = [
            DropReason::RealServerRemoved,
            DropReason::NoRealServer,
            DropReason::NoConnection,
            DropReason::NoService,
            DropReason::NotLocal,
        ];
        for reason in DropReason::ALL.iter().filter(|reason| !allowed.contains(reason)) {
            assert_eq!(packets.drops[reason.name()], 0, "{}", reason.name());
        }
        // Not one packet of the service that no change named is missing.
        let steady: Vec<bool> =
            traffic(number).iter().map(|frame| frame[30..34] == STEADY.octets()).collect();
        let in_round = steady.iter().filter(|&&is_steady| is_steady).count() as u64;
        let (rounds, rest) =
            (port.replayed(number) / steady.len() as u64, port.replayed(number) % steady.len() as u64);
        let in_rest = steady[..rest as usize].iter().filter(|&&is_steady| is_steady).count() as u64;
        let expected = rounds * in_round + in_rest + u64::from(ESTABLISHED);
        assert_eq!(facts.steady_sent[number].load(Ordering::Relaxed), expected, "packets of {STEADY}");
        assert!(rounds > 0, "worker {number} ran");
    }
    let ever = control.stats_since(&Default::default(), Since::Ever).unwrap();
    let steady = ever.services.iter().find(|stats| stats.service == service_id(STEADY)).unwrap();
    let sent: u64 = facts.steady_sent.iter().map(|sent| sent.load(Ordering::Relaxed)).sum();
    assert_eq!(steady.totals.packets, sent, "what the counters say is what was sent");
    assert_eq!(stats.totals.forwarded, sent + facts.others_sent.load(Ordering::Relaxed));
    assert!(grown <= GROWTH_MAX_KIB, "grown by {grown} KiB");
}
