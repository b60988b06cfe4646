//! Opening: superblock, journal, superblock again.

use std::sync::Arc;

use super::disk::{Disk, Verify};
use super::journal::{self, JournalMode, JournalReport, LogRun};
use super::layout::features::Incompat;
use super::layout::superblock::{self, JournalPlace, Superblock};
use super::layout::{FileBlock, corrupt};
use super::watch::Watch;
use super::{Ext, Options, Summary};
use crate::block::{self, BlockSource};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Ino};

/// See [`Ext::open`].
pub(super) async fn open(
    source: Arc<dyn BlockSource>,
    journal_device: Option<Arc<dyn BlockSource>>,
    options: Options,
) -> Result<Ext> {
    let before = read_superblock(&*source).await?;
    let mut watch = Watch::default();
    watch.add(&source, superblock::OFFSET..superblock::OFFSET + superblock::SIZE as u64).await?;

    let (source, report) =
        recover(source, &before, journal_device, options.journal, &mut watch).await?;

    let sb = read_superblock(&*source).await?;
    if !sb.checksum_ok {
        return Err(Error::new(ErrorKind::BadChecksum, "superblock: checksum mismatch"));
    }
    let summary = summarize(&sb, report, source.len());
    for warning in summary.warnings.iter().chain(&summary.journal.warnings) {
        tracing::warn!("{warning}");
    }
    Ok(Ext { disk: Arc::new(Disk::new(source, sb, Verify::Always)), summary, watch })
}

async fn read_superblock(source: &dyn BlockSource) -> Result<Superblock> {
    if source.len() < superblock::OFFSET + superblock::SIZE as u64 {
        return Err(Error::new(
            ErrorKind::NoFilesystem,
            format!("{} bytes are too few for an ext2/3/4 file system", source.len()),
        ));
    }
    let bytes = block::read(source, superblock::OFFSET, superblock::SIZE).await?.into_bytes();
    Superblock::parse(&bytes)
}

/// Lays the journal's newest copies over the file system, where it needs that.
async fn recover(
    source: Arc<dyn BlockSource>,
    sb: &Superblock,
    journal_device: Option<Arc<dyn BlockSource>>,
    mode: JournalMode,
    watch: &mut Watch,
) -> Result<(Arc<dyn BlockSource>, JournalReport)> {
    let needed = sb.features.incompat.contains(Incompat::RECOVER);
    let place = match sb.journal {
        None if needed => {
            return Err(corrupt("superblock: needs_recovery without has_journal"));
        }
        None => return Ok((source, JournalReport::default())),
        Some(place) => place,
    };
    let mut report = JournalReport { present: true, dirty: needed, ..JournalReport::default() };
    if mode == JournalMode::Ignore {
        if needed {
            report.warnings.push("the journal was not played back, as asked for".into());
        }
        return Ok((source, report));
    }
    let base = Arc::clone(&source);
    let (log_device, recovery) = match (place, journal_device) {
        (JournalPlace::Inode(ino), None) => {
            let disk = Disk::new(Arc::clone(&source), sb.clone(), Verify::BeforeRecovery);
            let log = log_runs(&disk, ino).await.map_err(|error| error.context("journal"))?;
            (Arc::clone(&source), journal::recover(base, log, sb.block_size).await?)
        }
        (JournalPlace::Inode(_), Some(_)) => {
            return Err(Error::new(
                ErrorKind::Usage,
                "the journal lies inside the file system: no journal device is needed",
            ));
        }
        (JournalPlace::Device(_), None) if !needed => return Ok((source, report)),
        (JournalPlace::Device(uuid), None) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the journal lies on another device, {}", uuid::Uuid::from_bytes(uuid)),
            )
            .with_hint(
                "`--journal-device` names it; `--journal ignore` reads the file system as it lies on the disk",
            ));
        }
        (JournalPlace::Device(uuid), Some(device)) => {
            let log = Arc::clone(&device);
            (device, journal::recover_external(base, log, uuid, sb.block_size).await?)
        }
    };
    for range in recovery.watch {
        watch.add(&log_device, range).await?;
    }
    let mut report = recovery.report;
    if !needed {
        // As the kernel: without the flag the log is of no interest, whatever it holds.
        if report.dirty {
            report.warnings.push(
                "the journal holds transactions, but the file system says that it needs no \
                 recovery: they were left out"
                    .into(),
            );
        }
        report = JournalReport { dirty: false, replayed: false, ..report };
        return Ok((source, report));
    }
    if report.dirty && mode == JournalMode::RequireClean {
        return Err(Error::new(
            ErrorKind::NoFilesystem,
            format!("the journal holds {} transactions to play back", report.transactions),
        )
        .with_hint("`--journal replay` plays them back in memory"));
    }
    Ok((recovery.source, report))
}

/// Where the journal's inode says that the log lies.
async fn log_runs(disk: &Disk, ino: Ino) -> Result<Vec<LogRun>> {
    let file = disk.file(ino).await?;
    if file.inode.attr.file_type != FileType::Regular {
        return Err(corrupt(format!("{ino} is not a regular file")));
    }
    let blocks = file.inode.attr.size / disk.block_size();
    let blocks = u32::try_from(blocks)
        .ok()
        .filter(|blocks| u64::from(*blocks) <= disk.sb.blocks_count)
        .ok_or_else(|| corrupt(format!("{ino}: a log of {blocks} blocks")))?;
    let mut runs = Vec::new();
    let mut at = 0_u32;
    while at < blocks {
        let run = disk.run(&file, FileBlock(u64::from(at))).await?;
        let place =
            run.place.ok_or_else(|| corrupt(format!("{ino}: a hole at block {at} of the log")))?;
        let skipped = u64::from(at) - run.first.0;
        let length = u32::try_from(run.len - skipped).unwrap_or(u32::MAX).min(blocks - at);
        runs.push(LogRun { log_block: at, fs_block: place.0 + skipped, length });
        at += length;
    }
    Ok(runs)
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
    if sb.error_count > 0 {
        warnings.push(format!("the kernel noted {} errors in this file system", sb.error_count));
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
