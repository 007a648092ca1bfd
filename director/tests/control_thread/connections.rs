//! `connections`: every connection once, filtered, counted, while workers go on.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ctl::protocol::{Connections, ErrorCode};
use director::control::Answer;

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
        assert_eq!(workers, [0, 1].into());
        let row = &all.connections[0];
        assert_eq!((row.virtual_address, row.virtual_port, &*row.state), (VIP, 80, "SYN_RECV"));
        assert_eq!(row.real_server.to_string(), "10.0.0.12");
        assert!(list(rig, "{}").await.connections.len() == 1000, "the default limit");
        for (arguments, matching) in [
            (r#"{"client":"198.51.100.1","limit":2}"#, 1000),
            (r#"{"real_server":"10.0.0.12","limit":0}"#, 3000),
            (r#"{"real_server":"10.0.0.11"}"#, 0),
            (r#"{"service":{"protocol":"tcp","address":"192.0.2.10","port":80}}"#, 3000),
            (r#"{"service":{"protocol":"udp","address":"192.0.2.10","port":80}}"#, 0),
        ] {
            let filtered = list(rig, arguments).await;
            assert_eq!(filtered.matching, matching, "{arguments}");
        }
        assert_eq!(list(rig, r#"{"client":"198.51.100.1","limit":2}"#).await.connections.len(), 2);
        rig.change("del-rs", &format!(r#"{{{SERVICE},"address":"10.0.0.12"}}"#)).await;
        let removed = list(rig, r#"{"real_server":"10.0.0.12"}"#).await;
        assert_eq!(removed.matching, 3000, "of a removed real server as well");
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
fn listing_of_silent_workers_is_late_and_the_next_one_is_whole() {
    let rig = Rig::new(CONFIG, 2);
    rig.run(async |rig| open(rig).await);
    rig.run_without_workers(async |rig| {
        let error = rig.command("connections", "{}").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
        assert!(error.message.contains("worker 0, 1"), "{}", error.message);
    });
    rig.run(async |rig| assert_eq!(list(rig, "{}").await.matching, 3000));
}
