//! Verbs that take more than one change or more than one answer: `drain-rs --wait`, `batch`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A stand-in that gives one answer after another, the last one again and again.
fn daemon_that_answers_in_turn(answers: Vec<String>) -> (TempDir, PathBuf, mpsc::Receiver<Value>) {
    let (sender, requests) = mpsc::channel();
    let turn = AtomicUsize::new(0);
    let (folder, path) = daemon(move |mut stream| {
        let request = read_request(&stream);
        let _ = sender.send(serde_json::from_str(&request).unwrap_or(Value::Null));
        let number = turn.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
        let _ = stream.write_all(answers[number].as_bytes());
    });
    (folder, path, requests)
}

fn shown(real_servers: &[Value]) -> String {
    let service = json!({ "protocol": "tcp", "address": "192.0.2.10", "port": 80 });
    result(json!({ "services": [{ "service": service, "real_servers": real_servers }] }))
}

fn draining(active: u32, seconds_left: Option<u64>) -> Value {
    let with_deadline = json!({ "until_unix_seconds": 4_102_444_800_u64, "keep_persistent": true });
    let drain = seconds_left.map_or(json!(true), |_| with_deadline);
    drained_as(&drain, active, seconds_left)
}

fn drained_as(drain: &Value, active: u32, seconds_left: Option<u64>) -> Value {
    json!({ "address": "10.0.0.11", "weight": 1, "state": "draining", "mac": null, "forwarding": "dr", "interface": "lan0",
            "active_connections": active, "inactive_connections": 0, "persistent_connections": 2,
            "upper_threshold": 0, "lower_threshold": 0, "drain": drain, "drain_seconds_left": seconds_left })
}

const DRAIN: [&str; 4] = ["drain-rs", "tcp", "192.0.2.10:80", "10.0.0.11"];

#[test]
fn a_drain_with_a_deadline_is_waited_for_until_the_real_server_is_gone() {
    let changed = result(json!({ "changes": ["draining real server 10.0.0.11 of tcp 192.0.2.10:80"] }));
    let answers = vec![
        changed,
        shown(&[draining(3, Some(243))]),
        shown(&[draining(3, Some(242))]),
        shown(&[draining(0, Some(1))]),
        shown(&[]),
    ];
    let (_folder, socket, requests) = daemon_that_answers_in_turn(answers.clone());
    let run = dr_ctl_at(&socket, &[&DRAIN[..], &["--timeout", "5m", "--keep-persistent", "--wait"]].concat());
    assert_eq!((run.code, run.errors.as_str()), (0, ""));
    assert_eq!(
        run.output,
        "draining real server 10.0.0.11 of tcp 192.0.2.10:80\n\
         connections left: 3 active, 0 inactive, 2 persistence templates; it goes in 4m03s at the latest\n\
         connections left: 0 active, 0 inactive, 2 persistence templates\n\
         real server 10.0.0.11 of tcp 192.0.2.10:80 is removed, after 3s\n"
    );
    let arguments = &requests.recv().unwrap()["arguments"];
    assert_eq!((&arguments["timeout_seconds"], &arguments["keep_persistent"]), (&json!(300), &json!(true)));
    assert_eq!(requests.recv().unwrap()["verb"], "show");

    let (_folder, socket, _) = daemon_that_answers_in_turn(answers);
    let run = dr_ctl_at(
        &socket,
        &[&DRAIN[..], &["--timeout", "5m", "--keep-persistent", "--wait", "--json"]].concat(),
    );
    let drained: Value = serde_json::from_str(&run.output).unwrap();
    assert_eq!((run.code, &drained["is_removed"], &drained["waited_seconds"]), (0, &json!(true), &json!(3)));
}

#[test]
fn a_drain_without_a_deadline_is_over_when_no_connection_is_left_and_a_service_that_goes_ends_it_too() {
    let changed = result(json!({ "changes": [] }));
    for (end, words) in [
        (shown(&[draining(0, None)]), "has no connections left, after 1s"),
        (refusal("not_found"), "is removed, after 1s"),
    ] {
        let (_folder, socket, _) =
            daemon_that_answers_in_turn(vec![changed.clone(), shown(&[draining(1, None)]), end]);
        let run = dr_ctl_at(&socket, &[&DRAIN[..], &["--wait"]].concat());
        assert_eq!((run.code, run.errors.as_str()), (0, ""));
        assert!(run.output.contains(words), "{}", run.output);
    }
}

