//! A large table: what `-S` wrote of 200,000 lines is restored, in one change.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use lab::{DirectorProcess, Lab, process};

/// With as many real servers each: 200,000 lines together.
const SERVICES: usize = 2000;
const REAL_SERVERS: usize = 99;

/// Lines as `-S` writes them.
fn table() -> String {
    let mut text = String::new();
    for number in 0..SERVICES {
        let service = format!("172.16.{}.{}:80", number / 250, number % 250 + 1);
        text += &format!("-A -t {service} -s wlc\n");
        for last in 110..110 + REAL_SERVERS {
            text += &format!("-a -t {service} -r 10.0.0.{last}:80 -g -w 1\n");
        }
    }
    text
}

/// `dr-ctl ipvsadm`, with time for a busy machine.
fn ipvsadm(director: &DirectorProcess, words: &[&str], input: Option<File>) -> Result<String> {
    let mut command = director.ctl_command(&[&["--answer-timeout", "120", "ipvsadm"], words].concat());
    if let Some(input) = input {
        command.stdin(input);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "ipvsadm {words:?}: {}", process::text(&output.stderr));
    Ok(process::text(&output.stdout))
}

fn lines(saved: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = saved.lines().filter(|line| !line.starts_with('#')).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn table_of_200_000_lines_is_restored_from_what_was_saved_of_it() -> Result<()> {
    let lab = Lab::builder().real_servers(0).build()?;
    let mut config = lab.configuration()?;
    config.director.service_capacity = 2 * SERVICES as u32;
    // Those that a restore removes keep their places until the workers have let go of them.
    config.director.real_server_capacity = 3 * (SERVICES * REAL_SERVERS) as u32;
    let director = lab.start_director(&config)?;
    let file = lab.network().directory().join("table");
    fs::write(&file, table())?;
    ipvsadm(&director, &["-R"], Some(File::open(&file)?))?;
    let saved = ipvsadm(&director, &["-Sn"], None)?;
    ensure!(lines(&saved) == lines(&table()), "it was loaded otherwise");
    ensure!(saved.lines().count() == SERVICES * (REAL_SERVERS + 1) + 2, "{}", saved.lines().count());

    // Restored again after a clear among its lines, and nothing was lost of a wrong one.
    fs::write(&file, format!("-C\n{saved}"))?;
    ipvsadm(&director, &["-R"], Some(File::open(&file)?))?;
    let wrong = saved.replacen("-r 10.0.0.150:80", "-r 10.9.0.150:80", 1);
    fs::write(&file, format!("-C\n{wrong}"))?;
    let error = ipvsadm(&director, &["-R"], Some(File::open(&file)?)).err().context("it was taken")?;
    ensure!(error.to_string().contains("line 44: "), "{error:#}");
    ensure!(lines(&ipvsadm(&director, &["-Sn"], None)?) == lines(&saved), "something was lost");
    director.finish()
}
