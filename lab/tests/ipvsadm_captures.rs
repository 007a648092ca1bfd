//! Every recorded run of the real ipvsadm (lab/differential/ipvsadm) again, by a shell and with our tool under ipvsadm's
//! names, against a director that runs. What comes out otherwise is listed here, by the row of docs/IPVSADM.md that says
//! so. `ctl/tests/ipvsadm` compares the same without a daemon.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ctl::config::Ipv6;
use lab::{DirectorProcess, Lab, director, process};

/// Captures that come out otherwise, by their names or the beginnings of their names (`*`), and the words of
/// docs/IPVSADM.md under “Different from ipvsadm” that say why.
const DIFFERENT: &[(&str, &[&str])] = &[
    (
        "| RIP 127.0.0.0/8, ::1 or the director's own |",
        &["list-kinds-*", "list-one-service-tun-info", "restore-saved-listed"],
    ),
    ("| `-m -r host:0` of a service that has a port |", &["server-before-service-port-0"]),
    ("| `--start-daemon` |", &["daemon-start-unknown-interface"]),
    (
        "| VIP 0.0.0.0/8 (so `-t 80:80` too),",
        &["error-address-digits-port", "service-address-any", "service-address-multicast"],
    ),
    ("| `--pe sip` or `-M` without `-p` |", &["pe-without-persistence-saved"]),
    (
        "| `-R`, `ipvsadm-restore` | line by line;",
        &[
            "restore-error-goes-on",
            "restore-error-goes-on-listed",
            "restore-restore",
            "restore-unexpected-argument",
            "restore-unknown-word",
            "restore-usage-error",
        ],
    ),
    ("| comments in `-R` |", &["restore-leading-word-blank-and-comment", "restore-leading-word-listed"]),
    (
        "| `-S` of a mark over 2147483647 |",
        &["restore-fwmark-over-int-max", "restore-fwmark-over-int-max-listed"],
    ),
    ("| `-f N -r host:port` with a port |", &["server-port-fwmark"]),
    ("| `-s none` |", &["scheduler-none"]),
];

/// Lines that need the kernel's interfaces, or look into it: with traffic the tool is tested in lab/tests/ipvsadm.rs.
const OF_THE_KERNEL: [&str; 3] = ["ip ", "nft ", "cat "];

/// One recorded run: the lines before the last set up what it meets.
struct Recorded {
    name: String,
    commands: String,
    printed: Printed,
}

#[derive(Debug, PartialEq, Eq)]
struct Printed {
    exit_code: i32,
    stdout: String,
    stderr: String,
}

/// The captures without those of traffic.
fn recorded() -> Result<Vec<Recorded>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("differential/ipvsadm");
    let mut all = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "cmds") {
            continue;
        }
        let commands = fs::read_to_string(&path)?;
        let is_of_the_kernel = |line: &str| OF_THE_KERNEL.iter().any(|command| line.starts_with(command));
        if commands.lines().any(is_of_the_kernel) {
            continue;
        }
        let output = fs::read_to_string(path.with_extension("out"))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let printed = read(&output).with_context(|| format!("{name}.out"))?;
        all.push(Recorded { name, commands, printed });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn read(output: &str) -> Result<Printed> {
    let (exit, rest) = output.split_once('\n').context("no line")?;
    let exit_code = exit.strip_prefix("exit ").context("no exit code")?.parse()?;
    let rest = rest.strip_prefix("--- stdout\n").context("no stdout")?;
    let (stdout, stderr) = rest.split_once("--- stderr\n").context("no stderr")?;
    Ok(Printed { exit_code, stdout: stdout.to_owned(), stderr: stderr.to_owned() })
}

/// A shell that finds our tool under ipvsadm's names, and by it the director.
struct Shell {
    directory: PathBuf,
    socket: PathBuf,
}

