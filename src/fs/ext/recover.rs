//! Finds the journal and lays its newest copies over the file system, where that is needed.

use std::sync::Arc;

use super::dir::is_damage;
use super::disk::{Disk, Verify};
use super::inodes::File;
use super::journal::{self, JournalMode, JournalOverlay, JournalReport, LogRun, Recovery};
use super::layout::fast_commit::Change;
use super::layout::features::Incompat;
use super::layout::inode::Inode;
use super::layout::superblock::{JournalPlace, Superblock};
use super::layout::{FileBlock, FsBlock, corrupt};
use super::superblocks::Found;
use super::watch::Watch;
use super::zones::Zones;
use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Ino};

const IGNORE_HINT: &str = "`--journal ignore` reads the file system as it lies on the disk";

/// What recovery comes to.
pub(super) struct Recovered {
    /// The file system's blocks as they read after it.
    pub(super) source: Arc<dyn BlockSource>,
    /// What the fast commits change on top of that.
    pub(super) fast_commits: Vec<Change>,
    /// The copies that stand before its blocks, where there is a live log.
    pub(super) overlay: Option<Arc<JournalOverlay>>,
    /// What was found in the journal.
    pub(super) report: JournalReport,
    /// The log's blocks, where it lies inside the file system and could be read.
    pub(super) log: Zones,
}

impl Recovered {
    /// The blocks as they lie on the disk.
    fn as_found(source: Arc<dyn BlockSource>, report: JournalReport) -> Self {
        Self { source, fast_commits: Vec::new(), overlay: None, report, log: Zones::default() }
    }
}

/// A log that was read.
struct PlayedBack {
    /// The device that it lies on.
    device: Arc<dyn BlockSource>,
    recovery: Recovery,
    /// See [`Recovered::log`].
    log: Zones,
}

/// Plays the journal back, as far as it is to be.
pub(super) async fn recover(
    source: Arc<dyn BlockSource>,
    found: &Found,
    journal_device: Option<Arc<dyn BlockSource>>,
    mode: JournalMode,
    watch: &mut Watch,
) -> Result<Recovered> {
    let flagged = found.sb.features.incompat.contains(Incompat::RECOVER);
    let Some(place) = found.sb.journal else {
        return match flagged {
            true => Err(corrupt("superblock: needs_recovery without has_journal")),
            false => Ok(Recovered::as_found(source, JournalReport::default())),
        };
    };
    let mut unread = JournalReport { present: true, dirty: flagged, ..JournalReport::default() };
    if mode == JournalMode::Ignore {
        if flagged {
            unread.warnings.push("the journal was not played back, as asked for".into());
        }
        // A writer changes the log first, whatever is made of it here.
        let mut log = Zones::default();
        match play_back(&source, &found.sb, place, journal_device).await {
            Ok(Some(played)) => {
                watch.add_all(&played.device, &played.recovery.watch);
                log = played.log;
            }
            Ok(None) => {}
            Err(_) => watch_start(&source, &found.sb, place, watch).await,
        }
        return Ok(Recovered { log, ..Recovered::as_found(source, unread) });
    }
    // A backup superblock is not written in use, so its flag does not count.
    let needed = flagged || found.backup.is_some();
    let played = play_back(&source, &found.sb, place, journal_device).await;
    let PlayedBack { device, recovery, log } = match played {
        Ok(Some(played)) => played,
        Ok(None) => return Ok(Recovered::as_found(source, unread)),
        Err(error) if !needed && is_damage(&error) => {
            unread.warnings.push(format!("{error}: it is not needed, the file system is clean"));
            watch_start(&source, &found.sb, place, watch).await;
            return Ok(Recovered::as_found(source, unread));
        }
        Err(error) => return Err(error),
    };
    watch.add_all(&device, &recovery.watch);
    let mut report = recovery.report.clone();
    if !needed {
        // As the kernel: without the flag the log is of no interest, whatever it holds.
        if report.dirty {
            report.warnings.push(
                "the journal holds transactions, but the file system says that it needs no \
                 recovery: they were left out"
                    .into(),
            );
        }
        let report = JournalReport { dirty: false, replayed: false, ..report };
        return Ok(Recovered { log, ..Recovered::as_found(source, report) });
    }
    if report.dirty && mode == JournalMode::RequireClean {
        return Err(Error::new(
            ErrorKind::NoFilesystem,
            format!("the journal holds {} transactions to play back", report.transactions),
        )
        .with_hint("`--journal replay` plays them back in memory"));
    }
    // Transactions that are left out are of concern to every command, not only to one that shows the report.
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    let overlay = recovery.overlay();
    let Recovery { source, fast_commits, .. } = recovery;
    Ok(Recovered { source, fast_commits, overlay, report, log })
}

