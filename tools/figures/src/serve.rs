//! Who serves the LUN: tgtd over loopback, or the scripted target, which counts and can be slow.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use snapbrowse_target::{Config, Disk, Lun, Server, Target};
use tempfile::TempDir;

use crate::process::{Daemon, wait_until};

pub(crate) const IQN: &str = "iqn.2026-01.org.snapbrowse:bench";

/// Debian's tgtd with one LUN.
pub(crate) struct Tgtd {
    pub(crate) daemon: Daemon,
    pub(crate) port: u16,
    directory: TempDir,
}

impl Tgtd {
    pub(crate) fn start(image: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("figures").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let daemon = Daemon::start(
            Command::new("tgtd")
                .args(["-f", "-C", "24", "--iscsi", &format!("portal=127.0.0.1:{port}")])
                .env("TGT_IPC_SOCKET", directory.path().join("socket"))
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        let tgtd = Self { daemon, port, directory };
        wait_until("tgtd", || tgtd.admin("--op show --mode target").is_ok())?;
        tgtd.admin(&format!("--op new --mode target --tid 1 -T {IQN}"))?;
        let image = image.to_str().context("a path in UTF-8")?;
        tgtd.admin(&format!("--op new --mode logicalunit --tid 1 --lun 1 -b {image}"))?;
        tgtd.admin("--op update --mode logicalunit --tid 1 --lun 1 --params readonly=1")?;
        tgtd.admin("--op bind --mode target --tid 1 -I ALL")?;
        Ok(tgtd)
    }

    fn admin(&self, arguments: &str) -> Result<()> {
        let status = Command::new("tgtadm")
            .args(["-C", "24", "--lld", "iscsi"])
            .args(arguments.split(' '))
            .env("TGT_IPC_SOCKET", self.directory.path().join("socket"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "tgtadm {arguments}");
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/{IQN}/1", self.portal())
    }

    pub(crate) fn portal(&self) -> String {
        format!("iscsi://127.0.0.1:{}", self.port)
    }

    /// As qemu wants it.
    pub(crate) fn blockdev(&self) -> String {
        format!(
            "driver=iscsi,transport=tcp,portal=127.0.0.1:{},target={IQN},lun=1,node-name=disk,read-only=on",
            self.port
        )
    }
}

/// The target of the tests, in a runtime of its own.
pub(crate) struct Scripted {
    runtime: tokio::runtime::Runtime,
    server: Server,
    seen: (u64, u64),
}

impl Scripted {
    /// Answers each command `latency` later.
    pub(crate) fn start(image: &Path, latency: Duration) -> Result<Self> {
        let lun = Lun::new(1, "0001".to_owned(), Disk::open(image)?);
        Self::with(vec![Target::new(IQN).lun(lun)], latency)
    }

    /// A portal with many small targets.
    pub(crate) fn many(count: usize) -> Result<Self> {
        let name = |n| Target::new(format!("{IQN}-volume-{n:04}-2026-11-20"));
        Self::with((0..count).map(name).collect(), Duration::ZERO)
    }

    fn with(targets: Vec<Target>, latency: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let portals = vec!["127.0.0.1:0".parse()?];
        let config = Config { portals, targets, latency, ..Config::default() };
        let server = runtime.block_on(Server::start(config))?;
        Ok(Self { runtime, server, seen: (0, 0) })
    }

    pub(crate) fn portal(&self) -> String {
        format!("iscsi://{}", self.server.portals()[0])
    }

    /// Discovery sessions and logins to targets so far.
    pub(crate) fn sessions(&self) -> (u64, u64) {
        let stats = self.runtime.block_on(async { self.server.stats() });
        (stats.discovery_sessions, stats.normal_sessions)
    }

    pub(crate) fn url(&self) -> String {
        format!("iscsi://{}/{IQN}/1", self.server.portals()[0])
    }

    /// SCSI commands, and bytes read, since the last time.
    pub(crate) fn counts(&mut self) -> (u64, u64) {
        let stats = self.runtime.block_on(async { self.server.stats() });
        let now = (stats.commands.values().sum(), stats.bytes_read);
        let before = std::mem::replace(&mut self.seen, now);
        (now.0 - before.0, now.1 - before.1)
    }
}
