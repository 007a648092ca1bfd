//! Commands over real workers: acknowledged when all of them run the change, and all or nothing.

use ctl::protocol::{Command, ErrorCode, RealServerState};
use director::commands::{Answer, execute};

use crate::rig::{Rig, command};
use crate::{CONFIG, SERVICE};

fn generation(rig: &Rig) -> u64 {
    rig.control.borrow().newest_generation()
}

#[test]
fn change_is_answered_when_every_worker_runs_it() {
    Rig::new(CONFIG, 3).run(async |rig| {
        for weight in 2..50 {
            let arguments = format!(r#"{{{SERVICE},"real_server":"10.0.0.11","weight":{weight}}}"#);
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
        let lines =
            rig.change("set-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.11","weight":1}}"#)).await;
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
        rig.change("drain-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.12"}}"#)).await;
        let executed = rig.command("config", "").await.unwrap();
        let Answer::Config(config) = executed.answer else { panic!("{executed:?}") };
        let saved = ctl::config::Config::from_toml(&config.to_toml(), "saved").unwrap();
        assert_eq!(saved, config);
        let apply = Command::Apply(ctl::protocol::Apply { config: Box::new(saved), dry_run: false });
        let executed = execute(&rig.control, &apply).await.unwrap();
        let Answer::Changed(changed) = executed.answer else { panic!("{executed:?}") };
        assert!(changed.changes.is_empty(), "{changed:?}");
    });
}

#[test]
fn change_that_workers_do_not_take_is_answered_as_late_and_stays_queued() {
    let rig = Rig::new(CONFIG, 2);
    rig.workers.borrow_mut()[0].poll();
    rig.run_without_workers(async |rig| {
        let arguments = format!(r#"{{{SERVICE},"real_server":"10.0.0.11","weight":9}}"#);
        let set = command("set-rs", &arguments);
        let late = execute(&rig.control, &set);
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
        rig.change("set-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.12","weight":0}}"#)).await;
        assert_eq!(state("10.0.0.12"), RealServerState::Quiesced);
        rig.change("drain-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.12"}}"#)).await;
        assert_eq!(state("10.0.0.12"), RealServerState::Draining);
        let warnings = rig.control.borrow().status().warnings;
        let has = |text: &str| warnings.iter().any(|warning| warning.contains(text));
        assert!(has("no real server that gets new connections: tcp 192.0.2.10:80"), "{warnings:?}");
        assert!(has("never answered, so nothing goes there: 10.0.0.11"), "{warnings:?}");
    });
}

