//! FTP: a real server (vsftpd), and clients (curl, and the `ftp` of BSD) that transfer in every mode.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::unistd::{User, chown};

use crate::host::Host;
use crate::process::Process;
use crate::site::Family;
use crate::transfer::random_bytes;
use crate::wait;

/// FTP's port of the control connection.
pub const PORT: u16 = 21;

/// More than a window: the data connections last a while.
const FILE_BYTES: usize = 300_000;

/// The user that vsftpd's package makes for whoever has no account.
const USER: &str = "ftp";

/// An FTP server that runs, with a file and a directory for uploads.
pub struct FtpServer {
    host: Host,
    bytes: Vec<u8>,
    _process: Process,
}

/// How a client of curl's asks for the data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `PASV`: the server says address and port.
    Passive,
    /// `EPSV`: the server says a port.
    ExtendedPassive,
    /// `PORT`: the client says its address and port.
    Active,
    /// `EPRT`: the same for both families.
    ExtendedActive,
}

impl Mode {
    /// Those that there are in a family.
    pub fn all(family: Family) -> &'static [Mode] {
        match family {
            Family::V4 => &[Mode::Passive, Mode::ExtendedPassive, Mode::Active, Mode::ExtendedActive],
            Family::V6 => &[Mode::ExtendedPassive, Mode::ExtendedActive],
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            // By itself curl goes to where its control connection goes, whatever the answer's address says.
            Mode::Passive => &["--disable-epsv", "--no-ftp-skip-pasv-ip"],
            Mode::ExtendedPassive => &[],
            Mode::Active => &["--disable-eprt", "--ftp-port", "-"],
            Mode::ExtendedActive => &["--ftp-port", "-"],
        }
    }
}

impl FtpServer {
    /// Starts it on all addresses of a family, for everybody to read and write.
    pub fn start(host: &Host, family: Family) -> Result<FtpServer> {
        let directory = host.directory().join("ftp");
        let (root, empty) = (directory.join("root"), directory.join("empty"));
        for path in [&root.join("upload"), &empty] {
            fs::create_dir_all(path)?;
        }
        let user =
            User::from_name(USER)?.with_context(|| format!("no user {USER}: vsftpd's package makes it"))?;
        chown(&root.join("upload"), Some(user.uid), None)?;
        let bytes = random_bytes(FILE_BYTES)?;
        fs::write(root.join("file"), &bytes)?;
        let is = |wanted: Family| if family == wanted { "YES" } else { "NO" };
        let configuration = format!(
            "listen={}\nlisten_ipv6={}\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nno_anon_password=YES\n\
             anon_root={}\nwrite_enable=YES\nanon_upload_enable=YES\nanon_other_write_enable=YES\nanon_umask=022\n\
             connect_from_port_20=YES\nseccomp_sandbox=NO\nsession_support=NO\nxferlog_enable=NO\n\
             secure_chroot_dir={}\n",
            is(Family::V4),
            is(Family::V6),
            root.display(),
            empty.display()
        );
        let file = directory.join("vsftpd.conf");
        fs::write(&file, configuration)?;
        let mut command = host.command("vsftpd");
        command.arg(&file);
        let mut process = Process::spawn(command, "vsftpd", host.directory())?;
        wait::until(&format!("vsftpd on {}", host.name()), || {
            ensure!(process.ended()?.is_none(), "vsftpd has ended:\n{}", process.log());
            Ok(host.connect(family.loopback(), PORT).ok())
        })?;
        Ok(FtpServer { host: host.clone(), bytes, _process: process })
    }

    fn uploaded(&self, name: &str) -> Result<()> {
        let path = self.host.directory().join("ftp/root/upload").join(name);
        let bytes = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        ensure!(bytes == self.bytes, "{name}: other bytes arrived");
        fs::remove_file(&path).context("cannot remove an upload")
    }

    /// Two downloads and two uploads over one control connection of curl's.
    pub fn transfer(&self, client: &Host, vip: IpAddr, mode: Mode) -> Result<()> {
        let url = url(vip);
        let source = self.source(client)?;
        let (source, copies) = (text(&source)?, [client.directory().join("1"), client.directory().join("2")]);
        let (file, limit) = (format!("{url}/file"), wait::HANGS.as_secs().to_string());
        let base = ["curl", "--silent", "--show-error", "--max-time", &limit];
        let uploads = ["3", "4"].map(|name| format!("{url}/upload/{name}"));
        let mut command = [&base[..], mode.options()].concat();
        command.extend(["--output", text(&copies[0])?, &file, "--output", text(&copies[1])?, &file]);
        client.run(&command)?;
        for copy in &copies {
            ensure!(fs::read(copy)? == self.bytes, "{mode:?}: other bytes arrived");
            fs::remove_file(copy)?;
        }
        let mut command = [&base[..], mode.options()].concat();
        command.extend(["--upload-file", source, &uploads[0], "--upload-file", source, &uploads[1]]);
        client.run(&command)?;
        ["3", "4"].iter().try_for_each(|name| self.uploaded(name))
    }

    /// A session of the command `ftp`: a listing, a download and an upload in passive mode, and in active mode.
    pub fn session(&self, client: &Host, vip: IpAddr) -> Result<()> {
        let source = self.source(client)?;
        let copies = [client.directory().join("passive"), client.directory().join("active")];
        let mut script = String::from("user anonymous lab\nbinary\npassive on\n");
        for (copy, name) in copies.iter().zip(["passive", "active"]) {
            script.push_str(&format!("ls\nget file {}\nput {} upload/{name}\n", text(copy)?, text(&source)?));
            script.push_str("passive off\n");
        }
        script.push_str("bye\n");
        let file = client.directory().join("ftp.script");
        fs::write(&file, script)?;
        let option = if vip.is_ipv4() { "-4" } else { "-6" };
        // It takes its commands from standard input only.
        let shell = format!("ftp {option} -n -v -p {vip} <{}", text(&file)?);
        let said = client.run(&["sh", "-c", &shell])?;
        for (copy, name) in copies.iter().zip(["passive", "active"]) {
            ensure!(
                fs::read(copy).is_ok_and(|bytes| bytes == self.bytes),
                "{name}: not what was sent:\n{said}"
            );
            self.uploaded(name).with_context(|| said.clone())?;
        }
        ensure!(said.matches("Directory send OK").count() == 2, "not two listings:\n{said}");
        Ok(())
    }

    /// The file as the client has it.
    fn source(&self, client: &Host) -> Result<PathBuf> {
        let path = client.directory().join("source");
        fs::write(&path, &self.bytes)?;
        Ok(path)
    }
}

fn url(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(vip) => format!("ftp://{vip}"),
        IpAddr::V6(vip) => format!("ftp://[{vip}]"),
    }
}

fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("the temporary directory's name is not UTF-8")
}
