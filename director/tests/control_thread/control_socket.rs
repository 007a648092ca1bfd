//! The control socket under attack: whatever a client does, it gets an error or is closed, and the others go on.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use ctl::protocol::{ErrorCode, REQUEST_BYTES_MAX, Response};
use director::socket::{CLIENTS_MAX, ControlSocket, LARGE_REQUEST_BYTES, SocketError, serve};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::CONFIG;
use crate::rig::{Rig, soon, until};

/// More than a request and both sockets' buffers hold.
const FLOOD_BYTES: usize = REQUEST_BYTES_MAX + (16 << 20);

const STATUS: &[u8] = b"{\"version\":1,\"verb\":\"status\"}\n";

/// Serves a socket in a temporary directory beside `test`.
fn with_socket(test: impl AsyncFnOnce(&Rig, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run").join("control.sock");
    let socket = ControlSocket::bind(&path, None).unwrap();
    let rig = Rig::new(CONFIG, 1);
    rig.run(async |rig| {
        let control = rig.control.clone();
        tokio::task::spawn_local(async move { serve(control, &socket).await });
        test(rig, &path).await;
    });
}

struct Client(BufReader<UnixStream>);

impl Client {
    async fn connect(path: &Path) -> Client {
        Client(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }

    async fn send(&mut self, bytes: &[u8]) {
        soon("room for a request", self.0.get_mut().write_all(bytes)).await.unwrap();
    }

    /// The next answer; none where the connection is closed.
    async fn answer(&mut self) -> Option<Response> {
        let mut line = Vec::new();
        let count = soon("an answer", self.0.read_until(b'\n', &mut line)).await.unwrap_or(0);
        (count > 0).then(|| serde_json::from_slice(&line).unwrap())
    }

    async fn code(&mut self) -> Option<ErrorCode> {
        self.answer().await?.error.map(|error| error.code)
    }

    async fn status(&mut self) -> bool {
        self.send(STATUS).await;
        self.answer().await.is_some_and(|answer| answer.result.is_some())
    }
}

#[test]
fn socket_is_private_from_its_first_instant_and_gone_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a").join("b").join("control.sock");
    let socket = ControlSocket::bind(&path, Some("root")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o750));
    assert_eq!(std::fs::metadata(&path).unwrap().gid(), 0);
    let error = ControlSocket::bind(&path, None).unwrap_err();
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn socket_of_a_killed_director_is_replaced_and_anything_else_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    // Dropping std's listener closes it and leaves the file, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = ControlSocket::bind(&path, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(socket);
    assert!(path.exists(), "it is not the socket that was made");
    let error = ControlSocket::bind(&path, None).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
    let error = ControlSocket::bind(&directory.path().join("x"), Some("no-such-group")).unwrap_err();
    assert!(error.to_string().contains("no-such-group"), "{error}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    with_socket(async |_, path| {
        let mut client = Client::connect(path).await;
        let mut all = Vec::new();
        for weight in 2..100 {
            all.extend(format!(
                "{{\"version\":1,\"verb\":\"set-rs\",\"arguments\":{{{},\"real_server\":\"10.0.0.11\",\"weight\":{weight}}}}}\n",
                crate::SERVICE
            ).bytes());
        }
        client.send(&all).await;
        for weight in 2..100 {
            let answer = client.answer().await.unwrap();
            let change = answer.result.unwrap()["changes"][0].as_str().unwrap().to_owned();
            assert!(change.ends_with(&format!("{} -> {weight}", weight - 1)), "{change}");
        }
    });
}

