//! The daemon under test: `dr-director` on a host, asked with `dr-ctl`, over its socket, and by /metrics.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ctl::config::{Config, DirectorConfig, Hugepages, PortConfig};
use ctl::protocol::{Neighbours, PacketTotals, Show, Stats, Status, WorkerStats};
use nix::sched::sched_getaffinity;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::dissection::Dissection;
use crate::host::Host;
use crate::process::{self, Process};
use crate::uml;
use crate::wait::{self, HANGS};

/// What the daemon says of a change that it has made, but that a worker has not taken within two seconds: on a machine with
/// more to do than CPUs a worker is off its CPU for several.
const NOT_IN_FORCE: &str = "not in force everywhere";

/// What the daemon logs at its end where not every packet buffer is back in its pool: once its ports are closed, none is on
/// its way any more.
const STILL_IN_USE: &str = "DPDK is still in use by";

/// How long the generation has to stay the same.
const SETTLE_PAUSE: Duration = Duration::from_millis(30);

/// DPDK's memory, in MiB: no hugepages are needed for it.
const MEMORY_MIB: u32 = 256;

/// Connections that a worker can hold in a lab.
const CONNECTION_CAPACITY: u32 = 1 << 16;

/// Where /metrics is served, on the director's own loopback.
const METRICS_PORT: u16 = 9190;

/// A daemon that runs. Dropped, it is killed.
pub struct DirectorProcess {
    process: Process,
    host: Host,
    socket: PathBuf,
    dr_ctl: PathBuf,
    dissection: Option<Dissection>,
}

/// A configuration for a daemon on `host`: small, without hugepages, no port and no service yet.
pub fn configuration(host: &Host, workers: u16) -> Config {
    let cpus = allowed_cpus();
    // The control thread has the first CPU, the workers the last ones; with too few CPUs they share.
    let worker_cpus = cpus.iter().rev().copied().cycle().take(workers.into()).collect();
    Config {
        director: DirectorConfig {
            worker_cpus,
            control_cpus: cpus.first().copied().into_iter().collect(),
            hugepages: Hugepages::Off,
            memory_mib: MEMORY_MIB,
            connection_capacity_per_worker: CONNECTION_CAPACITY,
            control_socket: control_socket(host),
            metrics_listen: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
            ..DirectorConfig::default()
        },
        ..Config::default()
    }
}

/// What a lab's daemon is given in the table `director`.
const KEYS: [&str; 7] = [
    "worker_cpus",
    "control_cpus",
    "hugepages",
    "memory_mib",
    "connection_capacity_per_worker",
    "control_socket",
    "metrics_listen",
];

/// The table `director` of [`configuration`] as a user would write it, to be continued: what is as by default stays away.
pub fn text(host: &Host, workers: u16) -> Result<String> {
    let table = toml::Table::try_from(configuration(host, workers).director)?;
    let mut text = String::from("[director]\n");
    for key in KEYS {
        let value = table.get(key).with_context(|| format!("no {key}"))?;
        text.push_str(&format!("{key} = {value}\n"));
    }
    Ok(text)
}

/// Where the control socket of a daemon on `host` is.
pub fn control_socket(host: &Host) -> PathBuf {
    host.directory().join("control.sock")
}

/// A port of a configuration, with the schema's defaults for everything else.
pub fn port(name: &str, device: &str, address: Ipv4Addr, prefix_length: u8) -> Result<PortConfig> {
    let text = format!("name = {name:?}\ndevice = {device:?}\naddresses = [\"{address}/{prefix_length}\"]\n");
    Ok(toml::from_str(&text)?)
}

/// CPUs that this process may use.
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

impl DirectorProcess {
    /// Starts the daemon with `config` and waits until its socket answers. The error has what it logged.
    pub fn start(host: &Host, config: &Config) -> Result<DirectorProcess> {
        let file = host.directory().join("director.toml");
        fs::write(&file, toml::to_string(config)?)?;
        Self::start_with_file(host, &file, &config.director.control_socket)
    }

    /// Starts the daemon with the text of a configuration file, whose control socket is [`control_socket`].
    pub fn start_with_text(host: &Host, text: &str) -> Result<DirectorProcess> {
        let file = host.directory().join("director.toml");
        // A file that ends amid a line is taken for a cut one.
        fs::write(&file, format!("{}\n", text.trim_end()))?;
        Self::start_with_file(host, &file, &control_socket(host))
    }

