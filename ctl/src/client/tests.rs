//! Tests of `client`.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::protocol::{Changed, ErrorCode, Status};

/// A daemon that does `answer` with its first connection.
fn daemon(answer: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || answer(listener.accept().unwrap().0));
    (folder, path)
}

/// A daemon that reads a request and answers with these bytes.
fn answers(bytes: impl Into<Vec<u8>>) -> (tempfile::TempDir, PathBuf) {
    let bytes = bytes.into();
    daemon(move |mut stream| {
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        let _ = stream.write_all(&bytes);
    })
}

fn ask(path: &Path) -> Result<Changed, ClientError> {
    Client::connect_within(path, Duration::from_millis(300))?.call(&Command::Config)
}

#[test]
fn a_result_is_taken_however_it_arrives() {
    let (_folder, path) = daemon(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        for _ in 0..2 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "{\"version\":1,\"verb\":\"config\"}\n");
            let changed = Changed { changes: vec!["é".repeat(100)] };
            for byte in Response::ok(7, &changed).to_line() {
                stream.write_all(&[byte]).unwrap();
            }
        }
    });
    let mut client = Client::connect(&path).unwrap();
    for _ in 0..2 {
        let changed: Changed = client.call(&Command::Config).unwrap();
        assert_eq!(changed.changes, ["é".repeat(100)]);
    }
}

