//! SSH: a real server (OpenSSH) on a host, and sessions and copies of a client's.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::process::{self, Process};
use crate::transfer::random_bytes;

/// More than a window: a copy lasts a while.
const FILE_BYTES: usize = 4 << 20;

/// Seconds that a client waits for a connection.
const CONNECT_SECONDS: u32 = 10;

/// A server that runs on port 22 of all addresses, for root and one key.
pub struct SshServer {
    host: Host,
    key: PathBuf,
    bytes: Vec<u8>,
    _process: Process,
}

impl SshServer {
    /// Starts it.
    pub fn start(host: &Host) -> Result<SshServer> {
        let directory = host.directory().join("ssh");
        fs::create_dir(&directory)?;
        let (host_key, key) = (directory.join("host_key"), directory.join("key"));
        for path in [&host_key, &key] {
            process::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))?;
        }
        let configuration = format!(
            "HostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\n\
             PermitRootLogin yes\nUseDNS no\nSubsystem sftp internal-sftp\n",
            host_key.display(),
            key.display()
        );
        let file = directory.join("sshd_config");
        fs::write(&file, configuration)?;
        fs::set_permissions(&key, Permissions::from_mode(0o600))?;
        let bytes = random_bytes(FILE_BYTES)?;
        fs::write(directory.join("offered"), &bytes)?;
        // sshd wants a directory below /run, which the machine that this runs on need not have.
        const SCRIPT: &str =
            "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
        let mut process = host.spawn(&["sh", "-c", SCRIPT, text(&file)?])?;
        process.wait_for_output("Server listening on")?;
        Ok(SshServer { host: host.clone(), key, bytes, _process: process })
    }

    /// What a command in a session prints.
    pub fn run(&self, client: &Host, server: IpAddr, command: &str) -> Result<String> {
        let target = format!("root@{server}");
        let mut arguments = vec!["ssh"];
        let options = self.options()?;
        arguments.extend(options.iter().map(String::as_str));
        arguments.extend([target.as_str(), command]);
        client.run(&arguments)
    }

    /// A file from the server to the client and one back, byte for byte.
    pub fn copy(&self, client: &Host, server: IpAddr) -> Result<()> {
        let directory = self.host.directory().join("ssh");
        let (offered, taken) = (directory.join("offered"), directory.join("taken"));
        let copy = client.directory().join("copied");
        let remote = |path: &Path| format!("root@[{server}]:{}", path.display());
        self.scp(client, &remote(&offered), text(&copy)?)?;
        ensure!(fs::read(&copy)? == self.bytes, "other bytes came from {server}");
        self.scp(client, text(&copy)?, &remote(&taken))?;
        ensure!(fs::read(&taken)? == self.bytes, "other bytes arrived at {server}");
        Ok(())
    }

    fn scp(&self, client: &Host, from: &str, to: &str) -> Result<()> {
        let options = self.options()?;
        let mut arguments = vec!["scp", "-q"];
        arguments.extend(options.iter().map(String::as_str));
        arguments.extend([from, to]);
        client.run(&arguments).map(drop)
    }

    /// Away from whatever the user's own files say.
    fn options(&self) -> Result<Vec<String>> {
        let options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ];
        let mut words =
            vec!["-F".to_owned(), "/dev/null".to_owned(), "-i".to_owned(), text(&self.key)?.to_owned()];
        for option in
            options.map(str::to_owned).into_iter().chain([format!("ConnectTimeout={CONNECT_SECONDS}")])
        {
            words.extend(["-o".to_owned(), option]);
        }
        Ok(words)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary directory's name is not UTF-8")
}
