//! Forwarding methods and local addresses by commands: what is told, shown, saved and refused.

use ctl::config::Forwarding;
use ctl::protocol::ErrorCode;

use crate::rig::Rig;
use crate::{CONFIG, SERVICE};

#[test]
fn real_servers_are_named_by_address_and_port() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let add = |port: &str| {
            format!(r#"{{{SERVICE},"real_server":{{"address":"10.0.0.13","forwarding":"nat"{port}}}}}"#)
        };
        for port in [8080, 8081] {
            assert_eq!(
                rig.change("add-rs", &add(&format!(",\"port\":{port}"))).await,
                [format!(
                    "added real server 10.0.0.13:{port} to tcp 192.0.2.10:80, weight 1, forwarding nat"
                )]
            );
        }
        let twice = rig.command("add-rs", &add(",\"port\":8080")).await.unwrap_err();
        assert_eq!(twice.code, ErrorCode::Exists);
        rig.change("add-rs", &add(",\"port\":80")).await;
        let own = rig.command("add-rs", &add("")).await.unwrap_err();
        assert_eq!(own.code, ErrorCode::Exists, "80 is the service's own: {}", own.message);
        let set = format!(r#"{{{SERVICE},"real_server":"10.0.0.13:8080","weight":7}}"#);
        assert_eq!(
            rig.change("set-rs", &set).await,
            ["weight of real server 10.0.0.13:8080 of tcp 192.0.2.10:80: 1 -> 7"]
        );
        let removed = format!(r#"{{{SERVICE},"real_server":"10.0.0.13:80"}}"#);
        assert_eq!(
            rig.change("del-rs", &removed).await,
            ["removed real server 10.0.0.13 from tcp 192.0.2.10:80"]
        );
        let show = rig.control.borrow().show(&Default::default()).unwrap();
        let names: Vec<_> = show.services[0].real_servers.iter().map(|one| one.id().to_string()).collect();
        assert_eq!(names, ["10.0.0.11", "10.0.0.12", "10.0.0.13:8080", "10.0.0.13:8081"]);
        let saved = rig.control.borrow().running_config();
        assert_eq!(saved.services[0].real_servers[2].port, Some(8080));
    });
}

#[test]
fn method_of_a_real_server_is_changed_in_words() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let set = |what: &str| format!(r#"{{{SERVICE},"real_server":"10.0.0.11",{what}}}"#);
        for (what, line) in [
            (r#""forwarding":"tunnel""#, "dr -> tunnel ipip"),
            (r#""tunnel":{"type":"gue","port":6080,"checksum":"csum"}"#, "tunnel ipip -> tunnel gue:6080:+c"),
            (r#""forwarding":"nat""#, "tunnel gue:6080:+c -> nat"),
            (r#""forwarding":"dr""#, "nat -> dr"),
        ] {
            let line = format!("forwarding of real server 10.0.0.11 of tcp 192.0.2.10:80: {line}");
            assert_eq!(rig.change("set-rs", &set(what)).await, [line]);
        }
        let error = rig.command("set-rs", &set(r#""tunnel":{"type":"gre"}"#)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{}", error.message);
    });
}

#[test]
fn full_nat_needs_a_local_address_that_is_free_and_keeps_its_last_one() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let full = format!(
            r#"{{{SERVICE},"real_server":"10.0.0.11","forwarding":"fullnat","client_address":"toa"}}"#
        );
        assert_eq!(rig.command("set-rs", &full).await.unwrap_err().code, ErrorCode::Invalid);
        for (address, code) in [
            ("10.0.0.11", ErrorCode::Invalid),
            ("192.0.2.10", ErrorCode::Invalid),
            ("10.0.0.1", ErrorCode::Invalid),
            ("203.0.113.1", ErrorCode::Invalid),
        ] {
            let error = rig.command("add-lip", &format!(r#"{{"address":"{address}"}}"#)).await.unwrap_err();
            assert_eq!(error.code, code, "{address}: {}", error.message);
        }
        let local = r#"{"address":"10.0.0.200"}"#;
        assert_eq!(rig.change("add-lip", local).await, ["added local address 10.0.0.200"]);
        assert_eq!(rig.command("add-lip", local).await.unwrap_err().code, ErrorCode::Exists);
        let line = "forwarding of real server 10.0.0.11 of tcp 192.0.2.10:80: dr -> fullnat with toa";
        assert_eq!(rig.change("set-rs", &full).await, [line]);
        assert_eq!(rig.command("del-lip", local).await.unwrap_err().code, ErrorCode::Invalid, "it is needed");
        let show = rig.control.borrow().show(&Default::default()).unwrap();
        assert_eq!(show.services[0].real_servers[0].forwarding, Forwarding::FullNat);
        let vip = rig.command("add-vip", r#"{"protocol":"tcp","address":"10.0.0.200","port":80}"#).await;
        assert_eq!(vip.unwrap_err().code, ErrorCode::Invalid, "a local address is no VIP");
        rig.change("set-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.11","forwarding":"dr"}}"#)).await;
        assert_eq!(rig.change("del-lip", local).await, ["removed local address 10.0.0.200"]);
        assert_eq!(rig.command("del-lip", local).await.unwrap_err().code, ErrorCode::NotFound);
    });
}

#[test]
fn batch_adds_local_addresses_with_those_who_need_them() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let batch = format!(
            r#"{{"commands":[
                {{"verb":"add-lip","arguments":{{"address":"10.0.0.200"}}}},
                {{"verb":"set-rs","arguments":{{{SERVICE},"real_server":"10.0.0.11","forwarding":"fullnat"}}}}
            ]}}"#
        );
        let lines = rig.change("batch", &batch.replace('\n', "")).await;
        assert_eq!(lines[0], "added local address 10.0.0.200");
        assert_eq!(lines.len(), 2);
    });
}
