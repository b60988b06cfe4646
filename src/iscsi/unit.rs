//! What a logical unit is: asked when it is opened, and again whenever it may have become another one.

use bytes::BytesMut;

use crate::error::{Error, ErrorKind, Result};
use crate::scsi::{
    AccessState, BlockLimits, Capacity, Cdb, Characteristics, Identity, Inquiry, LunAddress,
    PortIds, READ_CAPACITY_10_LEN, READ_CAPACITY_16_LEN, VpdList, VpdPage, parse_report_luns,
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

/// Bytes asked for of REPORT TARGET PORT GROUPS.
const PORT_GROUPS_ALLOCATION: u32 = 8192;

/// What INQUIRY tells of a unit before it is opened.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) address: LunAddress,
    /// The VPD pages that it has.
    pub(super) pages: VpdList,
    /// Whether its ports may serve it unequally (TPGS).
    pub(super) asymmetric_access: bool,
}

/// What must not change while a unit is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnitFacts {
    /// Where to look for the identity.
    pub(super) pages: VpdList,
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
    /// The port that it was opened through.
    pub(super) port: PortIds,
}

/// All addresses that REPORT LUNS lists.
pub(super) async fn report_luns(handle: &Handle) -> Result<Vec<LunAddress>> {
    let mut allocation = LUNS_ALLOCATION;
    loop {
        let cdb = Cdb::ReportLuns { allocation };
        let data = handle.run(REPORT_LUNS_LUN, cdb, allocation).await;
        let (luns, needed) = parse_report_luns(&data.map_err(|error| naming(cdb, error))?)?;
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

/// The VPD pages that a unit has.
pub(super) async fn vpd_list(handle: &Handle, lun: LunAddress) -> Result<VpdList> {
    let page = vpd(handle, lun, VpdPage::Supported).await?;
    Ok(page.map_or_else(VpdList::default, |page| VpdList::parse(&page)))
}

/// Asks a disk for everything that reading it needs, all at once.
pub(super) async fn open(handle: &Handle, found: &Found) -> Result<Unit> {
    let Found { address: lun, pages, .. } = found;
    let (ready, identity, limits, capacity) = tokio::join!(
        handle.run(*lun, Cdb::TestUnitReady, 0),
        identity(handle, *lun, pages),
        block_limits(handle, *lun, pages),
        capacity(handle, *lun)
    );
    ready?;
    let (capacity, long_reads) = capacity?;
    let (identity, port) = identity?;
    let facts = UnitFacts { pages: pages.clone(), identity, capacity };
    Ok(Unit { facts, limits: limits?, long_reads, port })
}

/// Checks that a unit is still what it was; true where it has grown.
pub(super) async fn verify(handle: &Handle, lun: LunAddress, before: &UnitFacts) -> Result<bool> {
    let (identity, capacity) =
        tokio::join!(identity(handle, lun, &before.pages), capacity(handle, lun));
    let ((identity, _), (capacity, _)) = (identity?, capacity?);
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
    Ok(capacity.blocks > before.capacity.blocks)
}

/// VPD 0x83, else 0x80, else nothing; and the port that the answer came through.
pub(super) async fn identity(
    handle: &Handle,
    lun: LunAddress,
    pages: &VpdList,
) -> Result<(Option<Identity>, PortIds)> {
    let mut port = PortIds::default();
    if let Some(page) = vpd(handle, lun, VpdPage::DeviceIdentification).await? {
        port = PortIds::parse(&page)?;
        if let Some(identity) = Identity::from_designators(&page)? {
            return Ok((Some(identity), port));
        }
    }
    if !pages.may_have(VpdPage::UnitSerialNumber) {
        return Ok((None, port));
    }
    let serial = vpd(handle, lun, VpdPage::UnitSerialNumber).await?;
    Ok((serial.map_or(Ok(None), |page| Identity::from_serial(&page))?, port))
}

async fn block_limits(handle: &Handle, lun: LunAddress, pages: &VpdList) -> Result<BlockLimits> {
    if !pages.may_have(VpdPage::BlockLimits) {
        return Ok(BlockLimits::default());
    }
    let page = vpd(handle, lun, VpdPage::BlockLimits).await?;
    page.map_or(Ok(BlockLimits::default()), |page| BlockLimits::parse(&page))
}

/// What the medium is like.
pub(super) async fn characteristics(
    handle: &Handle,
    lun: LunAddress,
    pages: &VpdList,
) -> Result<Characteristics> {
    if !pages.may_have(VpdPage::BlockDeviceCharacteristics) {
        return Ok(Characteristics::default());
    }
    let page = vpd(handle, lun, VpdPage::BlockDeviceCharacteristics).await?;
    page.map_or(Ok(Characteristics::default()), |page| Characteristics::parse(&page))
}

/// How well the port that the command comes through serves the unit; `None` where the target does not tell.
pub(super) async fn access_state(
    handle: &Handle,
    lun: LunAddress,
    port: PortIds,
) -> Result<Option<AccessState>> {
    let cdb = Cdb::ReportTargetPortGroups { allocation: PORT_GROUPS_ALLOCATION };
    match handle.run(lun, cdb, PORT_GROUPS_ALLOCATION).await {
        Ok(report) => port.state_in(&report),
        Err(error) if error.kind() == ErrorKind::Scsi => Ok(None),
        Err(error) => Err(error),
    }
}

/// A VPD page; `None` where the unit does not have it.
async fn vpd(handle: &Handle, lun: LunAddress, page: VpdPage) -> Result<Option<BytesMut>> {
    let cdb = Cdb::Vpd { page, allocation: VPD_ALLOCATION };
    match handle.run(lun, cdb, VPD_ALLOCATION.into()).await {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == ErrorKind::Scsi => Ok(None),
        Err(error) => Err(naming(cdb, error)),
    }
}

/// READ CAPACITY(16), else (10); and whether it was (16).
pub(super) async fn capacity(handle: &Handle, lun: LunAddress) -> Result<(Capacity, bool)> {
    let long = handle.run(lun, Cdb::ReadCapacity16, READ_CAPACITY_16_LEN).await;
    match long {
        Ok(data) => Ok((Capacity::parse_16(&data)?, true)),
        Err(error) if error.kind() == ErrorKind::Scsi => {
            let data = handle.run(lun, Cdb::ReadCapacity10, READ_CAPACITY_10_LEN).await;
            let data = data.map_err(|error| naming(Cdb::ReadCapacity10, error))?;
            match Capacity::parse_10(&data)? {
                Some(capacity) => Ok((capacity, false)),
                // Too large for the short form, and the long form failed.
                None => Err(naming(Cdb::ReadCapacity16, error)),
            }
        }
        Err(error) => Err(naming(Cdb::ReadCapacity16, error)),
    }
}

/// Says which command has failed, where the message does not begin with that.
fn naming(cdb: Cdb, error: Error) -> Error {
    let name = cdb.name();
    if error.message().starts_with(name) { error } else { error.context(name) }
}
