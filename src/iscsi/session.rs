//! A login that lasts: LUNs are listed and opened through it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::{Error, ErrorKind, Result};
use crate::scsi::LunAddress;

use super::connect::{log_in_patiently, random_isid};
use super::driver::{Driver, Handle};
use super::paths::Paths;
use super::proto::LoginTarget;
use super::routes::{Routes, is_of_the_way};
use super::unit::{self, Found};
use super::watch::Watch;
use super::{Config, Lun, Portal};

/// Between two rounds over portals of which none serves the unit.
const NEXT_ROUND: Duration = Duration::from_millis(500);

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
    routes: Arc<Routes>,
    target: String,
    alias: Option<String>,
}

impl Session {
    /// Logs in to `target` through the first of `portals` that lets us, following redirects.
    ///
    /// # Errors
    /// [`ErrorKind::Connect`], [`ErrorKind::NoAnswer`], [`ErrorKind::Login`], [`ErrorKind::Protocol`].
    pub async fn login(portals: &[Portal], target: &str, config: &Config) -> Result<Self> {
        let isid = random_isid()?;
        let login_target = LoginTarget::Normal(target.to_owned());
        let connection = log_in_patiently(portals, &login_target, config, isid)
            .await
            .map_err(|error| error.context(target))?;
        let alias = connection.negotiated.target_alias.clone();
        let handle = Driver::spawn(connection, config, login_target.clone(), isid, portals);
        let routes = Arc::new(Routes::new(login_target, config, handle, portals));
        Ok(Self { routes, target: target.to_owned(), alias })
    }

    /// The target's name for people (TargetAlias), if it has one.
    pub fn target_alias(&self) -> Option<&str> {
        self.alias.as_deref()
    }

    /// All logical units of the target.
    pub async fn luns(&self) -> Result<Vec<LunInfo>> {
        let listed = self.through_any(|handle| async move { self.list(&handle).await }).await?;
        Ok(listed.into_iter().map(|(info, _)| info).collect())
    }

    async fn list(&self, handle: &Handle) -> Result<Vec<(LunInfo, Found)>> {
        let luns = unit::report_luns(handle).await.map_err(|error| error.context(&self.target))?;
        let infos = luns.iter().map(|&lun| self.lun_info(handle, lun));
        let infos: Vec<_> = join_all(infos).await.into_iter().collect::<Result<_>>()?;
        Ok(infos.into_iter().flatten().collect())
    }

    /// Opens a LUN; without a number, the target's only disk.
    ///
    /// # Errors
    /// [`ErrorKind::LunNotFound`] where there is no such LUN, or several disks and none named (the hint lists them).
    pub async fn open_lun(&self, lun: Option<u64>) -> Result<Lun> {
        self.through_any(|handle| async move { self.open_through(&handle, lun).await }).await
    }

    /// Does something through a session that serves; where its connection is lost meanwhile, or its port does not serve the
    /// unit, through one after another, until the time of an operation has passed.
    async fn through_any<T, F>(&self, work: impl Fn(Handle) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let end = self.routes.first().deadline();
        let mut result = work(self.routes.any()).await;
        loop {
            for portal in self.routes.portals() {
                let error = match result {
                    Err(error)
                        if self.routes.are_several()
                            && !self.routes.are_over()
                            && is_of_the_way(error.kind())
                            && Instant::now() < end =>
                    {
                        error
                    }
                    result => return result,
                };
                tracing::debug!("{}: {error}: another path is tried", self.target);
                let attempt = async {
                    let handle = self.routes.open(portal).await.ok()?;
                    Some(work(handle).await)
                };
                // What is cut short has nothing to say of why.
                result = timeout_at(end, attempt).await.ok().flatten().unwrap_or(Err(error));
            }
            sleep_until(end.min(Instant::now() + NEXT_ROUND)).await;
        }
    }

    async fn open_through(&self, handle: &Handle, lun: Option<u64>) -> Result<Lun> {
        let found = match lun {
            Some(number) => self.find(handle, number).await?,
            None => self.only_disk(handle).await?,
        };
        let name = format!("{} of {}", found.address, self.target);
        let watch = Watch::begin(handle, found.address);
        let unit = unit::open(handle, &found).await.map_err(|error| error.context(&name))?;
        let routes = Arc::clone(&self.routes);
        let paths = Paths::new(routes, handle.clone(), watch, found, &unit, name.clone());
        Ok(Lun::new(paths, name, &unit))
    }

    /// Logs out and waits, within a bound, for the target's answer. Every clone and every [`Lun`] of the session
    /// is dead afterwards. Idempotent.
    ///
    /// # Errors
    /// [`ErrorKind::SessionLost`] where the target did not confirm it: it may take the session for alive still.
    pub async fn logout(&self) -> Result<()> {
        if self.routes.log_out().await {
            return Ok(());
        }
        let what = format!("{}: the target did not confirm the logout", self.target);
        Err(Error::new(ErrorKind::SessionLost, what))
    }