#[test]
fn a_drain_that_does_not_end_in_time_exits_with_8_and_says_what_is_left() {
    let changed = result(json!({ "changes": [] }));
    let (_folder, socket, _) = daemon_that_answers_in_turn(vec![changed, shown(&[draining(7, None)])]);
    let start = Instant::now();
    let run = dr_ctl_at(&socket, &[&DRAIN[..], &["--wait", "1s"]].concat());
    assert_eq!(run.code, 8);
    assert!(
        run.errors.starts_with(
            "error: 10.0.0.11 of tcp 192.0.2.10:80 is still there: connections left: 7 active, 0 inactive, "
        ),
        "{}",
        run.errors
    );
    assert!(run.errors.contains("\nhelp: ") && start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_drain_that_somebody_else_ends_or_changes_exits_with_10_and_says_so() {
    let changed = result(json!({ "changes": [] }));
    let first = |with_deadline: bool| shown(&[draining(7, with_deadline.then_some(300))]);
    let later = json!({ "until_unix_seconds": 4_102_444_801_u64, "keep_persistent": true });
    for (first, then, timeout, words) in [
        // In service again with no connection left is no drained one.
        (first(false), drained_as(&json!(false), 0, None), &[][..], "it is drained no more"),
        (
            first(true),
            drained_as(&json!(false), 7, None),
            &["--timeout", "5m", "--keep-persistent"],
            "no more",
        ),
        (
            first(true),
            drained_as(&later, 7, Some(301)),
            &["--timeout", "5m", "--keep-persistent"],
            "another time",
        ),
        // Changed before the first look.
        (first(true), draining(7, None), &[], "another way"),
        (first(false), draining(7, None), &["--timeout", "5m"], "another way"),
    ] {
        let (_folder, socket, _) = daemon_that_answers_in_turn(vec![changed.clone(), first, shown(&[then])]);
        let run = dr_ctl_at(&socket, &[&DRAIN[..], timeout, &["--wait"]].concat());
        assert_eq!(run.code, 10, "{}{}", run.output, run.errors);
        let start = "error: the drain of 10.0.0.11 of tcp 192.0.2.10:80 was changed by somebody else: ";
        assert!(run.errors.starts_with(start) && run.errors.contains(words), "{}", run.errors);
        assert!(!run.output.contains("has no connections left"), "{}", run.output);
    }
}

#[test]
fn an_answer_that_does_not_come_in_time_does_not_end_the_wait_before_its_own_time_is_over() {
    let turn = AtomicUsize::new(0);
    let (_folder, socket) = daemon(move |mut stream| {
        read_request(&stream);
        let answer = match turn.fetch_add(1, Ordering::Relaxed) {
            0 => result(json!({ "changes": [] })),
            // No answer, and no end of the connection either.
            1 => return std::mem::forget(stream),
            2 => shown(&[draining(1, None)]),
            _ => shown(&[draining(0, None)]),
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    let run = dr_ctl_at(&socket, &[&DRAIN[..], &["--answer-timeout", "1", "--wait"]].concat());
    assert_eq!((run.code, run.errors.as_str()), (0, ""), "{}", run.output);
    assert!(run.output.contains("has no connections left"), "{}", run.output);
}

#[test]
fn a_wait_whose_output_is_closed_ends() {
    let changed = result(json!({ "changes": ["draining real server 10.0.0.11 of tcp 192.0.2.10:80"] }));
    let (_folder, socket, _) = daemon_that_answers_in_turn(vec![changed, shown(&[draining(7, None)])]);
    let mut waiting = command(&[&DRAIN[..], &["--wait"]].concat());
    waiting.env("DR_CONTROL_SOCKET", &socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut waiting = waiting.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("draining real server"), "{line}");
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_batch_is_one_request_and_its_error_names_the_line() {
    let (_files, path) =
        file("# two\nclear\n\nadd-vip tcp 192.0.2.10:80\nadd-rs tcp 192.0.2.10:80 10.0.0.11\n");
    let (_folder, socket, requests) = daemon_that_answers(result(json!({ "changes": ["removed", "added"] })));
    let run = dr_ctl_at(&socket, &["batch", &path]);
    assert_eq!((run.code, run.output.as_str()), (0, "removed\nadded\n"), "{}", run.errors);
    let commands = requests.recv().unwrap()["arguments"]["commands"].clone();
    let verbs: Vec<&str> =
        commands.as_array().unwrap().iter().map(|one| one["verb"].as_str().unwrap()).collect();
    assert_eq!(verbs, ["clear", "add-vip", "add-rs"]);

    let error = json!({ "code": "exists", "message": "it exists", "index": 1 });
    let answer = format!("{}\n", json!({ "version": 1, "error": error }));
    let (_folder, socket, _) = daemon_that_answers(answer);
    let run = dr_ctl_at(&socket, &["batch", &path]);
    assert_eq!((run.code, run.errors), (4, format!("error: {path}:4: it exists\n")));

    let (_files, path) = file("clear\nshow\n");
    let run = dr_ctl_at(Path::new("/nowhere"), &["batch", &path]);
    assert_eq!(run.code, 2);
    assert!(run.errors.starts_with(&format!("error: {path}:2: this changes nothing")), "{}", run.errors);
}
