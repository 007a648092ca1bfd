//! /metrics: the page docs/METRICS.md lists what is exported, and the server is bounded.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use dataplane::verdict::{DropReason, IcmpError, StatelessReason};
use director::http;
use director::metrics::{Metric, Scrape};
use prometheus::proto::MetricType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::CONFIG;
use crate::rig::{Rig, soon, tcp, until};

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md")).unwrap()
}

#[test]
fn page_lists_every_metric_with_type_labels_and_meaning() {
    let page = page();
    for &metric in Metric::ALL {
        let kind = if metric.kind() == MetricType::COUNTER { "counter" } else { "gauge" };
        let labels: Vec<_> = metric.labels().iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{}` | {kind} | {} | {} |", metric.name(), labels.join(" "), metric.help());
        assert!(page.contains(&row), "docs/METRICS.md lacks:\n{row}");
    }
    let known: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    for word in page.split(|character: char| character != '_' && !character.is_ascii_lowercase()) {
        assert!(
            !word.starts_with("dr_") || known.contains(word),
            "docs/METRICS.md names {word}, which does not exist"
        );
    }
}

#[test]
fn page_lists_every_reason_with_its_meaning() {
    let page = page();
    for &reason in DropReason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.description());
        assert!(page.contains(&row), "docs/METRICS.md lacks:\n{row}");
    }
    for &kind in IcmpError::ALL {
        let row = format!("| `{}` | {} |", kind.name(), kind.description());
        assert!(page.contains(&row), "docs/METRICS.md lacks:\n{row}");
    }
    for &reason in StatelessReason::ALL {
        let row = format!("| `{}` | {} |", reason.name(), reason.description());
        assert!(page.contains(&row), "docs/METRICS.md lacks:\n{row}");
    }
}

#[test]
fn every_metric_is_exported_with_its_labels_and_packets_are_conserved() {
    Rig::new(CONFIG, 2).run(async |rig| {
        let vip = ("192.0.2.10".parse().unwrap(), 80);
        for port in 0..100 {
            rig.inject(1, &tcp([2, 0, 0, 0, 1, 1], ("198.51.100.7".parse().unwrap(), 1000 + port), vip, "S"));
        }
        let received = || rig.control.borrow().stats(&Default::default()).unwrap().totals.received;
        until("all received", || received() == 100).await;
        let families = Scrape::take(&rig.control.borrow()).families();
        let exported: Vec<_> = families.iter().map(|family| family.name().to_owned()).collect();
        let defined: Vec<_> = Metric::ALL.iter().map(|metric| metric.name().to_owned()).collect();
        assert_eq!(exported, defined);
        for (family, metric) in families.iter().zip(Metric::ALL) {
            for sample in family.get_metric() {
                let labels: Vec<_> = sample.get_label().iter().map(|label| label.name()).collect();
                assert_eq!(labels, metric.labels(), "{}", metric.name());
            }
        }
        let sum = |metric: Metric| -> f64 {
            let samples = families[metric as usize].get_metric();
            samples.iter().map(|sample| sample.get_counter().get_value()).sum()
        };
        let elsewhere =
            [Metric::WorkerForwarded, Metric::WorkerPunted, Metric::WorkerToHost, Metric::WorkerDropped];
        let elsewhere: f64 = elsewhere.into_iter().map(sum).sum();
        assert_eq!(sum(Metric::WorkerReceived), elsewhere);
        assert_eq!(sum(Metric::ServicePackets), 100.0);
        assert_eq!(sum(Metric::RealServerConnections), 100.0);
        assert_eq!(families[Metric::WorkerDropped as usize].get_metric().len(), 2 * DropReason::COUNT);
    });
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn with_server(test: impl AsyncFnOnce(&Rig, SocketAddr)) {
    Rig::new(CONFIG, 1).run(async |rig| {
        let listener = http::listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::task::spawn_local(http::serve(rig.control.clone(), listener));
        test(rig, address).await;
    });
}

#[test]
fn server_knows_one_path_and_no_method_that_changes() {
    with_server(async |_, address| {
        let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: text/plain; version=0.0.4"));
        assert!(answer.contains("\ndr_build_info{version="));
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            ("GET /metrics/x HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "405"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = ask(address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(long.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    });
}

#[test]
fn server_full_of_silent_clients_answers_the_next_one_at_once() {
    with_server(async |_, address| {
        // One of five attempts, as far as they are needed: a busy machine may use up that time.
        let mut seconds = Vec::new();
        while seconds.iter().all(|&seconds| seconds >= 5) {
            assert!(seconds.len() < 5, "before any of the silent ones' time was over: {seconds:?}");
            let mut silent = Vec::new();
            for _ in 0..200 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /met").await.unwrap();
                silent.push(stream);
            }
            let started = std::time::Instant::now();
            let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            seconds.push(started.elapsed().as_secs());
        }
    });
}
