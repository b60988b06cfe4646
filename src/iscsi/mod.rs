//! The iSCSI initiator (RFC 7143): discovery, sessions and LUNs that can only be read.

mod config;
mod url;

use crate::block::{BlockSource, ReadFuture};
use crate::error::{Error, ErrorKind, Result};

pub use config::{ChapAlgorithm, ChapSecret, Config, Credentials, DigestPolicy};
pub use url::{IscsiUrl, Portal};

fn not_yet() -> Error {
    Error::new(ErrorKind::Unsupported, "iSCSI is not there yet")
}

/// A target that a portal reported, with the portals that reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// The target's iSCSI name.
    pub name: String,
    /// The portals that reach it, with their portal group tags.
    pub portals: Vec<(Portal, u16)>,
}

/// Asks portals for their targets (SendTargets=All); what several of them report is merged.
///
/// A portal that does not answer is skipped with a warning while another one does.
///
/// # Errors
/// [`ErrorKind::Connect`], [`ErrorKind::Login`], [`ErrorKind::Timeout`], [`ErrorKind::Protocol`].
pub async fn discover(_portals: &[Portal], _config: &Config) -> Result<Vec<TargetRecord>> {
    Err(not_yet())
}

/// What REPORT LUNS, INQUIRY and READ CAPACITY say of one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunInfo {
    /// The logical unit number.
    pub lun: u64,
    /// Whether it is a disk (peripheral device type 0) and so can be read here.
    pub is_disk: bool,
    /// Vendor, product and revision from INQUIRY, trimmed.
    pub product: String,
    /// Capacity in bytes; `None` where the unit does not tell (not ready, not a disk).
    pub capacity: Option<u64>,
    /// Logical block size in bytes, where `capacity` is known.
    pub block_size: Option<u32>,
}

/// A logged-in normal session with one target.
///
/// Dropping it closes the connection; [`Session::logout`] ends it as a SAN expects.
#[derive(Clone, Debug)]
pub struct Session {}

impl Session {
    /// Logs in to `target` through the first of `portals` that lets us, following redirects.
    ///
    /// # Errors
    /// [`ErrorKind::Connect`], [`ErrorKind::Login`], [`ErrorKind::Timeout`], [`ErrorKind::Protocol`].
    pub async fn login(_portals: &[Portal], _target: &str, _config: &Config) -> Result<Self> {
        Err(not_yet())
    }

    /// All logical units of the target.
    pub async fn luns(&self) -> Result<Vec<LunInfo>> {
        Err(not_yet())
    }

    /// Opens a LUN; without a number, the target's only disk.
    ///
    /// # Errors
    /// [`ErrorKind::LunNotFound`] where there is no such LUN, or several disks and none named (the hint lists them).
    pub async fn open_lun(&self, _lun: Option<u64>) -> Result<Lun> {
        Err(not_yet())
    }

    /// Logs out and waits, within a bound, for the target's answer. Every clone and every [`Lun`] of the session
    /// is dead afterwards. Idempotent.
    pub async fn logout(&self) -> Result<()> {
        Err(not_yet())
    }
}

/// One logical unit of a session, as a [`BlockSource`].
#[derive(Debug)]
pub struct Lun {}

impl BlockSource for Lun {
    fn len(&self) -> u64 {
        0
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn read_at(&self, _offset: u64, _len: usize) -> ReadFuture<'_> {
        Box::pin(async { Err(not_yet()) })
    }
}