    /// Starts the daemon with a file, which names `socket` as its control socket.
    pub fn start_with_file(host: &Host, file: &Path, socket: &Path) -> Result<DirectorProcess> {
        let process = Process::spawn(daemon(host, file)?, "dr-director", host.directory())?;
        let mut director = DirectorProcess {
            process,
            host: host.clone(),
            socket: socket.to_owned(),
            dr_ctl: binary("dr-ctl")?,
            dissection: None,
        };
        wait::until("an answer on dr-director's control socket", || {
            if let Some(status) = director.process.ended()? {
                bail!("dr-director ended at its start with {status}:\n{}", director.log());
            }
            Ok(director.status().ok().map(drop))
        })
        .map_err(|error| anyhow!("{error:#}\ndr-director's log:\n{}", director.log()))?;
        Ok(director)
    }

    /// What it sends is judged at [`DirectorProcess::finish`] by a dissection that was started before it.
    pub fn dissected_by(self, dissection: Dissection) -> DirectorProcess {
        DirectorProcess { dissection: Some(dissection), ..self }
    }

    /// Process id of the daemon.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A command line of `dr-ctl` to this daemon.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.dr_ctl);
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }

    /// Runs `dr-ctl`, whatever comes of it.
    pub fn ctl_output(&self, arguments: &[&str]) -> Result<Output> {
        process::output(&mut self.ctl_command(arguments))
    }

    /// Runs `dr-ctl` and returns what it printed; a failure is an error. A change is in force afterwards.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ctl_output(arguments)?;
        let (printed, said) = (process::text(&output.stdout), process::text(&output.stderr));
        ensure!(
            output.status.success() || was_late(&self.socket, &output)?,
            "dr-ctl {arguments:?}: {}\n{printed}{said}",
            output.status
        );
        Ok(printed)
    }

    /// Runs `dr-ctl`, which must fail, and returns its exit code and what it printed as error.
    pub fn ctl_refused(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.ctl_output(arguments)?;
        let code = output.status.code().unwrap_or(-1);
        ensure!(code > 0, "dr-ctl {arguments:?} did not fail: {}", process::text(&output.stdout));
        Ok((code, process::text(&output.stderr)))
    }

    /// What `dr-ctl --json` prints.
    pub fn ctl_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ctl(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("dr-ctl --json {arguments:?} printed:\n{text}"))
    }

    /// `dr-ctl show`.
    pub fn show(&self) -> Result<Show> {
        Ok(serde_json::from_value(self.ctl_json(&["show"])?)?)
    }

    /// `dr-ctl stats`.
    pub fn stats(&self) -> Result<Stats> {
        Ok(serde_json::from_value(self.ctl_json(&["stats"])?)?)
    }

    /// `dr-ctl status`.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.ctl_json(&["status"])?)?)
    }

    /// `dr-ctl neighbours`.
    pub fn neighbours(&self) -> Result<Neighbours> {
        Ok(serde_json::from_value(self.ctl_json(&["neighbours"])?)?)
    }

    /// One request line over the socket itself, and the answer.
    pub fn request(&self, line: &str) -> Result<Value> {
        request(&self.socket, line)
    }

    /// Waits until every worker has taken the newest change.
    pub fn wait_until_in_force(&self) -> Result<()> {
        wait_until_in_force(&self.socket)
    }

    /// Memory of the daemon that is in RAM, in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The text of /metrics.
    pub fn metrics(&self) -> Result<String> {
        let url = format!("http://127.0.0.1:{METRICS_PORT}/metrics");
        self.host.run(&[
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            &HANGS.as_secs().to_string(),
            &url,
        ])
    }

    /// Waits until `count` real servers get connections, and every worker knows it.
    pub fn wait_until_up(&self, count: usize) -> Result<()> {
        let mut generation = None;
        wait::until(&format!("{count} real servers up"), || {
            let status = self.status()?;
            let is_settled = generation.replace(status.generation) == Some(status.generation);
            if status.real_servers_up as usize >= count && is_settled {
                let is_running = |worker: &WorkerStats| worker.generation == status.generation;
                return Ok(self.stats()?.workers.iter().all(is_running).then_some(()));
            }
            // A MAC address that the control thread has heard is given to the workers a few milliseconds later, with
            // the others of that time.
            std::thread::sleep(SETTLE_PAUSE);
            Ok(None)
        })
        .map_err(|error| anyhow!("{error:#}\n{:#?}\n{:#?}", self.show(), self.neighbours()))
    }

    /// Sends a signal and returns how long the daemon took to end, and how it ended. A packet buffer that was not given back
    /// until then is an error.
    pub fn stop(mut self, signal: Signal) -> Result<(Duration, ExitStatus)> {
        let start = Instant::now();
        self.process.signal(signal)?;
        let status = self.process.wait()?;
        let duration = start.elapsed();
        let log = self.log();
        // The driver of AF_XDP keeps those in the rings that it shares with the kernel.
        let file = std::fs::read_to_string(self.host.directory().join("director.toml")).unwrap_or_default();
        let leak = log.lines().find(|line| line.contains(STILL_IN_USE) && !file.contains("net_af_xdp"));
        ensure!(
            leak.is_none(),
            "dr-director did not get back all of its buffers: {}",
            leak.unwrap_or_default()
        );
        Ok((duration, status))
    }

    /// SIGTERM; an end that is not clean is an error. How long it took.
    pub fn terminate(self) -> Result<Duration> {
        let (duration, status) = self.stop(Signal::SIGTERM)?;
        ensure!(status.success(), "dr-director ended with {status}");
        Ok(duration)
    }

    /// The end of a test: the law of conservation, [`DirectorProcess::terminate`], then tshark on all that it sent.
    pub fn finish(mut self) -> Result<()> {
        self.assert_conservation()?;
        let dissection = self.dissection.take();
        self.terminate()?;
        dissection.map_or(Ok(0), Dissection::finish).map(drop)
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.kill_in_place()
    }

    /// SIGKILL, for whoever keeps it in order to replace it.
    pub fn kill_in_place(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// The law of conservation, for each worker and all together, and against what the ports' drivers counted; and of packet
    /// buffers, which are back in their pool.
    ///
    /// Exact, so it needs quiet: a frame that is between two counters when they are read is given a moment to arrive.
    pub fn assert_conservation(&self) -> Result<PacketTotals> {
        let mut last = String::new();
        wait::until("the law of conservation to hold", || {
            let stats = self.stats()?;
            match conservation(&stats).and_then(|()| buffers(&self.status()?, &stats.totals)) {
                Ok(()) => Ok(Some(stats.totals)),
                Err(error) => {
                    last = error.to_string();
                    Ok(None)
                }
            }
        })
        .map_err(|error| anyhow!("{error:#}: {last}"))
    }
}