    /// The address of a LUN, which must be a disk. Most targets use the usual form of address, so that is tried first.
    async fn find(&self, handle: &Handle, number: u64) -> Result<Found> {
        let usual = LunAddress::from_number(number);
        // A longer address must be on the list: many targets look at its first two bytes only, and would answer as
        // another unit.
        if number > LunAddress::MAX_FLAT {
            return self.find_listed(handle, number, None).await;
        }
        let (inquiry, pages) =
            tokio::join!(unit::inquire(handle, usual), unit::vpd_list(handle, usual));
        match inquiry {
            Ok(inquiry) if inquiry.is_disk() => {
                let asymmetric_access = inquiry.asymmetric_access;
                return Ok(Found { address: usual, pages: pages?, asymmetric_access });
            }
            Ok(inquiry) if inquiry.qualifier == 0 => {
                let what = format!("LUN {number} of {} is no disk", self.target);
                let error = Error::new(ErrorKind::LunNotFound, what);
                return Err(self.with_list(handle, error).await);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::LunNotFound | ErrorKind::Scsi) => {}
            Err(error) => {
                return Err(error.context(format_args!("LUN {number} of {}", self.target)));
            }
        }
        self.find_listed(handle, number, Some(usual)).await
    }

    /// The address of a LUN as REPORT LUNS lists it, but for the one that was tried already.
    async fn find_listed(
        &self,
        handle: &Handle,
        number: u64,
        tried: Option<LunAddress>,
    ) -> Result<Found> {
        let luns = unit::report_luns(handle).await.map_err(|error| error.context(&self.target))?;
        let mut luns = luns.into_iter();
        if let Some(address) = luns.find(|lun| lun.number() == number && Some(*lun) != tried) {
            if let Some((info, found)) = self.lun_info(handle, address).await? {
                if info.is_disk {
                    return Ok(found);
                }
            }
        }
        let what = format!("{} has no LUN {number}", self.target);
        Err(self.with_list(handle, Error::new(ErrorKind::LunNotFound, what)).await)
    }

    async fn only_disk(&self, handle: &Handle) -> Result<Found> {
        let mut disks = self.list(handle).await?;
        disks.retain(|(info, _)| info.is_disk);
        match &disks[..] {
            [(_, only)] => Ok(only.clone()),
            [] => Err(Error::new(
                ErrorKind::LunNotFound,
                format!("{} shows no disk to this initiator", self.target),
            )
            .with_hint("is the snapshot presented to this host?")),
            _ => {
                let what = format!("{} has several disks: name a LUN", self.target);
                Err(Error::new(ErrorKind::LunNotFound, what).with_hint(sentence(&disks)))
            }
        }
    }

    /// Adds the disks that are there to an error about one that is not.
    async fn with_list(&self, handle: &Handle, error: Error) -> Error {
        match self.list(handle).await {
            Ok(mut disks) => {
                disks.retain(|(info, _)| info.is_disk);
                error.with_hint(sentence(&disks))
            }
            Err(_) => error,
        }
    }

    /// One unit for the list; `None` where REPORT LUNS lists something that is not there.
    async fn lun_info(&self, handle: &Handle, lun: LunAddress) -> Result<Option<(LunInfo, Found)>> {
        let inquiry = match unit::inquire(handle, lun).await {
            Ok(inquiry) => inquiry,
            Err(error) if matches!(error.kind(), ErrorKind::Scsi | ErrorKind::LunNotFound) => {
                return Ok(None);
            }
            Err(error) => return Err(error.context(format_args!("{lun} of {}", self.target))),
        };
        if inquiry.qualifier == 3 {
            return Ok(None);
        }
        let (capacity, pages) = match inquiry.is_disk() {
            true => tokio::join!(async { unit::capacity(handle, lun).await.ok() }, async {
                unit::vpd_list(handle, lun).await.unwrap_or_default()
            }),
            false => Default::default(),
        };
        let capacity = capacity.map(|(capacity, _)| capacity);
        let asymmetric_access = inquiry.asymmetric_access;
        let info = LunInfo {
            lun: lun.number(),
            is_disk: inquiry.is_disk(),
            product: inquiry.product,
            capacity: capacity.map(crate::scsi::Capacity::bytes),
            block_size: capacity.map(|capacity| capacity.block_size),
        };
        Ok(Some((info, Found { address: lun, pages, asymmetric_access })))
    }
}

fn sentence(disks: &[(LunInfo, Found)]) -> String {
    if disks.is_empty() {
        return "it has no disk at all".to_owned();
    }
    let disks = disks.iter().map(|(disk, _)| match disk.capacity {
        Some(bytes) => format!("{} ({})", disk.lun, bytesize::ByteSize(bytes)),
        None => disk.lun.to_string(),
    });
    format!("its disks are LUN {}", disks.collect::<Vec<_>>().join(", "))
}
