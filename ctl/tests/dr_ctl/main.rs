//! The `dr-ctl` binary as scripts see it: exit codes, what is on the standard output and error, and what becomes of it
//! when the daemon misbehaves. The daemon here is a stand-in that answers what a test says.

mod drains_and_batches;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_dr-ctl");

const GOOD: &str = r#"[[ports]]
name = "lan0"
device = "net_af_packet0,iface=eth1"
addresses = ["10.0.0.1/24"]

[[services]]
protocol = "tcp"
address = "192.0.2.10"
port = 80
scheduler = "wrr"

[[services.real_servers]]
address = "10.0.0.11"
weight = 2
"#;

struct Run {
    code: i32,
    output: String,
    errors: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code().expect("no signal ended it"),
            output: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("DR_CONTROL_SOCKET").stdin(Stdio::null());
    command
}

fn dr_ctl(arguments: &[&str]) -> Run {
    command(arguments).output().unwrap().into()
}

/// Runs it against a socket.
fn dr_ctl_at(socket: &Path, arguments: &[&str]) -> Run {
    command(arguments).env("DR_CONTROL_SOCKET", socket).output().unwrap().into()
}

/// A folder with one file.
fn file(text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// A stand-in for the daemon. It does `answer` with every connection.
fn daemon(answer: impl Fn(UnixStream) + Send + 'static) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
    (folder, path)
}

fn read_request(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// A stand-in that gives one answer to every request, and hands the requests on.
fn daemon_that_answers(answer: String) -> (TempDir, PathBuf, mpsc::Receiver<Value>) {
    let (sender, requests) = mpsc::channel();
    let (folder, path) = daemon(move |mut stream| {
        let request = read_request(&stream);
        let _ = sender.send(serde_json::from_str(&request).unwrap_or(Value::Null));
        let _ = stream.write_all(answer.as_bytes());
    });
    (folder, path, requests)
}

fn result(value: Value) -> String {
    format!("{}\n", json!({ "version": 1, "generation": 7, "result": value }))
}

fn refusal(code: &str) -> String {
    let error = json!({ "code": code, "message": "what went wrong", "help": "what to do" });
    format!("{}\n", json!({ "version": 1, "error": error }))
}

#[test]
fn a_wrong_command_line_exits_with_2_and_says_what_is_wrong() {
    for (arguments, words) in [
        (&["add-vip", "tcp", "192.0.2.10"][..], "a VIP and a port are wanted, such as 192.0.2.10:80"),
        (&["add-vip", "tcp", "192.0.2.10:65536"], "port 65536 is over 65535: give a port from 1 to 65535"),
        (
            &["add-vip", "tcp", "192.0.2.10:80", "--scheduler-flags", "sh-port"],
            "`sh-port` is a flag of the scheduler sh",
        ),
        (&["show", "tcp", "web"], "a VIP and a port are wanted, such as 192.0.2.10:80"),
        (&["add-vip", "tcp", "192.0.2.10:80", "--scheduler", "wrrr"], "a similar value exists: 'wrr'"),
        (
            &["add-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--weight", "70000"],
            "70000 is over 65535: give a whole number",
        ),
        (&["add-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--mac", "x"], "`x` is not a unicast MAC address"),
        (
            &["add-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--weight", "-1"],
            "-1 is under 0: give a whole number",
        ),
        (&["add-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--weight", "1.5"], "`1.5` is no whole number"),
        (&["set-rs", "tcp", "192.0.2.10:80", "10.0.0.11"], "required"),
        (&["shwo"], "a similar subcommand exists: 'show'"),
        (&["show", "tcp"], "required"),
        (&[], "Usage: dr-ctl"),
    ] {
        let run = dr_ctl(arguments);
        assert_eq!(run.code, 2, "{arguments:?}");
        assert!(run.errors.contains(words) && run.output.is_empty(), "{arguments:?}: {}", run.errors);
    }
    for (vip, flags) in [("192.0.2.10:65536", "sh-port"), ("192.0.2.10:80", "sh-port")] {
        let run = dr_ctl(&["add-vip", "tcp", vip, "--scheduler-flags", flags, "--json"]);
        let error: Value = serde_json::from_str(&run.errors).unwrap();
        assert_eq!((run.code, &error["error"]["code"]), (2, &json!("usage")));
    }
}

#[test]
fn help_names_every_exit_code_as_the_page_does() {
    let run = dr_ctl(&["--help"]);
    assert_eq!(run.code, 0);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md")).unwrap();
    let codes: Vec<&str> = run.output.split("Exit codes:\n").nth(1).unwrap().lines().collect();
    assert_eq!(codes.len(), 11);
    for (number, line) in codes.iter().enumerate() {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        assert_eq!(code, number.to_string());
        assert!(page.contains(&format!("\n| {code} | {meaning} |\n")), "{line}");
    }
}

#[test]
fn every_code_of_the_daemon_has_its_exit_code() {
    for (code, exit) in [
        ("bad_request", 9),
        ("wrong_version", 9),
        ("not_found", 3),
        ("exists", 4),
        ("invalid", 5),
        ("full", 5),
        ("denied", 7),
        ("timeout", 8),
        ("internal", 1),
    ] {
        let (_folder, socket, _) = daemon_that_answers(refusal(code));
        let run = dr_ctl_at(&socket, &["del-vip", "tcp", "192.0.2.10:80"]);
        assert_eq!(run.code, exit, "{code}");
        assert_eq!(run.errors, "error: what went wrong\nhelp: what to do\n");
        assert_eq!(run.output, "");
        let run = dr_ctl_at(&socket, &["del-vip", "tcp", "192.0.2.10:80", "--json"]);
        assert_eq!(run.code, exit, "{code}");
        let error: Value = serde_json::from_str(&run.errors).unwrap();
        assert_eq!(
            error,
            json!({ "error": { "code": code, "message": "what went wrong", "help": "what to do" } })
        );
    }
}

#[test]
fn a_change_is_printed_line_by_line_or_as_json() {
    let changed = json!({ "changes": ["added virtual service tcp 192.0.2.10:80, wrr"] });
    let (_folder, socket, requests) = daemon_that_answers(result(changed.clone()));
    let arguments = ["add-vip", "tcp", "192.0.2.10:80", "--scheduler", "wrr"];
    let run = dr_ctl_at(&socket, &arguments);
    assert_eq!((run.code, run.errors.as_str()), (0, ""));
    assert_eq!(run.output, "added virtual service tcp 192.0.2.10:80, wrr\n");
    let request = requests.recv().unwrap();
    assert_eq!((&request["version"], &request["verb"]), (&json!(1), &json!("add-vip")));

    let run = dr_ctl_at(&socket, &[&arguments[..], &["--json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&run.output).unwrap(), changed);

    let (_folder, socket, _) = daemon_that_answers(result(json!({ "changes": [] })));
    assert_eq!(dr_ctl_at(&socket, &arguments).output, "no changes\n");
}

#[test]
fn the_socket_option_comes_before_the_environment() {
    let (_folder, socket, _) = daemon_that_answers(result(json!({ "services": [] })));
    let run = dr_ctl_at(Path::new("/nowhere"), &["show", "--socket", socket.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{}", run.errors);
    assert_eq!(run.output.lines().next(), Some("Protocol VIP:Port Scheduler Flags"));
}

#[test]
fn no_daemon_exits_with_6_and_asks_whether_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    for _ in 0..2 {
        let run = dr_ctl_at(&socket, &["show"]);
        assert_eq!(run.code, 6);
        assert!(
            run.errors.starts_with(&format!("error: {}: cannot connect to dr-director: ", socket.display()))
        );
        assert!(run.errors.contains("\nhelp: is dr-director running? "), "{}", run.errors);
        // The second time: a socket file that nobody listens at.
        let _ = UnixListener::bind(&socket);
    }
    let run = dr_ctl_at(&socket, &["--json", "show"]);
    let error: Value = serde_json::from_str(&run.errors).unwrap();
    assert_eq!(error["error"]["code"], "unreachable");
}

/// Root may use any socket, so as root the tool runs as nobody.
#[test]
fn a_socket_that_one_may_not_use_exits_with_7_and_says_what_to_do() {
    let (folder, socket, _) = daemon_that_answers(result(json!({ "services": [] })));
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
    let binary = folder.path().join("dr-ctl");
    fs::copy(BINARY, &binary).unwrap();
    let mut command = Command::new(binary);
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    } else {
        fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    }
    let run: Run = command.arg("show").env("DR_CONTROL_SOCKET", &socket).output().unwrap().into();
    assert_eq!(run.code, 7, "{}", run.errors);
    assert!(
        run.errors.contains(": you may not use the control socket\nhelp: become root, or join the group ")
    );
}

#[test]
fn a_daemon_that_gives_no_whole_answer_exits_with_8_in_time() {
    const SILENCE: Duration = Duration::from_secs(60);
    let silent = daemon(|stream| {
        read_request(&stream);
        thread::sleep(SILENCE);
    });
    let half = daemon(|mut stream| {
        read_request(&stream);
        stream.write_all(b"{\"version\":1,\"result\":{\"services\":").unwrap();
        thread::sleep(SILENCE);
    });
    for (_folder, socket) in [silent, half] {
        let start = Instant::now();
        let run = dr_ctl_at(&socket, &["show", "--answer-timeout", "1"]);
        assert_eq!(run.code, 8);
        assert!(run.errors.contains("dr-director gave no answer within 1 s\nhelp: "), "{}", run.errors);
        assert!(start.elapsed() < SILENCE);
    }
}

#[test]
fn a_daemon_gone_amid_its_answer_exits_with_6() {
    for half in ["", "{\"version\":1,\"result\":{\"services\":[]}}"] {
        let (_folder, socket, _) = daemon_that_answers(half.to_owned());
        let run = dr_ctl_at(&socket, &["show"]);
        assert_eq!(run.code, 6);
        assert!(run.errors.contains("the connection ended before the answer was whole"), "{}", run.errors);
    }
}

#[test]
fn garbage_and_another_version_exit_with_9() {
    for (answer, words) in [
        ("220 mail.example ESMTP\n", "what came is no answer of dr-director"),
        ("{\"version\":1}\n", "what came is no answer of dr-director"),
        ("{\"version\":1,\"result\":{\"services\":7}}\n", "result of show: "),
        ("{\"version\":2,\"result\":[]}\n", "speaks version 1 of the control protocol, the daemon version 2"),
    ] {
        let (_folder, socket, _) = daemon_that_answers(answer.to_owned());
        let run = dr_ctl_at(&socket, &["show"]);
        assert_eq!((run.code, run.output.as_str()), (9, ""), "{answer}");
        assert!(run.errors.contains(words) && run.errors.contains("\nhelp: "), "{}", run.errors);
    }
}

#[test]
fn an_output_that_nobody_reads_is_no_error() {
    let real_server = |last: u32| {
        json!({ "address": std::net::Ipv4Addr::from(0x0a00_0000 + last), "weight": 1, "state": "up", "mac": null,
                "forwarding": "dr", "interface": "lan0", "active_connections": 0, "inactive_connections": 0, "persistent_connections": 0,
                "upper_threshold": 0, "lower_threshold": 0, "drain_seconds_left": null })
    };
    let real_servers: Vec<Value> = (1..20_000).map(real_server).collect();
    let service = json!({ "service": { "protocol": "tcp", "address": "192.0.2.10", "port": 80, "scheduler": "wrr" },
                          "real_servers": real_servers });
    let (_folder, socket, _) = daemon_that_answers(result(json!({ "services": [service] })));
    for arguments in [&["show"][..], &["show", "--json"]] {
        let mut child = command(arguments)
            .env("DR_CONTROL_SOCKET", &socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let run: Run = child.wait_with_output().unwrap().into();
        assert_eq!((run.code, run.errors.as_str()), (0, ""));
    }
}

#[test]
fn tables_have_no_colour_codes() {
    let (_folder, socket, _) = daemon_that_answers(result(json!({ "services": [] })));
    for arguments in [&["show"][..], &["--help"], &["shwo"]] {
        let run = dr_ctl_at(&socket, arguments);
        assert!(!run.output.contains('\x1b') && !run.errors.contains('\x1b'), "{arguments:?}");
    }
}

#[test]
fn check_needs_no_daemon_and_says_what_the_file_holds() {
    let (_folder, path) = file(GOOD);
    let run = dr_ctl_at(Path::new("/nowhere"), &["check", &path]);
    assert_eq!((run.code, run.errors.as_str()), (0, ""));
    assert_eq!(run.output, format!("{path}: valid: virtual services 1, real servers 1, ports 1\n"));
    let run = dr_ctl(&["check", &path, "--json"]);
    let checked: Value = serde_json::from_str(&run.output).unwrap();
    assert_eq!(checked, json!({ "file": path, "services": 1, "real_servers": 1, "ports": 1 }));

    let services_alone = &GOOD[GOOD.find("[[services]]").unwrap()..];
    let (_folder, path) = file(services_alone);
    let run = dr_ctl(&["check", &path]);
    assert_eq!(run.code, 0);
    assert!(run.output.contains("note: without [[ports]]"), "{}", run.output);
}

#[test]
fn check_refuses_a_bad_file_with_place_line_and_help() {
    for (from, to, error) in [
        (
            "weight = 2",
            "weight = 70000",
            ":14:10: services[0].real_servers[0].weight: 70000 is over 65535\n   |\n14 | weight = 70000\n   |          ^^^^^\n\
             help: give a whole number from 0 to 65535\n",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.9.0.1\"",
            ":13:11: services[0].real_servers[0].address: 10.9.0.1 is in no directly connected network (10.0.0.0/24 on \
             port lan0)\n   |\n13 | address = \"10.9.0.1\"\n   |           ^^^^^^^^^^\n\
             help: give the RS's own address (RIP), in a network of one of the director's ports or behind a route\n",
        ),
        (
            "scheduler = \"wrr\"",
            "scheduler = \"wrrr\"",
            &format!(
                ":10:13: services[0].scheduler: unknown scheduler `wrrr`\n   |\n10 | scheduler = \"wrrr\"\n   |             \
                 ^^^^^^\nhelp: did you mean `wrr`? Known are {}\n",
                scheduler::Algorithm::ALL.map(|algorithm| algorithm.name()).join(", ")
            ),
        ),
        (
            "port = 80\n",
            "port = 80",
            ":9:20: unexpected key or value, expected newline, `#`\n  |\n9 | port = 80scheduler = \"wrr\"\n  |                    ^\n",
        ),
    ] {
        assert!(GOOD.contains(from));
        let (_folder, path) = file(&GOOD.replacen(from, to, 1));
        let run = dr_ctl(&["check", &path]);
        assert_eq!((run.code, run.output.as_str()), (5, ""), "{to}");
        assert_eq!(run.errors, format!("error: {path}{error}"));
    }
}

#[test]
fn check_as_json_lists_every_problem_with_its_line() {
    let (_folder, path) = file(&GOOD.replace("port = 80", "port = 0").replace("10.0.0.11", "192.0.2.10"));
    let run = dr_ctl(&["check", &path, "--json"]);
    assert_eq!((run.code, run.output.as_str()), (5, ""));
    let error: Value = serde_json::from_str(&run.errors).unwrap();
    let expected = json!({ "error": {
        "code": "invalid",
        "message": format!("{path}: 2 problems"),
        "problems": [
            { "code": "invalid", "place": "services[0].port", "line": 9, "column": 8,
              "message": "0 is every port, which a service without persistence cannot have",
              "help": ctl::validate::PORT_HELP },
            { "code": "invalid", "place": "services[0].real_servers[0].address", "line": 13, "column": 11,
              "message": "192.0.2.10 is the VIP of tcp 192.0.2.10:0",
              "help": "give the RS's own address (RIP), in a network of one of the director's ports or behind a route" },
        ],
    } });
    assert_eq!(error, expected);
}

#[test]
fn a_file_that_is_missing_or_no_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for verb in ["check", "apply"] {
        let run = dr_ctl(&[verb, folder.path().join("missing.toml").to_str().unwrap()]);
        assert_eq!(run.code, 3, "{}", run.errors);
        assert!(run.errors.contains("missing.toml: cannot be read: No such file"), "{}", run.errors);
        let run = dr_ctl(&[verb, folder.path().to_str().unwrap()]);
        assert_eq!(run.code, 1, "{}", run.errors);
    }
}

#[test]
fn apply_sends_a_valid_file_and_prints_what_it_changes() {
    let (_files, path) = file(GOOD);
    let change = "changed real server 10.0.0.11 of tcp 192.0.2.10:80, weight 1 to 2";
    let (_folder, socket, requests) = daemon_that_answers(result(json!({ "changes": [change] })));
    let run = dr_ctl_at(&socket, &["apply", &path]);
    assert_eq!((run.code, run.output), (0, format!("{change}\n")), "{}", run.errors);
    let request = requests.recv().unwrap();
    assert_eq!(request["arguments"]["dry_run"], false);
    assert_eq!(request["arguments"]["config"]["services"][0]["real_servers"][0]["weight"], 2);

    let run = dr_ctl_at(&socket, &["apply", &path, "--dry-run"]);
    assert_eq!((run.code, run.output), (0, format!("dry run, nothing was done. This would be:\n{change}\n")));
    assert_eq!(requests.recv().unwrap()["arguments"]["dry_run"], true);

    let (_folder, socket, _) = daemon_that_answers(result(json!({ "changes": [] })));
    for arguments in [&["apply", &path][..], &["apply", &path, "--dry-run"]] {
        assert_eq!(dr_ctl_at(&socket, arguments).output, "no changes\n");
    }
}

#[test]
fn apply_refuses_an_invalid_file_before_it_asks_the_daemon() {
    let (_files, path) = file(&GOOD.replace("port = 80", "port = 0"));
    let (_folder, socket, requests) = daemon_that_answers(result(json!({ "changes": [] })));
    let run = dr_ctl_at(&socket, &["apply", &path]);
    assert_eq!((run.code, run.output.as_str()), (5, ""));
    assert!(run.errors.contains("services[0].port: 0 is every port"), "{}", run.errors);
    assert!(requests.try_recv().is_err());
}

#[test]
fn apply_leaves_capacities_to_the_daemon() {
    let services: String = (0..5000)
        .map(|number| {
            format!("[[services]]\nprotocol = \"tcp\"\naddress = \"192.0.2.10\"\nport = {}\n", number + 1)
        })
        .collect();
    let (_files, path) = file(&services);
    let (_folder, socket, requests) = daemon_that_answers(result(json!({ "changes": [] })));
    let run = dr_ctl_at(&socket, &["apply", &path]);
    assert_eq!(run.code, 0, "{}", run.errors);
    assert_eq!(requests.recv().unwrap()["arguments"]["config"]["services"].as_array().unwrap().len(), 5000);
    assert_eq!(dr_ctl(&["check", &path]).code, 5);
}

#[test]
fn apply_and_check_read_the_standard_input() {
    let (_folder, socket, _) = daemon_that_answers(result(json!({ "changes": [] })));
    for (verb, text, code, words) in [
        ("apply", GOOD, 0, "no changes"),
        ("check", GOOD, 0, "<stdin>: valid"),
        ("check", "ports = 3\n", 5, "error: <stdin>:1:9: ports: "),
    ] {
        let mut child = command(&[verb, "-"])
            .env("DR_CONTROL_SOCKET", &socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let run: Run = child.wait_with_output().unwrap().into();
        assert_eq!(run.code, code, "{}", run.errors);
        assert!((run.output + &run.errors).contains(words), "{verb}");
    }
}

#[test]
fn save_writes_a_file_that_check_takes_and_apply_reads() {
    let config: Value = serde_json::to_value(ctl::config::Config::from_toml(GOOD, "good").unwrap()).unwrap();
    let (folder, socket, _) = daemon_that_answers(result(config.clone()));
    let path = folder.path().join("saved.toml");
    let path = path.to_str().unwrap();
    let run = dr_ctl_at(&socket, &["save", path]);
    assert_eq!((run.code, run.output), (0, format!("saved to {path}\n")), "{}", run.errors);
    let printed = dr_ctl_at(&socket, &["save"]);
    assert_eq!((printed.code, &printed.output), (0, &fs::read_to_string(path).unwrap()));
    assert_eq!(dr_ctl(&["check", path]).code, 0);
    let read = ctl::config::Config::load(Path::new(path)).unwrap();
    assert_eq!(read, ctl::config::Config::from_toml(GOOD, "good").unwrap());
    let as_json = dr_ctl_at(&socket, &["save", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&as_json.output).unwrap(), config);
}

#[test]
fn save_that_fails_leaves_the_old_file() {
    let (_files, path) = file("# mine\n");
    let (_folder, socket, _) = daemon_that_answers(refusal("internal"));
    assert_eq!(dr_ctl_at(&socket, &["save", &path]).code, 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\n");
    let config = serde_json::to_value(ctl::config::Config::default()).unwrap();
    let (folder, socket, _) = daemon_that_answers(result(config));
    let run = dr_ctl_at(&socket, &["save", folder.path().join("missing/lb.toml").to_str().unwrap()]);
    assert_eq!(run.code, 3);
    assert!(run.errors.contains("cannot be written"), "{}", run.errors);
}

#[test]
fn a_file_cut_anywhere_is_checked_without_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    // Every byte of it is tried in the library's tests; here, the binary at every seventh.
    for end in (0..GOOD.len()).step_by(7) {
        fs::write(&path, &GOOD[..end]).unwrap();
        let run = dr_ctl(&["check", path.to_str().unwrap()]);
        assert!(matches!(run.code, 0 | 5), "{end}: {}", run.errors);
        assert!(
            run.code == 0 || run.errors.starts_with(&format!("error: {}:", path.display())),
            "{}",
            run.errors
        );
    }
}

#[test]
fn completions_and_man_pages_are_made_for_every_verb() {
    let help = dr_ctl(&["--help"]).output;
    let verbs: Vec<&str> = help
        .split("Commands:\n")
        .nth(1)
        .unwrap()
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap())
        .filter(|verb| *verb != "help")
        .collect();
    assert_eq!(verbs.len(), 27);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = dr_ctl(&["completions", shell]);
        assert_eq!(run.code, 0);
        assert!(verbs.iter().all(|verb| run.output.contains(verb)), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    assert_eq!(dr_ctl(&["man", "--dir", pages.to_str().unwrap()]).code, 0);
    for page in verbs.iter().map(|verb| format!("dr-ctl-{verb}.1")).chain(["dr-ctl.1".to_owned()]) {
        let text = fs::read_to_string(pages.join(&page)).expect(&page);
        assert!(text.contains(".SH NAME") && text.len() > 300, "{page}");
    }
    assert_eq!(fs::read_dir(&pages).unwrap().count(), verbs.len() + 1);
    assert_eq!(dr_ctl(&["man"]).output, fs::read_to_string(pages.join("dr-ctl.1")).unwrap());
}

#[test]
fn connections_are_counted_alone_where_asked() {
    let (_folder, socket, requests) =
        daemon_that_answers(result(json!({ "matching": 12, "connections": [] })));
    let run = dr_ctl_at(&socket, &["connections", "group", "web", "--count"]);
    assert_eq!((run.code, run.output.as_str()), (0, "12\n"));
    let arguments = &requests.recv().unwrap()["arguments"];
    assert_eq!((&arguments["limit"], &arguments["service"]), (&json!(0), &json!({ "group": "web" })));
}

#[test]
fn ipvsadm_heeds_the_answer_timeout_and_has_no_json() {
    let (_folder, socket) = daemon(std::mem::forget);
    let start = Instant::now();
    let run = dr_ctl_at(&socket, &["--answer-timeout", "1", "ipvsadm", "-C"]);
    assert!(run.errors.contains("gave no answer within 1 s"), "{}", run.errors);
    assert!(run.code == 255 && start.elapsed() < Duration::from_secs(9));
    let run = dr_ctl_at(&socket, &["--json", "ipvsadm", "-C"]);
    let error: Value = serde_json::from_str(&run.errors).unwrap();
    assert_eq!((run.code, &error["error"]["code"]), (2, &json!("usage")));
}

#[test]
fn a_link_called_by_its_path_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("ipvsadm");
    std::os::unix::fs::symlink(BINARY, &link).unwrap();
    let run: Run = Command::new(&link).arg("word").output().unwrap().into();
    let link = link.display();
    let text = format!("Try `{link} -h' or '{link} --help' for more information.\n");
    assert_eq!((run.code, run.errors), (255, text));
}

#[test]
fn a_link_named_ipvsadm_is_ipvsadm() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(BINARY, &link).unwrap();
        let output = Command::new(link).arg("--no-such-option").stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!errors.contains("Usage: dr-ctl"), "{name}: {errors}");
    }
}

/// With a daemon that is not there, or a file: all but the command line fails.
#[test]
fn every_example_of_the_page_is_a_command_line() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md")).unwrap();
    let block = page.split("## dr-ctl\n").nth(1).unwrap().split("```sh\n").nth(1).unwrap();
    let lines = block.split("```").next().unwrap().lines().filter_map(|line| line.strip_prefix("dr-ctl "));
    // Those print, write outside of any folder of this test, or have a reader of their own.
    let tested =
        lines.filter(|line| !["completions", "man", "ipvsadm"].iter().any(|verb| line.starts_with(verb)));
    let mut count = 0;
    for line in tested {
        let line = line.split('#').next().unwrap();
        let run = dr_ctl_at(Path::new("/nowhere/control.sock"), &line.split_whitespace().collect::<Vec<_>>());
        assert!(matches!(run.code, 3 | 6), "{line}: {}", run.errors);
        count += 1;
    }
    assert!(count > 25, "{count}");
}
