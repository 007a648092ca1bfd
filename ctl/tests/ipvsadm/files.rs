//! What is saved and restored.

use ctl::config::{ClientAddress, Config, ConnectionsConfig, Forwarding, NatConfig, ServiceConfig, Timeouts};
use ctl::protocol::{Batch, Command};

use crate::changes::{director, fails, group, silent};
use crate::memory::{Memory, ipvsadm, run};

#[test]
fn a_file_is_one_batch_and_an_error_names_its_line() {
    let file = "# comes from a kernel\n-A -t 192.0.2.20:80 -s rr\n\n  ipvsadm -a -t 192.0.2.20:80 -r 10.0.0.11 # the first\r\n\
                -A -f 9\n-a -f 9 -r 10.0.0.11\n--set 0 0 30";
    let mut memory = director();
    assert_eq!(run(&mut memory, &["ipvsadm", "-R"], file), silent());
    let [Command::Batch(Batch { commands })] = &memory.changes[..] else { panic!("{:?}", memory.changes) };
    let verbs: Vec<&str> = commands.iter().map(Command::verb).collect();
    assert_eq!(verbs, ["add-vip", "add-rs", "add-vip", "add-rs", "set-options"]);

    let mut script = director();
    assert_eq!(run(&mut script, &["/usr/sbin/ipvsadm-restore"], file), silent());
    let [Command::Batch(Batch { commands })] = &script.changes[..] else { panic!("{:?}", script.changes) };
    assert_eq!((commands.len(), &commands[0]), (6, &Command::Clear));
    assert_eq!(script.config.services.len(), 2);

    let try_help = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.";
    for (file, exit_code, text) in [
        (
            "-A -t 192.0.2.20:80\n-A -t 192.0.2.20\n",
            2,
            "line 2: Zero port specified for non-persistent service",
        ),
        ("\n\n-A -t 192.0.2.10:80\n", 255, "line 3: Service already exists"),
        ("-C\n-a -t 192.0.2.10:80 -r 10.0.0.12", 255, "line 2: Service not defined"),
        ("-C\n-a -f 7 -r 10.0.0.12", 255, "line 2: Service not defined"),
        ("-C\n-A -f 7\n-d -f 7 -r 10.0.0.12", 255, "line 3: No such destination"),
        ("-d -t 192.0.2.10:80 -r 10.0.0.12", 255, "line 1: No such destination"),
        ("-D -f 7\n-D -f 7", 255, "line 2: No such service"),
        ("-A -f 9\n-A -f 9", 255, "line 2: Service already exists"),
        ("-Z\n-R\n", 255, &format!("line 2: {try_help}")),
        ("-h\n", 255, &format!("line 1: {try_help}")),
        ("nonsense", 255, &format!("line 1: {try_help}")),
    ] {
        let mut director = director();
        let before = director.config.clone();
        assert_eq!(run(&mut director, &["ipvsadm", "-R"], file), fails(exit_code, text), "{file}");
        assert_eq!(director.config, before, "{file}");
    }
}

#[test]
fn comments_of_ours_stand_before_the_line_that_they_are_about() {
    let place = "dr-director: a comment that starts with `# dr-director:` stands before the line that";
    for (file, text) in [
        ("# dr-director: {\"service\":{}}\n-C\n", format!("line 2: {place} adds a service (-A)")),
        (
            "# dr-director: {\"real_server\":{}}\n-A -f 9\n",
            format!("line 2: {place} adds a real server (-a)"),
        ),
        (
            "# dr-director: {\"real_server\":{}}\n# dr-director: {\"service\":{}}\n",
            format!("line 2: {place} adds a real server (-a)"),
        ),
        ("-C\n# dr-director: {\"service\":{}}\n# dr-director: end\n", format!("line 2: {place} it is about")),
        (
            "# dr-director: {\"service\":{\"group\":\"web\"}}\n-A -t 192.0.2.20:80\n",
            "line 2: dr-director: only a firewall mark (-f) has a group's name".to_owned(),
        ),
        (
            "#dr-director:{\"service\":{\"members\":[{\"protocol\":\"tcp\",\"address\":\"192.0.2.30\",\"port\":80}]}}\n\
             -A -t 192.0.2.20:80\n",
            "line 2: dr-director: only a firewall mark (-f) has members".to_owned(),
        ),
    ] {
        assert_eq!(run(&mut director(), &["ipvsadm", "-R"], file), fails(2, &text), "{file}");
    }
    let printed = run(&mut director(), &["ipvsadm", "-R"], "# dr-director: {\"nonsense\":1}");
    assert_eq!(printed.exit_code, 2);
    let start = "line 1: dr-director: the comment says nothing that is known: unknown variant `nonsense`";
    assert!(printed.stderr.starts_with(start), "{}", printed.stderr);
}

#[test]
fn a_file_of_ours_that_was_cut_is_refused_and_changes_nothing() {
    let mut saver = director();
    saver.config.services[0].slow_start_seconds = 20;
    let saved = ipvsadm(&mut saver, "-Sn").stdout;
    let lines: Vec<&str> = saved.split_inclusive('\n').collect();
    let text = |number| {
        let what = "the file that begins here was cut: no line `# dr-director: end` comes after it";
        let help = "help: save again; where the rest is known not to matter, add that line";
        format!("line {number}: dr-director: {what}\ndr-director: {help}")
    };
    for program in ["ipvsadm -R", "ipvsadm-restore"] {
        let words: Vec<&str> = program.split(' ').collect();
        for kept in 1..lines.len() {
            let mut loader = Memory::default();
            let before = loader.config.clone();
            assert_eq!(run(&mut loader, &words, &lines[..kept].concat()), fails(2, &text(1)), "{kept}");
            assert_eq!(loader.config, before, "{kept}");
        }
        // Lines before and after it are somebody's own, and a second file may follow.
        let whole = format!("-C\n{saved}-A -t 192.0.2.40:80\n");
        assert_eq!(run(&mut Memory::default(), &words, &whole), silent());
        let cut = format!("{saved}{}", lines[..2].concat());
        assert_eq!(run(&mut Memory::default(), &words, &cut), fails(2, &text(lines.len() + 1)));
    }
}