impl Shell {
    fn new(lab: &Lab, director: &DirectorProcess) -> Result<Shell> {
        let directory = lab.network().directory().join("ipvsadm");
        fs::create_dir(&directory)?;
        // Whoever is not root must find the tool and the socket: it is the daemon that denies.
        fs::copy(director::binary("dr-ctl")?, directory.join("dr-ctl"))?;
        for name in ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"] {
            symlink("dr-ctl", directory.join(name))?;
        }
        let socket = director.socket().to_owned();
        for path in [&directory, &socket] {
            let is_ours = |path: &&Path| path.starts_with(lab.network().directory());
            for path in path.ancestors().take_while(is_ours).filter(|path| path.is_dir()) {
                fs::set_permissions(path, Permissions::from_mode(0o755))?;
            }
        }
        Ok(Shell { directory, socket })
    }

    fn run(&self, script: &str) -> Result<Printed> {
        let saved = self.directory.join("saved");
        let script = script.replace("/tmp/saved", &saved.to_string_lossy());
        let path = format!("{}:{}", self.directory.display(), std::env::var("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).env("PATH", path).env("DR_CONTROL_SOCKET", &self.socket);
        let output = bash.stdin(Stdio::null()).output().context("no bash")?;
        Ok(Printed {
            exit_code: output.status.code().context("it was killed")?,
            stdout: process::text(&output.stdout),
            stderr: process::text(&output.stderr),
        })
    }
}

/// Ours without what docs/IPVSADM.md says of every run: reasons of our own below ipvsadm's text, the comments that a saved
/// file begins and ends with, and the size of another table.
fn as_ipvsadm(ours: Printed) -> Printed {
    let kept = |text: &str, own: &[&str]| -> String {
        text.split_inclusive('\n').filter(|line| !own.iter().any(|own| line.starts_with(own))).collect()
    };
    let mut stdout = kept(&ours.stdout, &["# dr-director: begin\n", "# dr-director: end\n"]);
    if let Some((before, after)) = stdout.split_once("(size=")
        && let Some((_, after)) = after.split_once(')')
    {
        stdout = format!("{before}(size=4096){after}");
    }
    Printed { stdout, stderr: kept(&ours.stderr, &["dr-director: "]), ..ours }
}

fn is_listed(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[test]
fn every_recorded_run_of_ipvsadm_comes_out_the_same_or_as_the_page_says() -> Result<()> {
    let lab = Lab::builder().real_servers(0).build()?;
    let mut config = lab.configuration()?;
    // That of the captures' IPv6 real servers.
    config.director.ipv6 = Ipv6::On;
    config.ports[0].addresses.push("2001:db8:1::1/48".parse()?);
    let director = lab.start_director(&config)?;
    let shell = Shell::new(&lab, &director)?;
    let nothing = lab.network().directory().join("nothing.toml");
    fs::write(&nothing, "services = []\n\n[connections]\n")?;
    let nothing = nothing.to_str().context("not a path")?;
    let (mut same, mut wrong) = (0, Vec::new());
    let recorded = recorded()?;
    for Recorded { name, commands, printed } in &recorded {
        director.ctl(&["apply", nothing])?;
        let (setup, last) = commands.trim_end().rsplit_once('\n').unwrap_or(("", commands));
        shell.run(setup)?;
        let ours = as_ipvsadm(shell.run(last)?);
        let listed = DIFFERENT.iter().find(|(_, names)| names.iter().any(|one| is_listed(name, one)));
        match (ours == *printed, listed) {
            (true, None) => same += 1,
            (false, Some(_)) => {}
            (true, Some((why, _))) => wrong.push(format!("{name} differs no more: {why}")),
            (false, None) => wrong.push(format!("{name}: {last}\n  ipvsadm {printed:?}\n  ours    {ours:?}")),
        }
    }
    ensure!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), recorded.len(), wrong.join("\n"));
    ensure!(same >= 200, "only {same} of {} were the same", recorded.len());
    director.finish()
}

#[test]
fn every_listed_difference_is_on_the_page_and_of_a_capture() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/IPVSADM.md"))?;
    let (_, section) = page.split_once("## Different from ipvsadm").context("no section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let recorded = recorded()?;
    for (why, names) in DIFFERENT {
        ensure!(section.contains(why), "docs/IPVSADM.md does not say: {why}");
        for name in *names {
            ensure!(recorded.iter().any(|one| is_listed(&one.name, name)), "there is no capture {name}");
        }
    }
    Ok(())
}