/// One request line over a daemon's control socket, and the answer.
pub fn request(socket: &Path, line: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(HANGS))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).with_context(|| format!("not an answer: {answer}"))
}

/// Whether a command of `dr-ctl` or `ipvsadm` failed only because a worker was late to take its change. If so, the change
/// is in force now.
pub fn was_late(socket: &Path, output: &Output) -> Result<bool> {
    let is_late = process::text(&output.stderr).contains(NOT_IN_FORCE);
    if is_late {
        wait_until_in_force(socket)?;
    }
    Ok(is_late)
}

fn wait_until_in_force(socket: &Path) -> Result<()> {
    let result = |verb: &str| -> Result<Value> {
        let line = json!({ "version": ctl::protocol::VERSION, "verb": verb });
        Ok(request(socket, &line.to_string())?["result"].take())
    };
    wait::until("a change that is in force", || {
        let newest = serde_json::from_value::<Status>(result("status")?)?.generation;
        let stats: Stats = serde_json::from_value(result("stats")?)?;
        Ok(stats.workers.iter().all(|worker| worker.generation >= newest).then_some(()))
    })
}

/// The daemon's command line on a host.
pub fn daemon(host: &Host, file: &Path) -> Result<Command> {
    let mut command = match uml::captures_directory() {
        // There is one CPU, and a worker that polls must leave it to whoever has something to do.
        Some(_) => {
            let mut command = host.command("chrt");
            command.args(["--idle", "0"]).arg(binary("dr-director")?);
            command
        }
        None => host.command(binary("dr-director")?),
    };
    command.arg("--config").arg(file);
    // DPDK's runtime files go where the network's are, so that they are removed with it even after kill -9.
    command.env("RUNTIME_DIRECTORY", host.directory());
    Ok(command)
}

/// Says where the counters disagree.
pub fn conservation(stats: &Stats) -> Result<()> {
    let balance = |what: &str, packets: &PacketTotals| {
        let PacketTotals {
            received,
            taken_over,
            forwarded,
            punted,
            to_host,
            handed_over,
            fragments_held,
            originated: _,
            ref drops,
        } = *packets;
        let dropped: u64 = drops.values().sum();
        let (came, went) =
            (received + taken_over, forwarded + punted + to_host + handed_over + dropped + fragments_held);
        ensure!(
            came == went,
            "{what}: received {received} + taken over {taken_over} but forwarded {forwarded} + punted {punted} + to the \
             host {to_host} + handed over {handed_over} + dropped {dropped} + fragments held {fragments_held} = {went}"
        );
        Ok(())
    };
    for worker in &stats.workers {
        balance(&format!("worker {}", worker.worker), &worker.packets)?;
    }
    let totals = &stats.totals;
    balance("all workers", totals)?;
    let sum = stats.workers.iter().fold(PacketTotals::default(), |sum, worker| add(sum, &worker.packets));
    ensure!(sum == *totals, "the workers' sum is {sum:?}, the totals say {totals:?}");
    ensure!(
        totals.handed_over == totals.taken_over,
        "{} packets were handed over, {} taken over",
        totals.handed_over,
        totals.taken_over
    );
    let from_ports: u64 = stats.ports.iter().map(|port| port.rx_packets).sum();
    ensure!(
        from_ports == stats.totals.received,
        "the ports delivered {from_ports}, the workers received {}",
        stats.totals.received
    );
    Ok(())
}

