//! Opening: superblock, journal, superblock again.

use std::sync::Arc;

use super::disk::{Disk, Verify};
use super::journal::{self, JournalReport};
use super::layout::FsBlock;
use super::layout::features::Incompat;
use super::layout::mmp;
use super::layout::superblock::{self, Superblock};
use super::recover::{Recovered, recover};
use super::replay;
use super::superblocks::{self, Found};
use super::watch::Watch;
use super::{Ext, Options, Summary};
use crate::block::{self, BlockSource};
use crate::error::Result;

/// See [`Ext::open`].
pub(super) async fn open(
    device: Arc<dyn BlockSource>,
    journal_device: Option<Arc<dyn BlockSource>>,
    options: Options,
) -> Result<Ext> {
    let mut watch = Watch::default();
    // Before it is made use of, so that no change after that goes unseen.
    if let Some(seen) = superblocks::read(&*device, superblock::OFFSET).await? {
        watch.add(&device, superblock::OFFSET, &seen);
    }
    let before = superblocks::find(&*device, options.superblock).await?;

    let base = Arc::clone(&device);
    let Recovered { source, fast_commits, overlay, mut report, log } =
        recover(base, &before, journal_device, options.journal, &mut watch).await?;

    // The log may hold a newer superblock.
    let Found { sb, backup } = superblocks::find(&*source, options.superblock).await?;
    let mut disk = Disk::new(Arc::clone(&source), sb.clone(), Verify::Always);
    disk.log = log;
    if !fast_commits.is_empty() {
        let before = Disk::new(Arc::clone(&source), sb.clone(), Verify::Always);
        let (replayed, warnings) =
            replay::replay(&before, fast_commits).await.map_err(journal::hint)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        report.warnings.extend(warnings);
        disk.replayed = replayed;
    }
    let mut summary = summarize(&sb, report, source.len());
    summary.warnings.extend(backup);
    summary.warnings.extend(mounted_elsewhere(&device, &sb, &mut watch).await?);
    Ok(Ext { disk: Arc::new(disk), overlay, summary, watch })
}

/// Where multiple-mount protection is in use, a warning if somebody has the file system mounted; the block changes every
/// few seconds then.
async fn mounted_elsewhere(
    device: &Arc<dyn BlockSource>,
    sb: &Superblock,
    watch: &mut Watch,
) -> Result<Option<String>> {
    let block = FsBlock(sb.mmp_block);
    let start = sb.byte_of(block);
    if !sb.features.incompat.contains(Incompat::MMP)
        || !sb.has_blocks(block, 1)
        || block::check_range(device.len(), start, mmp::SIZE).is_err()
    {
        return Ok(None);
    }
    let bytes = block::read(&**device, start, mmp::SIZE).await?.into_bytes();
    watch.add(device, start, &bytes);
    Ok(mmp::mounted_by(&bytes).map(|host| {
        format!("the file system was mounted by {host:?} when the snapshot was taken, or still is")
    }))
}

fn summarize(sb: &Superblock, journal: JournalReport, device_len: u64) -> Summary {
    let mut warnings = Vec::new();
    let bytes = sb.blocks_count.saturating_mul(u64::from(sb.block_size));
    if bytes > device_len {
        warnings.push(format!(
            "the file system has {bytes} bytes, the device only {device_len}: what lies past its \
             end cannot be read"
        ));
    }
    if sb.journal.is_none() && !sb.is_clean {
        warnings.push(
            "the file system was in use when the snapshot was taken, and it has no journal: what was written last may be \
             missing or incomplete"
                .into(),
        );
    }
    if sb.error_count > 0 {
        warnings.push(format!("the kernel noted {} errors in this file system", sb.error_count));
    } else if sb.has_errors {
        warnings.push("the file system is marked as damaged: e2fsck is due".into());
    }
    let unknown = sb.features.unknown_but_harmless();
    if !unknown.is_empty() {
        warnings.push(format!("features not known here: {}", unknown.join(", ")));
    }
    Summary {
        kind: sb.features.kind(),
        label: String::from_utf8_lossy(&sb.volume_name).into_owned(),
        uuid: sb.uuid,
        features: sb.features.names(),
        block_size: sb.block_size,
        blocks: sb.blocks_count,
        inodes: u64::from(sb.inodes_count),
        journal,
        warnings,
    }
}
