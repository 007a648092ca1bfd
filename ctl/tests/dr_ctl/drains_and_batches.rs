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
    json!({ "address": "10.0.0.11", "weight": 1, "state": "draining", "mac": null, "port": "lan0",
            "active_connections": active, "inactive_connections": 0, "persistent_connections": 2,
            "upper_threshold": 0, "lower_threshold": 0, "drain_seconds_left": seconds_left })
}

const DRAIN: [&str; 4] = ["drain-rs", "tcp", "192.0.2.10:80", "10.0.0.11"];

#[test]
fn a_drain_with_a_deadline_is_waited_for_until_the_real_server_is_gone() {
    let changed = result(json!({ "changes": ["draining real server 10.0.0.11 of tcp 192.0.2.10:80"] }));
    let answers = vec![changed, shown(&[draining(3, Some(243))]), shown(&[draining(0, Some(1))]), shown(&[])];
    let (_folder, socket, requests) = daemon_that_answers_in_turn(answers.clone());
    let run = dr_ctl_at(&socket, &[&DRAIN[..], &["--timeout", "5m", "--keep-persistent", "--wait"]].concat());
    assert_eq!((run.code, run.errors.as_str()), (0, ""));
    assert_eq!(
        run.output,
        "draining real server 10.0.0.11 of tcp 192.0.2.10:80\n\
         connections left: 3 active, 0 inactive, 2 persistence templates; it goes in 4m03s at the latest\n\
         connections left: 0 active, 0 inactive, 2 persistence templates; it goes in 1s at the latest\n\
         real server 10.0.0.11 of tcp 192.0.2.10:80 is removed, after 2s\n"
    );
    let arguments = &requests.recv().unwrap()["arguments"];
    assert_eq!((&arguments["timeout_seconds"], &arguments["keep_persistent"]), (&json!(300), &json!(true)));
    assert_eq!(requests.recv().unwrap()["verb"], "show");

    let (_folder, socket, _) = daemon_that_answers_in_turn(answers);
    let run = dr_ctl_at(&socket, &[&DRAIN[..], &["--timeout", "5m", "--wait", "--json"]].concat());
    let drained: Value = serde_json::from_str(&run.output).unwrap();
    assert_eq!((run.code, &drained["is_removed"], &drained["waited_seconds"]), (0, &json!(true), &json!(2)));
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
