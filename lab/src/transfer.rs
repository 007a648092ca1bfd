//! Large files over HTTP in both directions, byte for byte.

use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::real_server::RealServer;
use crate::wait::HANGS;

/// Seconds without a byte after which a transfer has stalled. TCP's second retransmission of one segment is later.
const STALL_SECONDS: u32 = 5;

/// A file of random bytes, in the network's directory.
pub struct RandomFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl RandomFile {
    /// Makes it.
    pub fn create(directory: &Path, length: usize) -> Result<RandomFile> {
        let path = directory.join(format!("random-{length}"));
        let bytes = random_bytes(length)?;
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(RandomFile { path, bytes })
    }

    /// Lets it be got from a real server.
    pub fn offer(&self, server: &RealServer) -> Result<()> {
        let link = server.host.directory().join("files/random");
        let _ = fs::remove_file(&link);
        fs::hard_link(&self.path, &link).with_context(|| format!("cannot make {}", link.display()))
    }

    /// Gets it from the real server behind a service, and compares. What does not come for five seconds is an error.
    pub fn download(&self, client: &Host, service: SocketAddr) -> Result<()> {
        let copy = client.directory().join("download");
        let url = format!("http://{service}/files/random");
        curl(client, &["--output", text(&copy)?, &url])?;
        ensure!(fs::read(&copy)? == self.bytes, "other bytes arrived from {service}");
        fs::remove_file(&copy).context("cannot remove a download")
    }

    /// Puts it on the one real server behind a service, and compares.
    pub fn upload(&self, client: &Host, service: SocketAddr, server: &RealServer) -> Result<()> {
        curl(client, &["--upload-file", text(&self.path)?, &format!("http://{service}/upload/random")])?;
        let copy = server.host.directory().join("upload/random");
        ensure!(fs::read(&copy)? == self.bytes, "other bytes arrived at {}", server.name());
        fs::remove_file(&copy).context("cannot remove an upload")
    }
}

/// Random bytes.
pub fn random_bytes(length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn curl(client: &Host, arguments: &[&str]) -> Result<()> {
    let (stall, hangs) = (STALL_SECONDS.to_string(), HANGS.as_secs().to_string());
    let mut command =
        vec!["curl", "--silent", "--show-error", "--fail", "--speed-limit", "1", "--speed-time", &stall];
    command.extend(["--max-time", &hangs, "--header", "Expect:"]);
    command.extend(arguments);
    client.run(&command).map(drop)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary directory's name is not UTF-8")
}