#[test]
fn nonsense_is_refused_and_the_connection_goes_on() {
    with_socket(async |rig, path| {
        let mut client = Client::connect(path).await;
        for (line, code) in [
            (&b"\n"[..], ErrorCode::BadRequest),
            (b"garbage\n", ErrorCode::BadRequest),
            (b"\xff\xfe\x00\n", ErrorCode::BadRequest),
            (b"null\n", ErrorCode::BadRequest),
            (b"[[[[[[[[[[\n", ErrorCode::BadRequest),
            (b"{\"version\":2,\"verb\":\"status\"}\n", ErrorCode::WrongVersion),
            (b"{\"version\":1,\"verb\":\"reboot\"}\n", ErrorCode::BadRequest),
            (b"{\"version\":1,\"verb\":\"del-vip\",\"arguments\":7}\n", ErrorCode::BadRequest),
            (b"{\"version\":1,\"verb\":\"del-vip\"}\n", ErrorCode::BadRequest),
        ] {
            client.send(line).await;
            assert_eq!(client.code().await, Some(code), "{}", String::from_utf8_lossy(line));
        }
        assert!(client.status().await);
        let text = director::metrics::Scrape::take(&rig.control.borrow()).to_text().unwrap();
        assert!(text.contains(r#"dr_control_requests_total{verb="invalid",code="bad_request"} 8"#), "{text}");
    });
}

#[test]
fn request_cut_by_the_end_of_the_connection_is_refused() {
    with_socket(async |_, path| {
        for cut in [1, 10, STATUS.len() - 1] {
            let mut client = Client::connect(path).await;
            client.send(&STATUS[..cut]).await;
            client.0.get_mut().shutdown().await.unwrap();
            assert_eq!(client.code().await, Some(ErrorCode::BadRequest), "{cut} bytes");
            assert!(client.answer().await.is_none());
        }
        assert!(Client::connect(path).await.status().await);
    });
}

#[test]
fn ten_mebibytes_without_a_newline_are_refused_at_the_limit() {
    with_socket(async |_, path| {
        let client = Client::connect(path).await;
        let mut other = Client::connect(path).await;
        let (mut reader, mut writer) = client.0.into_inner().into_split();
        let flood = tokio::task::spawn_local(async move {
            let chunk = vec![b'x'; 1 << 20];
            let mut sent = 0;
            while sent < FLOOD_BYTES && writer.write_all(&chunk).await.is_ok() {
                sent += chunk.len();
            }
            sent
        });
        assert!(other.status().await);
        let mut told = Vec::new();
        // A reset after what was said is all right: the rest of the flood was never read.
        let _ = soon("the answer", reader.read_to_end(&mut told)).await;
        let answer: Response = serde_json::from_slice(&told).unwrap();
        let error = answer.error.unwrap();
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.message.contains(&REQUEST_BYTES_MAX.to_string()), "{}", error.message);
        assert!(soon("the flood ends", flood).await.unwrap() < FLOOD_BYTES);
        assert!(other.status().await);
    });
}

#[test]
fn longest_request_is_still_read() {
    with_socket(async |_, path| {
        let mut client = Client::connect(path).await;
        let mut line = STATUS[..STATUS.len() - 1].to_vec();
        line.resize(REQUEST_BYTES_MAX - 1, b' ');
        line.push(b'\n');
        client.send(&line).await;
        assert!(client.answer().await.unwrap().result.is_some());
    });
}

#[test]
fn while_requests_hold_all_memory_a_large_one_is_refused_and_a_small_one_served() {
    with_socket(async |_, path| {
        let mut holders = Vec::new();
        for _ in 0..2 {
            let mut holder = Client::connect(path).await;
            holder.send(&vec![b' '; REQUEST_BYTES_MAX - 1]).await;
            holders.push(holder);
        }
        // While another is served, the daemon reads what is on its way.
        for _ in 0..3 {
            assert!(Client::connect(path).await.status().await);
        }
        let mut large = Client::connect(path).await;
        large.send(&vec![b' '; 2 * LARGE_REQUEST_BYTES]).await;
        assert_eq!(large.code().await, Some(ErrorCode::Full));
        assert!(large.answer().await.is_none(), "closed");
        assert!(Client::connect(path).await.status().await);
        // What is let go of is room again.
        drop(holders.pop());
        let mut line = vec![b' '; 2 * LARGE_REQUEST_BYTES];
        line.extend_from_slice(STATUS);
        let served = async {
            loop {
                let mut again = Client::connect(path).await;
                again.send(&line).await;
                if again.answer().await.is_some_and(|answer| answer.result.is_some()) {
                    break;
                }
            }
        };
        soon("room", served).await;
    });
}

#[test]
fn thousand_idle_clients_block_nobody() {
    with_socket(async |rig, path| {
        let mut clients = Vec::new();
        for number in 0..1000 {
            clients.push(Client::connect(path).await);
            if number % 100 == 0 {
                assert!(Client::connect(path).await.status().await, "after {number} idle clients");
            }
        }
        let connected = || {
            let text = director::metrics::Scrape::take(&rig.control.borrow()).to_text().unwrap();
            let line = text.lines().find(|line| line.starts_with("dr_control_clients ")).unwrap();
            line.split_once(' ').unwrap().1.parse::<usize>().unwrap()
        };
        until("evictions", || connected() <= CLIENTS_MAX).await;
        let error = clients[0].answer().await.unwrap().error.unwrap();
        assert_eq!(error.code, ErrorCode::Full);
        assert!(error.message.contains("idle longest"), "{}", error.message);
        assert!(clients[0].answer().await.is_none(), "closed");
        assert!(clients[999].status().await, "the last one is served");
    });
}

#[test]
fn client_that_is_at_work_is_not_the_idle_one() {
    with_socket(async |_, path| {
        let mut busy = Client::connect(path).await;
        let mut idle = Vec::new();
        for _ in 0..2 * CLIENTS_MAX {
            idle.push(Client::connect(path).await);
            assert!(busy.status().await);
        }
    });
}

/// Takes as long as the longest limit, whatever the machine: [`director::socket::REQUEST_TIMEOUT`].
#[test]
fn clients_that_never_read_or_never_finish_are_closed_and_others_go_on() {
    with_socket(async |_, path| {
        let mut slow = Client::connect(path).await;
        slow.send(b"{\"version\":1,").await;
        let deaf = Client::connect(path).await;
        let (mut reader, mut writer) = deaf.0.into_inner().into_split();
        let deaf = tokio::task::spawn_local(async move {
            // Answers pile up until the director cannot write; then it stops reading, and closes.
            while writer.write_all(STATUS).await.is_ok() {}
        });
        let mut other = Client::connect(path).await;
        while !deaf.is_finished() {
            assert!(other.status().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut rest = Vec::new();
        let _ = soon("the end of what was answered", reader.read_to_end(&mut rest)).await;
        assert_eq!(slow.code().await, Some(ErrorCode::BadRequest));
        assert!(slow.answer().await.is_none(), "closed");
        assert!(other.status().await);
    });
}
