//! A scripted target, a session with it, and what every test asks: right data or a clear error, in time, in few words.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Config, Lun, Portal, Session};
use snapbrowse::{Error, Result};
use snapbrowse_target as target;
use snapbrowse_target::{Disk, Fault, On, Rule, Server, Stats, Target};
use tracing::subscriber::DefaultGuard;

use crate::log::Log;

pub(crate) const IQN: &str = "iqn.2026-01.test.snapbrowse:disk";
pub(crate) const INITIATOR: &str = "iqn.2026-01.test.snapbrowse:reader";
/// Length of the disk in bytes.
pub(crate) const DISK: u64 = 8 << 20;
pub(crate) const SEED: u64 = 42;
/// How much one READ asks for where a test reads everything, and how many are in flight.
const CHUNK: usize = 256 << 10;
const DEPTH: usize = 8;
/// A test that lasts longer than the initiator's deadline and this has met a hang.
const GRACE: Duration = Duration::from_secs(3);
/// Lines of the log at level INFO or above that one fault may cause.
const MAX_LINES: usize = 12;

/// A target with one disk (LUN 1), a reader's configuration, and the log of both.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) config: Config,
    log: Log,
    _guard: DefaultGuard,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(target_config()).await
    }

    pub(crate) async fn with(config: target::Config) -> Self {
        let (log, guard) = Log::start();
        let server = Server::start(config).await.unwrap();
        Self { server, config: reader_config(), log, _guard: guard }
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    pub(crate) fn portals(&self) -> Vec<Portal> {
        let portals = self.server.portals().iter();
        portals.map(|p| Portal { host: p.ip().to_string(), port: p.port() }).collect()
    }

    /// Logs in through the first portal.
    pub(crate) async fn login(&self) -> Result<Session> {
        self.bounded(Session::login(&self.portals()[..1], IQN, &self.config)).await
    }

    /// Logs in and opens the disk, all without a fault.
    pub(crate) async fn open(&self) -> (Session, Lun) {
        let session = self.login().await.unwrap();
        let lun = self.bounded(session.open_lun(Some(1))).await.unwrap();
        (session, lun)
    }

    /// Fails where the deadline passes without an answer.
    pub(crate) async fn bounded<T>(&self, work: impl Future<Output = T>) -> T {
        let bound = self.config.timeout + GRACE;
        tokio::time::timeout(bound, work).await.expect("neither an answer nor an error in time")
    }

    /// Reads the whole disk with several reads in flight, each within the deadline; gives its SHA-256.
    pub(crate) async fn read_all(&self, lun: &Lun) -> Result<String> {
        let size = u64::try_from(CHUNK).unwrap();
        let reads = (0..lun.len() / size).map(|chunk| lun.read_at(chunk * size, CHUNK));
        let mut reads = futures_util::stream::iter(reads).buffered(DEPTH);
        let mut digest = Sha256::new();
        while let Some(answer) = self.bounded(reads.next()).await {
            let data = answer?.into_bytes();
            assert_eq!(data.len(), CHUNK);
            digest.update(data);
        }
        Ok(hex(&digest.finalize()))
    }

    /// The fault is met, and passes: the data is right, and the log short.
    pub(crate) async fn survives(&self, rule: Rule) -> Stats {
        let (session, lun) = self.open().await;
        self.server.inject(rule);
        assert_eq!(self.read_all(&lun).await.unwrap(), right_digest());
        assert!(self.log.lines().len() <= MAX_LINES, "{:#?}", self.log.lines());
        self.bounded(session.logout()).await.unwrap();
        self.server.stats()
    }

    /// The fault is met each time, and reading ends with an error within the deadline.
    pub(crate) async fn fails(&self, on: On, fault: Fault) -> Error {
        let (session, lun) = self.open().await;
        self.server.inject(Rule::new(on, fault).always());
        let error = self.read_all(&lun).await.unwrap_err();
        assert!(self.log.lines().len() <= MAX_LINES, "{:#?}", self.log.lines());
        self.server.clear_rules();
        let _ = self.bounded(session.logout()).await;
        error
    }

    /// Waits until the log says this, at any level.
    pub(crate) async fn logged(&self, part: &str) {
        self.bounded(self.log.says(part)).await;
    }

    /// The log so far, from INFO up.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines()
    }
}

/// One target with one disk of 8 MiB.
pub(crate) fn target_config() -> target::Config {
    let lun = target::Lun::new(1, "disk-1", Disk::pattern(DISK, SEED));
    // Several Data-In PDUs for each READ, so that there are some to lose.
    let segment = 32 << 10;
    target::Config {
        targets: vec![Target::new(IQN).lun(lun)],
        segment,
        ..target::Config::default()
    }
}

/// Deadlines short enough for tests, long enough for two busy cores.
pub(crate) fn reader_config() -> Config {
    Config { timeout: Duration::from_secs(8), ..Config::new(INITIATOR) }
}

/// What the disk holds.
pub(crate) fn right_data(offset: u64, len: usize) -> Vec<u8> {
    Disk::pattern(DISK, SEED).read(offset, len).unwrap().to_vec()
}

/// SHA-256 of the whole disk.
pub(crate) fn right_digest() -> String {
    hex(&Sha256::digest(right_data(0, usize::try_from(DISK).unwrap())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