#[test]
fn batch_is_one_publication_and_one_with_an_error_changes_nothing() {
    Rig::new(CONFIG, 2).run(async |rig| {
        let before = (generation(rig), rig.control.borrow().running_config());
        let set = |weight: u32| {
            format!(
                r#"{{"verb":"set-rs","arguments":{{{SERVICE},"real_server":"10.0.0.11","weight":{weight}}}}}"#
            )
        };
        let missing = format!(r#"{{"verb":"del-rs","arguments":{{{SERVICE},"real_server":"10.0.0.99"}}}}"#);
        let broken = format!(r#"{{"commands":[{},{},{missing},{}]}}"#, set(5), r#"{"verb":"clear"}"#, set(7));
        let error = rig.command("batch", &broken).await.unwrap_err();
        assert_eq!((error.code, error.index), (ErrorCode::NotFound, Some(2)));
        assert_eq!((generation(rig), rig.control.borrow().running_config()), before);
        let many: Vec<_> = (2..40).map(set).collect();
        let lines = rig.change("batch", &format!(r#"{{"commands":[{}]}}"#, many.join(","))).await;
        assert_eq!(lines, ["weight of real server 10.0.0.11 of tcp 192.0.2.10:80: 1 -> 39"]);
        assert_eq!(generation(rig), before.0 + 1);
        let full: Vec<_> = (20..90)
            .map(|host| {
                let real_server = format!(r#""real_server":{{"address":"10.0.0.{host}"}}"#);
                format!(r#"{{"verb":"add-rs","arguments":{{{SERVICE},{real_server}}}}}"#)
            })
            .collect();
        let error =
            rig.command("batch", &format!(r#"{{"commands":[{}]}}"#, full.join(","))).await.unwrap_err();
        // Three run, 64 fit.
        assert_eq!((error.code, error.index), (ErrorCode::Full, Some(61)), "{}", error.message);
    });
}

#[test]
fn options_change_at_run_time_and_are_saved_and_a_file_without_them_leaves_them() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let lines = rig.change("set-options", r#"{"sloppy_tcp":true,"timeouts":{"udp":30}}"#).await;
        assert_eq!(lines, ["timeout udp: default (300 s) -> 30 s", "sloppy_tcp: false -> true"]);
        let running = rig.control.borrow().running_config();
        let saved = ctl::config::Config::from_toml(&running.to_toml(), "saved").unwrap();
        assert_eq!(saved.connections.as_ref().unwrap().timeouts.udp, Some(30));
        let status = rig.control.borrow().status();
        assert_eq!(status.connection_options.timeouts.udp, Some(30));
        assert_eq!(status.connection_options.timeouts.tcp_established, Some(900));
        let services = serde_json::to_string(&running.services).unwrap();
        let without = format!(r#"{{"config":{{"services":{services}}}}}"#);
        assert!(rig.change("apply", &without).await.is_empty());
        let with = format!(r#"{{"config":{{"connections":{{}},"services":{services}}}}}"#);
        assert_eq!(rig.change("apply", &with).await.len(), 2);
    });
}

#[test]
fn zero_starts_what_people_see_again_and_nothing_else() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let vip = ("192.0.2.10".parse().unwrap(), 80);
        let send = async |count: u16, total: u64| {
            for port in 0..count {
                let client = ("198.51.100.7".parse().unwrap(), 1000 + port);
                rig.inject(1, &crate::rig::tcp([2, 0, 0, 0, 1, 1], client, vip, "S"));
            }
            let forwarded = || rig.control.borrow().stats(&Default::default()).unwrap().totals.forwarded;
            crate::rig::until("forwarded", || forwarded() == total).await;
        };
        let counters = || {
            let control = rig.control.borrow();
            let seen = control.stats(&Default::default()).unwrap().services[0].clone();
            let text = director::metrics::Scrape::take(&control).to_text().unwrap();
            let line = text.lines().find(|line| line.starts_with("dr_service_packets_total{")).unwrap();
            let exported: u64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            let [_, second] = &seen.real_servers[..] else { panic!("{seen:?}") };
            (seen.totals.packets, second.counters.packets, exported)
        };
        send(10, 10).await;
        assert_eq!(counters(), (10, 10, 10));
        let before = generation(rig);
        let lines = rig.change("zero", &format!("{{{SERVICE}}}")).await;
        assert_eq!(lines, ["counters of tcp 192.0.2.10:80 start at 0"]);
        assert_eq!(generation(rig), before, "no worker has a part in it");
        assert_eq!(counters(), (0, 0, 10));
        send(3, 13).await;
        assert_eq!(counters(), (3, 3, 13));
        assert_eq!(rig.change("zero", "{}").await, ["counters of all 2 virtual services start at 0"]);
        assert_eq!(counters(), (0, 0, 13));
        let missing = r#"{"service":{"protocol":"tcp","address":"192.0.2.10","port":81}}"#;
        assert_eq!(rig.command("zero", missing).await.unwrap_err().code, ErrorCode::NotFound);
    });
}

#[test]
fn real_server_at_its_threshold_is_shown_as_overloaded() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let set = format!(r#"{{{SERVICE},"real_server":"10.0.0.12","upper_threshold":2}}"#);
        rig.change("set-rs", &set).await;
        for port in 1..5 {
            let client = ("198.51.100.7".parse().unwrap(), port);
            let frame = crate::rig::tcp([2, 0, 0, 0, 1, 1], client, ("192.0.2.10".parse().unwrap(), 80), "S");
            rig.inject(1, &frame);
        }
        let stats = || rig.control.borrow().stats(&Default::default()).unwrap();
        crate::rig::until("received", || stats().totals.received == 4).await;
        assert_eq!(stats().totals.drops["no_real_server"], 2);
        let show = rig.control.borrow().show(&Default::default()).unwrap();
        let view = &show.services[0].real_servers[1];
        assert_eq!((view.state, view.upper_threshold), (RealServerState::Overloaded, 2));
        assert_eq!(rig.control.borrow().status().real_servers_up, 1, "the other service's");
    });
}

#[test]
fn member_that_is_removed_keeps_its_connections() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let group = r#"{"group":"web","scheduler":"rr",
            "members":[{"protocol":"tcp","address":"192.0.2.20","port":80},
                       {"protocol":"tcp","address":"192.0.2.21","port":80}],
            "real_servers":[{"address":"10.0.0.12","mac":"02:00:00:00:00:12"}]}"#;
        rig.change("add-vip", group).await;
        let send = async |flags: &str, forwarded: u64, received: u64| {
            let client = ("198.51.100.7".parse().unwrap(), 1000);
            let vip = ("192.0.2.20".parse().unwrap(), 80);
            rig.inject(1, &crate::rig::tcp([2, 0, 0, 0, 1, 1], client, vip, flags));
            let totals = || rig.control.borrow().stats(&Default::default()).unwrap().totals;
            crate::rig::until("received", || totals().received == received).await;
            assert_eq!(totals().forwarded, forwarded, "{:?}", totals());
        };
        send("S", 1, 1).await;
        let member = r#"{"group":"web","member":{"protocol":"tcp","address":"192.0.2.20","port":80}}"#;
        assert_eq!(
            rig.change("del-member", member).await,
            ["removed member tcp 192.0.2.20:80 from group web"]
        );
        send("A", 2, 2).await;
        let filter = r#"{"service":{"group":"web"}}"#;
        let Answer::Connections(listed) = rig.command("connections", filter).await.unwrap().answer else {
            panic!()
        };
        assert_eq!(listed.matching, 1, "still the group's");
    });
}
