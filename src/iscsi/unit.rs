//! What a logical unit is: asked when it is opened, and again whenever it may have become another one.

use bytes::BytesMut;

use crate::error::{Error, ErrorKind, Result};
use crate::scsi::{
    BlockLimits, Capacity, Cdb, Identity, Inquiry, LunAddress, READ_CAPACITY_10_LEN,
    READ_CAPACITY_16_LEN, VpdPage, parse_report_luns,
};

use super::driver::Handle;

/// The LUN that REPORT LUNS is sent to.
const REPORT_LUNS_LUN: LunAddress = LunAddress([0; 8]);
/// Bytes asked for of a VPD page.
const VPD_ALLOCATION: u16 = 1024;
/// Bytes asked for of the list of LUNs at first: room for 511.
const LUNS_ALLOCATION: u32 = 4096;
/// More LUNs than this are not listed; SAM allows 16,384 in one level.
const MAX_LUNS_LIST: u32 = 8 * 16_384 + 8;

/// What must not change while a unit is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnitFacts {
    pub(super) identity: Option<Identity>,
    pub(super) capacity: Capacity,
}

/// Everything that opening a unit tells.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) facts: UnitFacts,
    pub(super) limits: BlockLimits,
    /// Whether READ(16) is known, rather than only READ(10).
    pub(super) long_reads: bool,
}

/// All addresses that REPORT LUNS lists.
pub(super) async fn report_luns(handle: &Handle) -> Result<Vec<LunAddress>> {
    let mut allocation = LUNS_ALLOCATION;
    loop {
        let cdb = Cdb::ReportLuns { allocation };
        let data = handle.run(REPORT_LUNS_LUN, cdb, allocation).await;
        let (luns, needed) =
            parse_report_luns(&data.map_err(|error| error.context("REPORT LUNS"))?)?;
        if needed <= allocation {
            return Ok(luns);
        }
        if needed > MAX_LUNS_LIST {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("REPORT LUNS: a list of {needed} bytes"),
            ));
        }
        // It did not fit, or has grown since.
        allocation = needed;
    }
}

/// Standard INQUIRY data.
pub(super) async fn inquire(handle: &Handle, lun: LunAddress) -> Result<Inquiry> {
    let cdb = Cdb::Inquiry { allocation: Inquiry::ALLOCATION };
    Inquiry::parse(&handle.run(lun, cdb, Inquiry::ALLOCATION.into()).await?)
}

/// Asks a disk for everything that reading it needs, all at once.
pub(super) async fn open(handle: &Handle, lun: LunAddress) -> Result<Unit> {
    let (ready, identity, limits, capacity) = tokio::join!(
        handle.run(lun, Cdb::TestUnitReady, 0),
        identity(handle, lun),
        block_limits(handle, lun),
        capacity(handle, lun)
    );
    ready?;
    let (capacity, long_reads) = capacity?;
    Ok(Unit { facts: UnitFacts { identity: identity?, capacity }, limits: limits?, long_reads })
}

/// Checks that a unit is still what it was.
pub(super) async fn verify(handle: &Handle, lun: LunAddress, before: &UnitFacts) -> Result<()> {
    let (identity, capacity) = tokio::join!(identity(handle, lun), capacity(handle, lun));
    let (identity, (capacity, _)) = (identity?, capacity?);
    let changed = |what: String| {
        Err(Error::new(ErrorKind::BeingWritten, what)
            .with_hint("the LUN was exchanged or rebuilt: open it again"))
    };
    if identity != before.identity {
        return changed("another device answers under this LUN".into());
    }
    if capacity.block_size != before.capacity.block_size {
        return changed(format!(
            "the block size changed from {} to {}",
            before.capacity.block_size, capacity.block_size
        ));
    }
    if capacity.blocks < before.capacity.blocks {
        return changed(format!(
            "the LUN shrank from {} to {} blocks",
            before.capacity.blocks, capacity.blocks
        ));
    }
    if capacity.blocks > before.capacity.blocks {
        tracing::warn!("{lun} grew: what is new is not read");
    }
    Ok(())
}

/// VPD 0x83, else 0x80, else nothing.
async fn identity(handle: &Handle, lun: LunAddress) -> Result<Option<Identity>> {
    let (designators, serial) = tokio::join!(
        vpd(handle, lun, VpdPage::DeviceIdentification),
        vpd(handle, lun, VpdPage::UnitSerialNumber)
    );
    if let Some(page) = designators? {
        if let Some(identity) = Identity::from_designators(&page)? {
            return Ok(Some(identity));
        }
    }
    serial?.map_or(Ok(None), |page| Identity::from_serial(&page))
}

async fn block_limits(handle: &Handle, lun: LunAddress) -> Result<BlockLimits> {
    let page = vpd(handle, lun, VpdPage::BlockLimits).await?;
    page.map_or(Ok(BlockLimits::default()), |page| BlockLimits::parse(&page))
}

/// A VPD page; `None` where the unit does not have it.
async fn vpd(handle: &Handle, lun: LunAddress, page: VpdPage) -> Result<Option<BytesMut>> {
    let cdb = Cdb::Vpd { page, allocation: VPD_ALLOCATION };
    match handle.run(lun, cdb, VPD_ALLOCATION.into()).await {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == ErrorKind::Scsi => Ok(None),
        Err(error) => Err(error.context("INQUIRY")),
    }
}

/// READ CAPACITY(16), else (10); and whether it was (16).
pub(super) async fn capacity(handle: &Handle, lun: LunAddress) -> Result<(Capacity, bool)> {
    let long = handle.run(lun, Cdb::ReadCapacity16, READ_CAPACITY_16_LEN).await;
    match long {
        Ok(data) => Ok((Capacity::parse_16(&data)?, true)),
        Err(error) if error.kind() == ErrorKind::Scsi => {
            let data = handle.run(lun, Cdb::ReadCapacity10, READ_CAPACITY_10_LEN).await;
            let data = data.map_err(|error| error.context("READ CAPACITY(10)"))?;
            match Capacity::parse_10(&data)? {
                Some(capacity) => Ok((capacity, false)),
                // Too large for the short form, and the long form failed.
                None => Err(error.context("READ CAPACITY(16)")),
            }
        }
        Err(error) => Err(error.context("READ CAPACITY(16)")),
    }
}
