//! What the style bans, found in the source.

use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file of the workspace's packages, with its text.
fn sources() -> Vec<(String, String)> {
    let mut folders: Vec<PathBuf> =
        ["dpdk-sys", "dataplane", "scheduler", "ctl", "director", "lab", "benches"]
            .iter()
            .map(|package| workspace().join(package))
            .collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(workspace()).unwrap().to_string_lossy().into_owned();
                sources.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 50);
    sources
}

/// The file without its tests and comments, line by line with numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn is_hot(name: &str) -> bool {
    [
        "worker/",
        "allowance.rs",
        "connection/",
        "persistence/",
        "fragments/",
        "direct_routing.rs",
        "link_layer.rs",
        "translation.rs",
        "counters.rs",
        "packet/ethernet.rs",
        "packet/ipv4.rs",
    ]
    .iter()
    .chain(&[
        "packet/tcp.rs",
        "packet/udp.rs",
        "packet/sctp.rs",
        "packet/sip.rs",
        "packet/checksum.rs",
        "packet/crc32c.rs",
        "packet/ftp.rs",
        "packet/icmp_error.rs",
        "packet/icmp_report.rs",
        "packet/ipv6.rs",
        "packet/outer.rs",
        "packet/proxy.rs",
        "packet/quote.rs",
        "packet/tunnel_quote.rs",
        "packet/vlan.rs",
        "clock.rs",
        "dpdk/mbuf.rs",
        "dpdk/queue.rs",
        "dpdk/lanes.rs",
        "dpdk/prefetch.rs",
        "host.rs",
        "mailbox.rs",
        "snapshot.rs",
    ])
    .any(|hot| name.starts_with(&format!("dataplane/src/{hot}")))
        || [
            "rr",
            "wrr",
            "lc",
            "wlc",
            "sed",
            "nq",
            "fo",
            "ovf",
            "twos",
            "dh",
            "sh",
            "mh",
            "lblc",
            "lblcr",
            "ramp",
            "hash",
            "connection_counts",
        ]
        .iter()
        .any(|hot| name == format!("scheduler/src/{hot}.rs"))
}

#[test]
fn hot_path_allocates_locks_logs_and_panics_nowhere() {
    let banned = [
        "unwrap()",
        ".expect(",
        "panic!",
        "unreachable!",
        "todo!",
        "unimplemented!",
        "println!",
        "format!",
        "vec![",
        "Vec::with",
        ".to_vec()",
        ".to_owned()",
        ".to_string()",
        ".collect",
        "Mutex",
        "RwLock",
        "tracing",
        "f32",
        "f64",
        "dyn ",
        "std::fs",
        "std::net::Tcp",
        "std::thread",
        "SeqCst",
    ];
    // At start, on the control thread, or tried and never waited for: file and text of the line.
    let allowed = [
        ("dataplane/src/counters.rs", "DestinationCounters::default()).collect(),"),
        ("dataplane/src/fragments/arena.rs", "places: places.collect(), free, held: 0 }"),
        ("dataplane/src/fragments/mod.rs", "buckets: vec![Bucket::EMPTY; buckets].into_boxed_slice(),"),
        (
            "dataplane/src/fragments/mod.rs",
            "packets: vec![Packet::EMPTY; buckets * WAYS].into_boxed_slice(),",
        ),
        ("dataplane/src/worker/mod.rs", "TxLane::default()).collect(),"),
        ("dataplane/src/host.rs", "SharedAllowance::default).take(1 << u8::BITS).collect(),"),
        ("dataplane/src/worker/streams.rs", "Stream::default(), CAPACITY).collect(), next: 0 }"),
        ("dataplane/src/worker/handover.rs", "let inboxes = tables.iter().map(inbox).collect();"),
        ("dataplane/src/worker/handover.rs", "tables.iter().map(ConnectionTable::lookup).collect();"),
        ("dataplane/src/worker/handover.rs", "(0..tables.len() as u32).map(of).collect()"),
        ("dataplane/src/mailbox.rs", "use std::sync::{Arc, Mutex, TryLockError};"),
        ("dataplane/src/mailbox.rs", "incoming: Mutex<Option<(u64, Arc<T>)>>,"),
        ("dataplane/src/mailbox.rs", "incoming: Mutex::new(None),"),
        ("dataplane/src/mailbox.rs", ".collect();"),
        ("dataplane/src/mailbox.rs", "std::thread::yield_now(),"),
        ("dataplane/src/snapshot.rs", "ConnectionCounts::new())).collect()"),
    ];
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| is_hot(name)) {
        for (number, line) in code(text) {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                if !allowed.iter().any(|(file, end)| name == file && line.trim_end().ends_with(end)) {
                    found.push(format!("{name}:{number}: {word}: {}", line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_code_stays_behind_the_door() {
    let is_behind = |name: &str| name.starts_with("dpdk-sys/") || name.starts_with("dataplane/src/dpdk/");
    let mut found = Vec::new();
    for (name, text) in
        sources().iter().filter(|(name, _)| !is_behind(name) && name != "dataplane/tests/tidy.rs")
    {
        for (number, line) in code(text) {
            if ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"]
                .iter()
                .any(|word| line.contains(word))
            {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_leaves_nothing_open() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            found.push(format!("{name}: no module header"));
        }
        if name == "dataplane/tests/tidy.rs" {
            continue;
        }
        for word in ["FIXME", "XXX", "todo!(", "unimplemented!(", "#[ignore"] {
            if text.contains(word) {
                found.push(format!("{name}: {word}"));
            }
        }
        if text.lines().count() > 700 {
            found.push(format!("{name}: {} lines, more than 700: is it one job?", text.lines().count()));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn words_are_lvs_words() {
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name != "dataplane/tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for word in ["backend", "upstream", "load_balancer_pool", "manager", "helper fn"] {
                if line.contains(word) {
                    found.push(format!("{name}:{}: {word}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