/// Watches the first block of a log inside the file system, the journal superblock, where nothing else can be made of the
/// log. Where even that cannot be read, there is nothing to watch.
async fn watch_start(
    source: &Arc<dyn BlockSource>,
    sb: &Superblock,
    place: JournalPlace,
    watch: &mut Watch,
) {
    let JournalPlace::Inode(ino) = place else { return };
    let disk = Disk::new(Arc::clone(source), sb.clone(), Verify::BeforeRecovery);
    let Ok(runs) = log_runs(&disk, ino).await else { return };
    let Some(first) = runs.first().map(|run| FsBlock(run.fs_block)) else { return };
    if let Ok(seen) = disk.read_block(first).await {
        watch.add(source, sb.byte_of(first), &seen);
    }
}

/// Plays the log back in memory, wherever it lies. `None` for a log on another device that is neither given nor needed.
async fn play_back(
    source: &Arc<dyn BlockSource>,
    sb: &Superblock,
    place: JournalPlace,
    journal_device: Option<Arc<dyn BlockSource>>,
) -> Result<Option<PlayedBack>> {
    let base = Arc::clone(source);
    match (place, journal_device) {
        (JournalPlace::Inode(ino), None) => {
            let disk = Disk::new(Arc::clone(source), sb.clone(), Verify::BeforeRecovery);
            let runs = log_runs(&disk, ino)
                .await
                .map_err(|error| error.context("journal").with_hint(IGNORE_HINT))?;
            let log = Zones::new(runs.iter().map(LogRun::fs_blocks).collect());
            let recovery = journal::recover(base, runs, sb.block_size).await?;
            Ok(Some(PlayedBack { device: Arc::clone(source), recovery, log }))
        }
        (JournalPlace::Inode(_), Some(_)) => Err(Error::new(
            ErrorKind::Usage,
            "the journal lies inside the file system: no journal device is needed",
        )),
        (JournalPlace::Device(_), None) if !sb.features.incompat.contains(Incompat::RECOVER) => {
            Ok(None)
        }
        (JournalPlace::Device(uuid), None) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the journal lies on another device, {}", uuid::Uuid::from_bytes(uuid)),
        )
        .with_hint(format!("`--journal-device` names it; {IGNORE_HINT}"))),
        (JournalPlace::Device(uuid), Some(device)) => {
            let log = Arc::clone(&device);
            let recovery = journal::recover_external(base, log, uuid, sb.block_size).await?;
            Ok(Some(PlayedBack { device, recovery, log: Zones::default() }))
        }
    }
}

/// Where the log lies by its inode, or by the superblock's copy of that where it is damaged.
async fn log_runs(disk: &Disk, ino: Ino) -> Result<Vec<LogRun>> {
    let error = match disk.file(ino).await {
        Ok(file) => match runs_of(disk, &file).await {
            Err(error) if is_damage(&error) => error,
            runs => return runs,
        },
        Err(error) if is_damage(&error) => error,
        Err(error) => return Err(error),
    };
    let Some((i_block, size)) = disk.sb.journal_backup else {
        return Err(error);
    };
    tracing::warn!("{error}: the superblock's copy of the journal's place was used instead");
    let file = File::new(Inode::with_map(ino, i_block, size));
    // A copy that is no better is not worth a word.
    runs_of(disk, &file).await.map_err(|_| error)
}

/// The most runs that a log may lie in. mke2fs makes a handful; one block each in a log that fills the device would be
/// memory without end.
const MAX_RUNS: usize = 1 << 18;

async fn runs_of(disk: &Disk, file: &File) -> Result<Vec<LogRun>> {
    let ino = file.ino;
    if file.inode.attr.file_type != FileType::Regular {
        return Err(corrupt(format!("{ino} is not a regular file")));
    }
    let blocks = file.inode.attr.size / disk.block_size();
    let blocks = u32::try_from(blocks)
        .ok()
        .filter(|blocks| u64::from(*blocks) <= disk.blocks())
        .ok_or_else(|| corrupt(format!("{ino}: a log of {blocks} blocks")))?;
    let mut runs = Vec::new();
    let mut at = 0_u32;
    // A log mapped by indirect blocks has one for each few MiB of it: one after the other they would cost a far device
    // more time than the log itself.
    let mut hinted = 0;
    while at < blocks {
        if u64::from(at) >= hinted {
            hinted = disk.prefetch_map(file, u64::from(at)..u64::from(blocks));
        }
        let run = disk.run(file, FileBlock(u64::from(at))).await?;
        let place =
            run.place.ok_or_else(|| corrupt(format!("{ino}: a hole at block {at} of the log")))?;
        let skipped = u64::from(at) - run.first.0;
        if runs.len() >= MAX_RUNS {
            return Err(corrupt(format!("{ino}: a log in more than {MAX_RUNS} pieces")));
        }
        let length = u32::try_from(run.len - skipped).unwrap_or(u32::MAX).min(blocks - at);
        runs.push(LogRun { log_block: at, fs_block: place.0 + skipped, length });
        at += length;
    }
    Ok(runs)
}