#[test]
fn restore_script_without_anything_to_restore_is_refused_and_an_empty_table_is_something() {
    let text = "dr-director: there is nothing to restore, and nothing was changed\n\
                dr-director: help: was what should be restored saved? `ipvsadm -C` removes every service";
    for input in ["", "\n", "# a comment\n"] {
        let mut director = director();
        let before = director.config.clone();
        assert_eq!(run(&mut director, &["ipvsadm-restore"], input), fails(2, text), "{input:?}");
        assert_eq!(director.config, before);
        // Which says what is to be done and clears nothing by itself.
        assert_eq!(run(&mut director, &["ipvsadm", "-R"], input), silent());
    }
    let mut director = director();
    let saved = ipvsadm(&mut Memory::default(), "-Sn").stdout;
    assert_eq!(run(&mut director, &["ipvsadm-restore"], &saved), silent());
    assert_eq!(director.config.services, []);
}

#[test]
fn a_mark_that_ipvsadm_saved_as_a_negative_number_is_restored_as_the_mark_that_it_is() {
    let mut director = Memory::default();
    let file = "-A -f -1 -s lc\n-a -f -1 -r 10.0.0.11:0 -g -w 1\n";
    assert_eq!(run(&mut director, &["ipvsadm", "-R"], file), silent());
    let [service] = &director.config.services[..] else { panic!("{:?}", director.config) };
    assert_eq!((service.fwmark, service.real_servers.len()), (Some(u32::MAX), 1));
    // On the command line it is what ipvsadm refuses.
    let refused = ipvsadm(&mut director, "-D -f -1");
    assert_eq!(refused, fails(2, "invalid fwmark value `-1' specified"));
}

#[test]
fn what_ipvsadm_cannot_save_is_saved() {
    let mut director = director();
    let timeouts = Timeouts { udp: Some(30), tcp_syn_recv: Some(5), ..Timeouts::default() };
    director.config.connections =
        Some(ConnectionsConfig { timeouts, sloppy_tcp: true, ..ConnectionsConfig::default() });
    let services = &mut director.config.services;
    services[0].slow_start_seconds = 20;
    services[0].real_servers[0].upper_threshold = 1000;
    services[0].real_servers[0].lower_threshold = 750;
    services[0].real_servers[0].mac = Some("02:00:00:00:00:11".parse().unwrap());
    services.push(ServiceConfig::new(group("unmarked")));
    let saved = r#"# dr-director: begin
--set 0 0 30
# dr-director: {"connections":{"timeouts":{"tcp_syn_recv":5},"sloppy_tcp":true}}
# dr-director: {"service":{"slow_start_seconds":20}}
-A -t 192.0.2.10:80 -s wlc
# dr-director: {"real_server":{"mac":"02:00:00:00:00:11"}}
-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1 -x 1000 -y 750
# dr-director: {"service":{"group":"shop"}}
-A -f 7 -s wlc
-a -f 7 -r 10.0.0.11:0 -g -w 1
# dr-director: {"add_service":{"group":"unmarked","scheduler":"wlc","real_servers":[]}}
# dr-director: end
"#;
    let printed = ipvsadm(&mut director, "-Sn");
    assert_eq!(printed.stdout, saved);
    assert_eq!(run(&mut director, &["ipvsadm-save", "-n", "word"], "").stdout, saved);
}

/// ipvsadm knows full NAT as NAT, and the local addresses not at all.
#[test]
fn full_nat_is_saved_as_nat_with_what_makes_it_whole() {
    let mut director = director();
    let local_addresses = vec![[10, 0, 0, 200].into(), "2001:db8::200".parse().unwrap()];
    director.config.nat = Some(NatConfig { local_addresses });
    director.config.services.truncate(1);
    let real_server = &mut director.config.services[0].real_servers[0];
    real_server.forwarding = Forwarding::FullNat;
    real_server.client_address = ClientAddress::ProxyV2;
    real_server.port = Some(8080);
    let saved = r#"# dr-director: begin
# dr-director: {"nat":{"local_addresses":["10.0.0.200","2001:db8::200"]}}
-A -t 192.0.2.10:80 -s wlc
# dr-director: {"real_server":{"is_full_nat":true,"client_address":"proxy-v2"}}
-a -t 192.0.2.10:80 -r 10.0.0.11:8080 -m -w 1
# dr-director: end
"#;
    assert_eq!(ipvsadm(&mut director, "-Sn").stdout, saved);
    // A local address that is there already stays.
    let nat = Some(NatConfig { local_addresses: vec![[10, 0, 0, 200].into()] });
    let mut loader = Memory { config: Config { nat, ..Config::default() }, ..Memory::default() };
    assert_eq!(run(&mut loader, &["ipvsadm-restore"], saved), silent());
    assert_eq!(loader.config, director.config);
    let wrong = saved.replace(" -m ", " -g ");
    let printed = run(&mut Memory::default(), &["ipvsadm-restore"], &wrong);
    assert_eq!(printed, fails(2, "line 5: dr-director: only a real server behind NAT (-m) has full NAT"));
}
