//! A login that lasts: LUNs are listed and opened through it.

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::scsi::LunAddress;

use super::connect::{log_in_patiently, random_isid};
use super::driver::{Driver, Handle, Request};
use super::proto::LoginTarget;
use super::{Config, Lun, Portal, unit};

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
/// It outlives its connections: when one fails it logs in again, with the same ISID, and issues again what was under
/// way, until the operation's time has passed. When the last clone and the last [`Lun`] are dropped it logs out in
/// the background; [`Session::logout`] does so and waits.
#[derive(Clone, Debug)]
pub struct Session {
    handle: Handle,
    target: String,
    alias: Option<String>,
}

impl Session {
    /// Logs in to `target` through the first of `portals` that lets us, following redirects.
    ///
    /// # Errors
    /// [`ErrorKind::Connect`], [`ErrorKind::Login`], [`ErrorKind::Timeout`], [`ErrorKind::Protocol`].
    pub async fn login(portals: &[Portal], target: &str, config: &Config) -> Result<Self> {
        let isid = random_isid()?;
        let login_target = LoginTarget::Normal(target.to_owned());
        let connection = log_in_patiently(portals, &login_target, config, isid)
            .await
            .map_err(|error| error.context(target))?;
        let alias = connection.negotiated.target_alias.clone();
        let handle = Driver::spawn(connection, config, login_target, isid, portals);
        Ok(Self { handle, target: target.to_owned(), alias })
    }

    /// The target's name for people (TargetAlias), if it has one.
    pub fn target_alias(&self) -> Option<&str> {
        self.alias.as_deref()
    }

    /// All logical units of the target.
    pub async fn luns(&self) -> Result<Vec<LunInfo>> {
        let luns =
            unit::report_luns(&self.handle).await.map_err(|error| error.context(&self.target))?;
        let infos = luns.iter().map(|&lun| self.lun_info(lun));
        let infos: Vec<_> = join_all(infos).await.into_iter().collect::<Result<_>>()?;
        Ok(infos.into_iter().flatten().collect())
    }

    /// Opens a LUN; without a number, the target's only disk.
    ///
    /// # Errors
    /// [`ErrorKind::LunNotFound`] where there is no such LUN, or several disks and none named (the hint lists them).
    pub async fn open_lun(&self, lun: Option<u64>) -> Result<Lun> {
        let address = match lun {
            Some(number) => self.find(number).await?,
            None => self.only_disk().await?,
        };
        let unit = unit::open(&self.handle, address).await;
        let unit =
            unit.map_err(|error| error.context(format_args!("{address} of {}", self.target)))?;
        Ok(Lun::new(self.handle.clone(), address, &self.target, unit))
    }

    /// Logs out and waits, within a bound, for the target's answer. Every clone and every [`Lun`] of the session
    /// is dead afterwards. Idempotent.
    ///
    /// # Errors
    /// [`ErrorKind::SessionLost`] where the target did not confirm it: it may take the session for alive still.
    pub async fn logout(&self) -> Result<()> {
        let (farewell, done) = oneshot::channel();
        self.handle.tell(Request::LogOut(farewell));
        // A task that has ended already has said how.
        match done.await {
            Ok(true) | Err(_) => Ok(()),
            Ok(false) => {
                let what = format!("{}: the target did not confirm the logout", self.target);
                Err(Error::new(ErrorKind::SessionLost, what))
            }
        }
    }

    /// The address of a LUN, which must be a disk. Most targets use the usual form of address, so that is tried first.
    async fn find(&self, number: u64) -> Result<LunAddress> {
        let usual = LunAddress::from_number(number);
        match unit::inquire(&self.handle, usual).await {
            Ok(inquiry) if inquiry.is_disk() => return Ok(usual),
            Ok(inquiry) if inquiry.qualifier == 0 => {
                let what = format!("LUN {number} of {} is no disk", self.target);
                return Err(self.with_list(Error::new(ErrorKind::LunNotFound, what)).await);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::LunNotFound | ErrorKind::Scsi) => {}
            Err(error) => {
                return Err(error.context(format_args!("LUN {number} of {}", self.target)));
            }
        }
        let luns =
            unit::report_luns(&self.handle).await.map_err(|error| error.context(&self.target))?;
        match luns.into_iter().find(|lun| lun.number() == number && *lun != usual) {
            Some(lun) => Ok(lun),
            None => {
                let what = format!("{} has no LUN {number}", self.target);
                Err(self.with_list(Error::new(ErrorKind::LunNotFound, what)).await)
            }
        }
    }

    async fn only_disk(&self) -> Result<LunAddress> {
        let disks: Vec<_> = self.luns().await?.into_iter().filter(|lun| lun.is_disk).collect();
        match &disks[..] {
            [only] => Ok(LunAddress::from_number(only.lun)),
            [] => Err(Error::new(
                ErrorKind::LunNotFound,
                format!("{} shows no disk to this initiator", self.target),
            )
            .with_hint("is the snapshot presented to this host?")),
            _ => {
                let what = format!("{} has several disks: name a LUN", self.target);
                Err(Error::new(ErrorKind::LunNotFound, what).with_hint(list(&disks)))
            }
        }
    }

    /// Adds the disks that are there to an error about one that is not.
    async fn with_list(&self, error: Error) -> Error {
        match self.luns().await {
            Ok(luns) => {
                let disks: Vec<_> = luns.into_iter().filter(|lun| lun.is_disk).collect();
                error.with_hint(list(&disks))
            }
            Err(_) => error,
        }
    }

    /// One unit for the list; `None` where REPORT LUNS lists something that is not there.
    async fn lun_info(&self, lun: LunAddress) -> Result<Option<LunInfo>> {
        let inquiry = match unit::inquire(&self.handle, lun).await {
            Ok(inquiry) => inquiry,
            Err(error) if matches!(error.kind(), ErrorKind::Scsi | ErrorKind::LunNotFound) => {
                return Ok(None);
            }
            Err(error) => return Err(error.context(format_args!("{lun} of {}", self.target))),
        };
        if inquiry.qualifier == 3 {
            return Ok(None);
        }
        let capacity =
            if inquiry.is_disk() { unit::capacity(&self.handle, lun).await.ok() } else { None };
        let capacity = capacity.map(|(capacity, _)| capacity);
        Ok(Some(LunInfo {
            lun: lun.number(),
            is_disk: inquiry.is_disk(),
            product: inquiry.product,
            capacity: capacity.map(crate::scsi::Capacity::bytes),
            block_size: capacity.map(|capacity| capacity.block_size),
        }))
    }
}

fn list(disks: &[LunInfo]) -> String {
    if disks.is_empty() {
        return "it has no disk at all".to_owned();
    }
    let disks = disks.iter().map(|disk| match disk.capacity {
        Some(bytes) => format!("{} ({})", disk.lun, bytesize::ByteSize(bytes)),
        None => disk.lun.to_string(),
    });
    format!("its disks are LUN {}", disks.collect::<Vec<_>>().join(", "))
}