#[test]
fn the_daemons_own_error_arrives_whole() {
    let reply = ErrorReply::new(ErrorCode::NotFound, "no such service").with_help("see show");
    let (_folder, path) = answers(Response::error(reply.clone()).to_line());
    match ask(&path) {
        Err(error @ ClientError::Refused(_)) => {
            assert_eq!(error.to_string(), "no such service");
            assert_eq!(error.help().as_deref(), Some("see show"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_answer_half_an_answer_and_a_trickle_end_in_a_timeout() {
    let silent = daemon(|stream| {
        thread::sleep(Duration::from_secs(5));
        drop(stream);
    });
    let half = daemon(|mut stream| {
        stream.write_all(b"{\"version\":1,").unwrap();
        thread::sleep(Duration::from_secs(5));
    });
    let trickle = daemon(|mut stream| {
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    for (_folder, path) in [silent, half, trickle] {
        let start = Instant::now();
        let error = ask(&path).unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
        assert!(error.to_string().ends_with("dr-director gave no answer within 0.3 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn a_daemon_whose_backlog_is_full_ends_in_a_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    nix::sys::socket::bind(descriptor.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    nix::sys::socket::listen(&descriptor, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    let timeout = Duration::from_millis(100);
    let mut waiting = Vec::new();
    let error = loop {
        match Client::connect_within(&path, timeout) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100);
    };
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[test]
fn a_daemon_that_never_reads_ends_in_a_timeout() {
    let (_folder, path) = daemon(|stream| {
        thread::sleep(Duration::from_secs(5));
        drop(stream);
    });
    let mut client = Client::connect_within(&path, Duration::from_millis(300)).unwrap();
    let error = client.request(&long_command(30_000)).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

/// A request of 40 bytes a real server and a little.
fn long_command(real_servers: usize) -> Command {
    let real_server = crate::config::RealServerConfig::new([10, 0, 0, 11]);
    Command::AddVip(crate::config::ServiceConfig {
        real_servers: vec![real_server; real_servers],
        ..crate::config::ServiceConfig::new(crate::config::ServiceId::new(
            crate::config::Protocol::Tcp,
            std::net::Ipv4Addr::new(192, 0, 2, 10),
            80,
        ))
    })
}

#[test]
fn a_request_past_the_limit_is_not_sent() {
    let (_folder, path) = daemon(drop);
    let error = Client::connect(&path).unwrap().request(&long_command(REQUEST_BYTES_MAX / 30)).unwrap_err();
    assert!(matches!(error, ClientError::TooLong { .. }), "{error}");
}

#[test]
fn an_error_sent_by_a_daemon_that_reads_no_further_is_shown() {
    let reply = ErrorReply::new(ErrorCode::Denied, "you may not");
    let (_folder, path) = daemon(move |mut stream| {
        let mut some = [0; 1000];
        stream.read_exact(&mut some).unwrap();
        stream.write_all(&Response::error(reply).to_line()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(100));
    });
    let mut client = Client::connect(&path).unwrap();
    // Longer than the socket's buffers, so that the rest of it meets a closed connection.
    match client.call::<Changed>(&long_command(30_000)) {
        Err(ClientError::Refused(reply)) => assert_eq!(reply.code, ErrorCode::Denied),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_daemon_gone_before_or_amid_its_answer_is_told() {
    for bytes in ["", "{", "{\"version\":1,\"result\":{}}"] {
        let (_folder, path) = answers(bytes);
        let error = ask(&path).unwrap_err();
        assert!(matches!(error, ClientError::Disconnected { .. }), "{bytes}: {error}");
    }
}

#[test]
fn what_is_no_answer_is_told() {
    for bytes in [
        "\n",
        "HTTP/1.1 400 Bad Request\r\n",
        "[]\n",
        "{}\n",
        "{\"version\":\"1\"}\n",
        "{\"version\":1}\n",
        "{\"version\":1,\"result\":null}\n",
        "{\"version\":1,\"result\":3}\n",
        "{\"version\":1,\"result\":{\"changes\":3}}\n",
        "{\"version\":1,\"result\":{},\"error\":{\"code\":\"full\",\"message\":\"\"}}\n",
        "{\"version\":1,\"error\":{\"code\":\"new_code\",\"message\":\"\"}}\n",
    ] {
        let (_folder, path) = answers(bytes);
        let error = ask(&path).unwrap_err();
        assert!(matches!(error, ClientError::Garbled { .. }), "{bytes}: {error}");
        assert!(error.to_string().contains("what came is no answer of dr-director: "), "{error}");
    }
    let (_folder, path) = answers(vec![0xff; 1000].into_iter().chain([b'\n']).collect::<Vec<u8>>());
    assert!(matches!(ask(&path).unwrap_err(), ClientError::Garbled { .. }));
}

#[test]
fn keys_that_a_newer_daemon_adds_are_no_error() {
    let line = "{\"version\":1,\"new\":[1],\"result\":{\"changes\":[],\"also_new\":{}}}\n";
    let (_folder, path) = answers(line);
    assert_eq!(ask(&path).unwrap(), Changed { changes: vec![] });
}

#[test]
fn another_version_is_told_whatever_else_it_says() {
    let (_folder, path) = answers("{\"version\":2,\"result\":7,\"error\":7}\n");
    let error = ask(&path).unwrap_err();
    assert!(matches!(error, ClientError::WrongVersion { found: 2, .. }), "{error}");
}

#[test]
fn an_answer_of_another_verb_is_told() {
    let (_folder, path) = answers(Response::ok(1, &Changed { changes: vec![] }).to_line());
    let error = Client::connect(&path).unwrap().call::<Status>(&Command::Status).unwrap_err();
    assert!(error.to_string().contains("result of status: missing field `version`"), "{error}");
}

#[test]
fn a_socket_that_is_not_there_or_not_listened_at_asks_whether_the_daemon_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let missing = ask(&path).unwrap_err();
    drop(UnixListener::bind(&path).unwrap());
    let abandoned = ask(&path).unwrap_err();
    for error in [missing, abandoned] {
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.help().unwrap().starts_with("is dr-director running?"));
    }
    let too_long = ask(Path::new(&"x".repeat(200))).unwrap_err();
    assert!(matches!(too_long, ClientError::Unreachable { .. }), "{too_long}");
}

#[test]
fn a_socket_that_the_caller_may_not_use_names_the_group_that_may() {
    let denied = connect_error(Path::new("/nowhere"), DEFAULT_TIMEOUT, Errno::EACCES);
    assert!(matches!(denied, ClientError::Denied { group: None, .. }));
    assert!(denied.help().unwrap().contains("director.control_group"));
    let error = ClientError::Denied { path: "/run/x".into(), group: Some("dr".to_owned()) };
    assert_eq!(
        error.help().unwrap(),
        "become root, or join the group dr (usermod -aG dr USER) and log in again"
    );
    // As root, whom no mode stops, there is nothing to see here.
    if !nix::unistd::geteuid().is_root() {
        let (_folder, path) = answers("");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        assert!(matches!(ask(&path).unwrap_err(), ClientError::Denied { .. }));
    }
}
