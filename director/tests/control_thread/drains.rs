//! Drained real servers: kept while they have connections, removed with the last one or at their deadline, by nobody
//! else and never earlier.

use std::net::Ipv4Addr;
use std::time::Duration;

use ctl::config::Config;
use ctl::protocol::{Command, RealServerView};
use director::commands::{Answer, execute};

use crate::rig::{Rig, tcp, until};
use crate::{CONFIG, SERVICE};

const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const RIP: &str = "10.0.0.12";

fn real_server(rig: &Rig) -> Option<RealServerView> {
    let show = rig.control.borrow().show(&Default::default()).unwrap();
    let real_servers = show.services.into_iter().next()?.real_servers.into_iter();
    real_servers.into_iter().find(|view| view.address.to_string() == RIP)
}

async fn connect(rig: &Rig) {
    rig.inject(1, &tcp(OUTSIDE_MAC, (Ipv4Addr::new(198, 51, 100, 7), 1000), (VIP, 80), "S"));
    until("a connection", || rig.control.borrow().status().connections == 1).await;
}

async fn drain(rig: &Rig, seconds: u32) {
    let arguments = format!(r#"{{{SERVICE},"real_server":"{RIP}","timeout_seconds":{seconds}}}"#);
    assert_eq!(rig.change("drain-rs", &arguments).await.len(), 1);
}

/// Lets the control thread look a few times.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[test]
fn empty_real_server_goes_at_once_and_one_without_a_timeout_stays() {
    Rig::new(CONFIG, 2).run(async |rig| {
        rig.change("drain-rs", &format!(r#"{{{SERVICE},"real_server":"{RIP}"}}"#)).await;
        a_moment().await;
        assert_eq!(real_server(rig).unwrap().drain_seconds_left, None);
        drain(rig, 3600).await;
        until("removed", || real_server(rig).is_none()).await;
    });
}

#[test]
fn real_server_stays_until_its_last_connection_has_expired() {
    Rig::new(CONFIG, 2).run(async |rig| {
        connect(rig).await;
        drain(rig, 3600).await;
        a_moment().await;
        let view = real_server(rig).unwrap();
        assert!((3000..=3600).contains(&view.drain_seconds_left.unwrap()), "{view:?}");
        assert_eq!(view.active_connections + view.inactive_connections, 1);
        // SYN_RECV lasts a minute.
        rig.clock.advance_seconds(61);
        rig.clock.advance_seconds(3);
        until("removed", || real_server(rig).is_none()).await;
        let running = rig.control.borrow().running_config();
        assert_eq!(running.services[0].real_servers.len(), 1, "what is saved has it no more");
    });
}

#[test]
fn real_server_goes_at_its_deadline_and_not_before() {
    Rig::new(CONFIG, 1).run(async |rig| {
        connect(rig).await;
        let begun = std::time::Instant::now();
        drain(rig, 2).await;
        until("removed", || real_server(rig).is_none()).await;
        // The deadline is a whole second of the wall clock.
        assert!(begun.elapsed() > Duration::from_millis(990), "{:?}", begun.elapsed());
        assert_eq!(rig.control.borrow().status().connections, 1, "dropped until it expires");
    });
}

#[test]
fn ended_drain_leaves_the_real_server() {
    Rig::new(CONFIG, 1).run(async |rig| {
        connect(rig).await;
        drain(rig, 3600).await;
        rig.change("set-rs", &format!(r#"{{{SERVICE},"real_server":"{RIP}","drain":false}}"#)).await;
        // A drain that went on would remove it with its last connection.
        rig.clock.advance_seconds(64);
        until("no connection", || rig.control.borrow().status().connections == 0).await;
        a_moment().await;
        assert_eq!(real_server(rig).unwrap().drain_seconds_left, None);
    });
}

#[test]
fn drain_survives_saving_applying_and_a_restart() {
    let mut saved = String::new();
    Rig::new(CONFIG, 1).run(async |rig| {
        connect(rig).await;
        drain(rig, 1000).await;
        let Answer::Config(config) = rig.command("config", "").await.unwrap().answer else { panic!() };
        saved = config.to_toml();
        let config = Config::from_toml(&saved, "saved").unwrap();
        let apply = Command::Apply(ctl::protocol::Apply { config: Box::new(config), dry_run: false });
        let Answer::Changed(changed) = execute(&rig.control, &apply).await.unwrap().answer else { panic!() };
        assert_eq!(changed.changes, [""; 0]);
    });
    let restarted = Rig::new(&saved, 1);
    let left = real_server(&restarted).unwrap().drain_seconds_left.unwrap();
    assert!((900..=1000).contains(&left), "{left}");
    // A restart has forgotten the connection, so nothing holds it.
    restarted.run(async |rig| until("removed", || real_server(rig).is_none()).await);
}

#[test]
fn deadline_that_passed_while_nobody_ran_is_kept_at_the_start() {
    let drained = CONFIG.replacen(
        r#"{ address = "10.0.0.12", mac = "02:00:00:00:00:12" }"#,
        r#"{ address = "10.0.0.12", mac = "02:00:00:00:00:12", drain = { until_unix_seconds = 1000000000 } }"#,
        1,
    );
    assert_ne!(drained, CONFIG);
    let rig = Rig::new(&drained, 1);
    assert_eq!(real_server(&rig).unwrap().drain_seconds_left, Some(0));
    rig.run_without_workers(async |rig| until("removed", || real_server(rig).is_none()).await);
}

/// A client that persistence keeps on the real server, none of whose connections is left.
async fn leave_a_template(rig: &Rig) {
    let persistence = r#""persistence":{"timeout_seconds":600}"#;
    rig.change("set-vip", &format!(r#"{{{SERVICE},{persistence}}}"#)).await;
    connect(rig).await;
    assert_eq!(real_server(rig).unwrap().persistent_connections, 1);
    let templates = rig.command("connections", r#"{"kind":"templates"}"#).await.unwrap().answer;
    let Answer::Connections(templates) = templates else { panic!("{templates:?}") };
    let row = &templates.connections[0];
    assert_eq!((templates.matching, &*row.state, row.real_server.to_string()), (1, "NONE", RIP.to_owned()));
    rig.clock.advance_seconds(64);
    until("no connection", || rig.control.borrow().status().connections == 0).await;
}

#[test]
fn persistent_clients_hold_a_drain_only_where_they_are_kept() {
    Rig::new(CONFIG, 2).run(async |rig| {
        leave_a_template(rig).await;
        let keep =
            format!(r#"{{{SERVICE},"real_server":"{RIP}","timeout_seconds":3600,"keep_persistent":true}}"#);
        rig.change("drain-rs", &keep).await;
        a_moment().await;
        assert!(real_server(rig).is_some());
        rig.clock.advance_seconds(700);
        until("removed", || real_server(rig).is_none()).await;
    });
    Rig::new(CONFIG, 2).run(async |rig| {
        leave_a_template(rig).await;
        drain(rig, 3600).await;
        until("removed", || real_server(rig).is_none()).await;
        let removed = || rig.control.borrow().status().templates;
        assert_eq!(removed(), 1, "it holds the slot, so that the same real server comes back to its client");
        let back = r#"{"address":"10.0.0.12","mac":"02:00:00:00:00:12"}"#;
        rig.change("add-rs", &format!(r#"{{{SERVICE},"real_server":{back}}}"#)).await;
        assert_eq!(real_server(rig).unwrap().persistent_connections, 1);
    });
}
