//! Commands over real workers: acknowledged when all of them run the change, and all or nothing.

use ctl::protocol::{Command, ErrorCode, RealServerState};
use director::control::Answer;

use crate::rig::{Rig, command};
use crate::{CONFIG, SERVICE};

fn generation(rig: &Rig) -> u64 {
    rig.control.borrow().newest_generation()
}

#[test]
fn change_is_answered_when_every_worker_runs_it() {
    Rig::new(CONFIG, 3).run(async |rig| {
        for weight in 2..50 {
            let arguments = format!(r#"{{{SERVICE},"address":"10.0.0.11","weight":{weight}}}"#);
            let executed = rig.command("set-rs", &arguments).await.unwrap();
            assert!(rig.control.borrow().oldest_running() >= executed.generation);
            assert_eq!(executed.generation, generation(rig));
        }
    });
}

#[test]
fn change_without_effect_publishes_nothing() {
    Rig::new(CONFIG, 1).run(async |rig| {
        // The neighbours' first answers publish on their own; there are none here.
        let before = generation(rig);
        let lines = rig.change("set-rs", &format!(r#"{{{SERVICE},"address":"10.0.0.11","weight":1}}"#)).await;
        assert!(lines.is_empty());
        assert_eq!(generation(rig), before);
    });
}

#[test]
fn dry_run_tells_the_changes_and_makes_none() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let before = (generation(rig), rig.control.borrow().running_config());
        let lines = rig.change("apply", r#"{"config":{"services":[]},"dry_run":true}"#).await;
        assert_eq!(lines.len(), 2);
        assert_eq!((generation(rig), rig.control.borrow().running_config()), before);
        assert_eq!(rig.change("apply", r#"{"config":{"services":[]}}"#).await, lines);
        assert!(rig.control.borrow().running_config().services.is_empty());
        assert!(rig.change("apply", r#"{"config":{"services":[]}}"#).await.is_empty(), "applied twice");
    });
}

#[test]
fn refused_commands_leave_everything_as_it_was() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let before = (generation(rig), rig.control.borrow().running_config());
        let many: Vec<_> = (20..90).map(|host| format!(r#"{{"address":"10.0.0.{host}"}}"#)).collect();
        let too_many = format!(
            r#"{{"protocol":"tcp","address":"192.0.2.11","port":80,"real_servers":[{}]}}"#,
            many.join(",")
        );
        for (verb, arguments, code) in [
            ("add-vip", too_many.as_str(), ErrorCode::Full),
            ("add-vip", r#"{"protocol":"tcp","address":"192.0.2.1","port":80}"#, ErrorCode::Invalid),
            (
                "del-vip",
                r#"{"service":{"protocol":"tcp","address":"192.0.2.10","port":81}}"#,
                ErrorCode::NotFound,
            ),
            (
                "show",
                r#"{"service":{"protocol":"tcp","address":"192.0.2.10","port":81}}"#,
                ErrorCode::NotFound,
            ),
            (
                "stats",
                r#"{"service":{"protocol":"udp","address":"192.0.2.10","port":80}}"#,
                ErrorCode::NotFound,
            ),
            ("apply", r#"{"config":{"director":{"memory_mib":77},"services":[]}}"#, ErrorCode::Invalid),
        ] {
            let error = rig.command(verb, arguments).await.unwrap_err();
            assert_eq!(error.code, code, "{verb}: {}", error.message);
            assert!(!error.message.is_empty());
        }
        assert_eq!((generation(rig), rig.control.borrow().running_config()), before);
    });
}

#[test]
fn config_that_runs_can_be_saved_and_applied_again() {
    Rig::new(CONFIG, 1).run(async |rig| {
        rig.change("drain-rs", &format!(r#"{{{SERVICE},"address":"10.0.0.12"}}"#)).await;
        let executed = rig.command("config", "").await.unwrap();
        let Answer::Config(config) = executed.answer else { panic!("{executed:?}") };
        let saved = ctl::config::Config::from_toml(&config.to_toml(), "saved").unwrap();
        assert_eq!(saved, config);
        let apply = Command::Apply(ctl::protocol::Apply { config: saved, dry_run: false });
        let executed = director::control::execute(&rig.control, &apply).await.unwrap();
        let Answer::Changed(changed) = executed.answer else { panic!("{executed:?}") };
        assert!(changed.changes.is_empty(), "{changed:?}");
    });
}

#[test]
fn change_that_workers_do_not_take_is_answered_as_late_and_stays_queued() {
    let rig = Rig::new(CONFIG, 2);
    rig.workers.borrow_mut()[0].poll();
    rig.run_without_workers(async |rig| {
        let arguments = format!(r#"{{{SERVICE},"address":"10.0.0.11","weight":9}}"#);
        let set = command("set-rs", &arguments);
        let late = director::control::execute(&rig.control, &set);
        // Queries are answered meanwhile.
        let query = async {
            tokio::task::yield_now().await;
            rig.command("status", "").await
        };
        let (late, status) = tokio::join!(late, query);
        assert!(status.is_ok());
        let error = late.unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
        assert!(
            error.message.contains("worker 0 still runs generation 1, worker 1 still"),
            "{}",
            error.message
        );
        let newest = generation(rig);
        assert!(rig.control.borrow().oldest_running() < newest);
        rig.workers.borrow_mut().iter_mut().for_each(|worker| worker.poll());
        assert_eq!(rig.control.borrow().oldest_running(), newest);
        let lines = rig.change("set-rs", &arguments).await;
        assert!(lines.is_empty(), "it was made: {lines:?}");
    });
}

#[test]
fn show_tells_why_a_real_server_gets_nothing() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let state = |address: &str| {
            let show = rig.control.borrow().show(&Default::default()).unwrap();
            let real_servers = show.services[0].real_servers.clone();
            real_servers.into_iter().find(|view| view.address.to_string() == address).unwrap().state
        };
        assert_eq!(
            (state("10.0.0.11"), state("10.0.0.12")),
            (RealServerState::Unresolved, RealServerState::Up)
        );
        rig.change("set-rs", &format!(r#"{{{SERVICE},"address":"10.0.0.12","weight":0}}"#)).await;
        assert_eq!(state("10.0.0.12"), RealServerState::Quiesced);
        rig.change("drain-rs", &format!(r#"{{{SERVICE},"address":"10.0.0.12"}}"#)).await;
        assert_eq!(state("10.0.0.12"), RealServerState::Draining);
        let warnings = rig.control.borrow().status().warnings;
        let has = |text: &str| warnings.iter().any(|warning| warning.contains(text));
        assert!(has("no real server that gets new connections: tcp 192.0.2.10:80"), "{warnings:?}");
        assert!(has("never answered ARP and get no connections: 10.0.0.11"), "{warnings:?}");
    });
}
