//! `connections`: what workers opened, read beside them and beside the control thread.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ctl::protocol::{Connections, ErrorCode};
use director::commands::Answer;

use crate::rig::{Rig, tcp, until};
use crate::{CONFIG, SERVICE};

const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const COUNT: u16 = 3000;

async fn open(rig: &Rig) {
    for port in 0..COUNT {
        let client = Ipv4Addr::new(198, 51, 100, (port % 3) as u8);
        rig.inject(1, &tcp(OUTSIDE_MAC, (client, 1000 + port), (VIP, 80), "S"));
        if port % 500 == 0 {
            until("received", || rig.ports[1].waiting(0) == 0 && rig.ports[1].waiting(1) == 0).await;
        }
    }
    let held = || rig.control.borrow().status().connections;
    until("all opened", || held() == u64::from(COUNT)).await;
}

async fn list(rig: &Rig, arguments: &str) -> Connections {
    let executed = rig.command("connections", arguments).await.unwrap();
    let Answer::Connections(connections) = executed.answer else { panic!("{executed:?}") };
    connections
}

#[test]
fn connections_are_listed_once_each_and_filtered() {
    Rig::new(CONFIG, 2).run(async |rig| {
        open(rig).await;
        let all = list(rig, r#"{"limit":100000}"#).await;
        assert_eq!(all.matching, u64::from(COUNT));
        let ports: BTreeSet<_> = all.connections.iter().map(|row| row.client_port).collect();
        assert_eq!(ports.len(), usize::from(COUNT));
        let workers: BTreeSet<_> = all.connections.iter().map(|row| row.worker).collect();
        assert_eq!(workers, [Some(0), Some(1)].into());
        let row = &all.connections[0];
        assert_eq!((row.virtual_address, row.virtual_port, &*row.state), (VIP.into(), 80, "SYN_RECV"));
        assert_eq!(row.real_server.to_string(), "10.0.0.12");
        assert!(list(rig, "{}").await.connections.len() == 1000, "the default limit");
        let service = format!("{{{SERVICE}}}");
        for (arguments, matching) in [
            (r#"{"client":"198.51.100.1/32","limit":2}"#, 1000),
            (r#"{"client":"198.51.100.0/31","limit":2}"#, 2000),
            (r#"{"real_server":"10.0.0.12","limit":0}"#, 3000),
            (r#"{"real_server":"10.0.0.11"}"#, 0),
            (r#"{"kind":"templates"}"#, 0),
            (&service, 3000),
        ] {
            let filtered = list(rig, arguments).await;
            assert_eq!(filtered.matching, matching, "{arguments}");
        }
        rig.change("del-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.12"}}"#)).await;
        let removed = list(rig, r#"{"real_server":"10.0.0.12"}"#).await;
        assert_eq!(removed.matching, 3000, "of a removed real server as well");
    });
}

#[test]
fn what_is_not_there_is_not_found_and_what_is_no_state_is_invalid() {
    Rig::new(CONFIG, 1).run(async |rig| {
        for (arguments, code) in [
            (r#"{"service":{"protocol":"udp","address":"192.0.2.10","port":80}}"#, ErrorCode::NotFound),
            (r#"{"service":{"group":"web"}}"#, ErrorCode::NotFound),
            (r#"{"state":"OPEN"}"#, ErrorCode::Invalid),
            (r#"{"offset":999999,"limit":2}"#, ErrorCode::Invalid),
        ] {
            assert_eq!(rig.command("connections", arguments).await.unwrap_err().code, code, "{arguments}");
        }
    });
}

#[test]
fn listings_at_once_take_turns() {
    Rig::new(CONFIG, 2).run(async |rig| {
        open(rig).await;
        let (a, b, c) =
            tokio::join!(list(rig, "{}"), list(rig, r#"{"limit":1}"#), list(rig, r#"{"limit":5000}"#));
        assert_eq!([a.matching, b.matching, c.matching], [3000; 3]);
    });
}

#[test]
fn listing_needs_no_worker_that_moves() {
    let rig = Rig::new(CONFIG, 2);
    rig.run(async |rig| open(rig).await);
    rig.run_without_workers(async |rig| {
        assert_eq!(list(rig, "{}").await.matching, 3000);
        // Over, and not swept.
        rig.clock.advance_seconds(100);
        assert_eq!(list(rig, "{}").await.matching, 0);
    });
}

#[test]
fn threads_that_read_have_the_control_threads_cpus() {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    let thread = std::thread::spawn(|| {
        let this = Pid::from_raw(0);
        let allowed = sched_getaffinity(this).unwrap();
        let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap()).unwrap();
        let mut one = CpuSet::new();
        one.set(last).unwrap();
        sched_setaffinity(this, &one).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let read =
            async { tokio::task::spawn_blocking(move || sched_getaffinity(this).unwrap()).await.unwrap() };
        assert_eq!(runtime.block_on(read), one);
    });
    thread.join().unwrap();
}