/// Says whether packet buffers are missing while nothing is on its way. Rings of af_packet are the kernel's; those of other
/// drivers hold buffers, and what is missing there is told at the end ([`DirectorProcess::stop`]).
fn buffers(status: &Status, totals: &PacketTotals) -> Result<()> {
    let has_no_rings = status.ports.iter().all(|port| port.device.starts_with("net_af_packet"));
    ensure!(
        !has_no_rings || u64::from(status.buffers_in_use) == totals.fragments_held,
        "{} packet buffers are in use, {} fragments are held",
        status.buffers_in_use,
        totals.fragments_held
    );
    Ok(())
}

fn add(mut sum: PacketTotals, packets: &PacketTotals) -> PacketTotals {
    sum.received += packets.received;
    sum.taken_over += packets.taken_over;
    sum.forwarded += packets.forwarded;
    sum.punted += packets.punted;
    sum.to_host += packets.to_host;
    sum.handed_over += packets.handed_over;
    sum.fragments_held += packets.fragments_held;
    sum.originated += packets.originated;
    for (reason, count) in &packets.drops {
        *sum.drops.entry(reason.clone()).or_insert(0) += count;
    }
    sum
}

/// A binary of this workspace: beside the program that runs, or in `DR_BIN_DIR`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("DR_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => target_directory()?,
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is missing: build it with `cargo build --workspace --bins` (for the release profile with `--release`), \
         or set DR_BIN_DIR to the directory that has it",
        path.display()
    );
    Ok(path)
}

/// `target/<profile>`: where this program is, or above it where tests are.
fn target_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().context("the program has no directory")?;
    let is_test = directory.file_name().is_some_and(|name| name == "deps");
    Ok(if is_test { directory.parent().unwrap_or(directory) } else { directory }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One worker's packets, all of which came from one port.
    fn stats(packets: &PacketTotals, from_ports: u64) -> Stats {
        let mut worker = serde_json::json!({ "worker": 0, "cpu": 1, "control_frames_sent": 1, "connections": 1,
            "connection_capacity": 8, "generation": 1, "stateless": {} });
        let counted = serde_json::to_value(packets).unwrap();
        worker.as_object_mut().unwrap().append(&mut counted.as_object().unwrap().clone());
        let port = serde_json::json!({ "port": "lan", "link_is_up": true, "rx_packets": from_ports, "rx_bytes": 0,
            "tx_packets": 0, "tx_bytes": 0, "rx_missed": 0, "rx_errors": 0, "rx_no_mbuf": 0, "tx_errors": 0 });
        let (worker, port) = (serde_json::from_value(worker).unwrap(), serde_json::from_value(port).unwrap());
        Stats { services: Vec::new(), totals: packets.clone(), workers: vec![worker], ports: vec![port] }
    }

    fn packets() -> PacketTotals {
        PacketTotals {
            received: 20,
            taken_over: 4,
            forwarded: 5,
            punted: 2,
            to_host: 6,
            handed_over: 4,
            fragments_held: 3,
            originated: 7,
            drops: [("truncated".to_owned(), 4), ("not_local".to_owned(), 0)].into(),
        }
    }

    #[test]
    fn conservation_holds_exactly_or_says_where_not() {
        assert!(conservation(&stats(&packets(), 20)).is_ok());
        let off_by_one: [fn(&mut PacketTotals); 7] = [
            |packets| packets.received += 1,
            |packets| packets.taken_over += 1,
            |packets| packets.forwarded += 1,
            |packets| packets.punted += 1,
            |packets| packets.to_host += 1,
            |packets| packets.handed_over += 1,
            |packets| packets.fragments_held += 1,
        ];
        for change in off_by_one {
            let mut packets = packets();
            change(&mut packets);
            let error = conservation(&stats(&packets, packets.received)).unwrap_err().to_string();
            assert!(error.starts_with("worker 0: received 2"), "{error}");
        }
        let refused = |stats: &Stats, what: &str| {
            let error = conservation(stats).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        refused(&stats(&packets(), 21), "ports delivered 21");
        let mut torn = stats(&packets(), 20);
        torn.totals.forwarded += 1;
        torn.totals.punted -= 1;
        refused(&torn, "the workers' sum");
        // One frame is between two workers: each of them is in balance.
        let mut between = packets();
        (between.received, between.handed_over) = (21, 5);
        refused(&stats(&between, 21), "5 packets were handed over, 4 taken over");
    }

    #[test]
    fn binary_that_is_missing_says_how_to_build_it() {
        let error = binary("dr-nonesuch").unwrap_err().to_string();
        assert!(error.contains("cargo build --workspace --bins"), "{error}");
    }
}
