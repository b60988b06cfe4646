//! The reader under test, in a process of its own: prints all that it can read, and what it cannot.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use snapbrowse::Error;
use snapbrowse::block::ImageFile;
use snapbrowse::fs::ext::{Ext, JournalMode, Options};
use snapbrowse::fs::{Attr, FileType, Filesystem, Ino, Timestamp};

use snapbrowse_images::engines::{self, Condition};

use crate::listing::{Contents, Entry, to_line};

/// Directories deeper than this are not entered: a loop, most likely.
const MAX_DEPTH: usize = 100;
const READ: usize = 1 << 20;

/// Walks `image`, with its journal on `journal_device` if there is one. Lines begin with `refused:`, `warning:`,
/// `unreadable:` or `entry:`; the last one is `peak: KIB`.
pub(crate) fn walk(
    image: &Path,
    journal_device: Option<&Path>,
    journal: JournalMode,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match open(image, journal_device, journal).await? {
            Ok(ext) => {
                let summary = ext.summary();
                for warning in summary.warnings.iter().chain(&summary.journal.warnings) {
                    println!("warning: {warning}");
                }
                Walk { fs: Arc::new(ext), seen: HashSet::new() }.run().await;
            }
            Err(error) => println!("refused: {error}"),
        }
        anyhow::Ok(())
    })?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!("peak: {}", peak.unwrap_or("0").trim().trim_end_matches(" kB"));
    Ok(())
}

/// Opens an image; the inner error is the reader's.
async fn open(
    image: &Path,
    journal_device: Option<&Path>,
    journal: JournalMode,
) -> Result<Result<Ext, Error>> {
    let source = Arc::new(ImageFile::open(image)?);
    let options = Options { journal, ..Options::default() };
    Ok(match journal_device {
        Some(device) => {
            let device = Arc::new(ImageFile::open(device)?);
            Ext::open_with_journal(source, device, options).await
        }
        None => Ext::open(source, options).await,
    })
}

/// Reads `image` with both engines. Lines begin with `paths:`, `fault:` (how often, which and where first, separated by
/// tabs) or `unexplained:`.
pub(crate) fn beside(
    image: &Path,
    journal_device: Option<&Path>,
    condition: Condition,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let comparison = runtime.block_on(async {
        let ext = open(image, journal_device, JournalMode::Replay).await??;
        engines::compare(Arc::new(ext), condition).await
    })?;
    println!("paths: {}", comparison.paths);
    for (fault, (count, first)) in comparison.faults {
        println!("fault: {count}\t{fault}\t{first}");
    }
    for what in comparison.unexplained {
        println!("unexplained: {what}");
    }
    Ok(())
}

struct Walk {
    fs: Arc<dyn Filesystem>,
    seen: HashSet<Ino>,
}

impl Walk {
    async fn run(mut self) {
        if let Err(error) = self.fs.statfs().await {
            println!("unreadable: statfs: {error}");
        }
        let mut stack = vec![(self.fs.root(), String::new(), 0)];
        while let Some((ino, path, depth)) = stack.pop() {
            let is_dir = self.entry(ino, if path.is_empty() { "/" } else { &path }).await;
            if is_dir && depth < MAX_DEPTH && self.seen.insert(ino) {
                self.children(ino, &path, depth, &mut stack).await;
            }
        }
    }

    async fn children(
        &self,
        dir: Ino,
        path: &str,
        depth: usize,
        stack: &mut Vec<(Ino, String, usize)>,
    ) {
        let mut cookie = 0;
        loop {
            let batch = match self.fs.readdir(dir, cookie).await {
                Ok(batch) => batch,
                Err(error) => return println!("unreadable: {path}/: {error}"),
            };
            let Some(last) = batch.last() else { return };
            cookie = last.cookie;
            for entry in batch {
                let child = format!("{path}/{}", entry.name.escape_ascii());
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                match self.fs.lookup(dir, &entry.name).await {
                    Ok(found) if found == entry.ino => {}
                    Ok(found) => {
                        println!("unreadable: {child}: listed as {}, found as {found}", entry.ino);
                    }
                    Err(error) => println!("unreadable: {child}: listed, but: {error}"),
                }
                stack.push((entry.ino, child, depth + 1));
            }
        }
    }

    /// Prints one entry; whether it is a directory.
    async fn entry(&self, ino: Ino, path: &str) -> bool {
        let attr = match self.fs.getattr(ino).await {
            Ok(attr) => attr,
            Err(error) => {
                println!("unreadable: {path}: {error}");
                return false;
            }
        };
        let mut entry = entry_of(&attr);
        let contents = match attr.file_type {
            FileType::Regular => Some(self.contents(ino, attr.size).await),
            FileType::Symlink => Some(self.fs.readlink(ino).await.map(|target| {
                let mut contents = Contents::default();
                contents.add(0, &target);
                contents.finish()
            })),
            _ => None,
        };
        match contents {
            Some(Ok(digest)) => entry.set("contents", digest),
            Some(Err(error)) => println!("unreadable: {path}: {error}"),
            None => {}
        }
        if let Err(error) = self.attributes(ino).await {
            println!("unreadable: {path}: attributes: {error}");
        }
        println!("entry: {}", to_line(path, &entry));
        attr.file_type == FileType::Directory
    }

    async fn attributes(&self, ino: Ino) -> snapbrowse::Result<()> {
        for name in self.fs.listxattr(ino).await? {
            self.fs.getxattr(ino, &name).await?;
        }
        Ok(())
    }

    async fn contents(&self, ino: Ino, size: u64) -> Result<String, Error> {
        let reader = self.fs.open(ino).await?;
        let mut contents = Contents::default();
        let mut offset = 0;
        while let Some(range) = reader.data_range(offset).await? {
            // Whole pieces, so that both readers cut alike.
            offset = range.start - range.start % 4096;
            let end = range.end.next_multiple_of(4096).min(size);
            while offset < end {
                let len = usize::try_from(end - offset).unwrap_or(READ).min(READ);
                let bytes = reader.read(offset, len).await?.into_bytes();
                if bytes.is_empty() || contents.too_much() {
                    return Ok(contents.finish());
                }
                contents.add(offset, &bytes);
                offset += bytes.len() as u64;
            }
        }
        Ok(contents.finish())
    }
}

fn entry_of(attr: &Attr) -> Entry {
    let time = |time: Timestamp| format!("{}.{:09}", time.seconds, time.nanoseconds);
    let mut entry = Entry::default();
    entry.set("ino", attr.ino.0);
    entry.set("mode", format!("{:06o}", attr.file_type.mode_bits() | u32::from(attr.permissions)));
    entry.set("uid", attr.uid);
    entry.set("gid", attr.gid);
    entry.set("links", attr.nlink);
    entry.set("size", attr.size);
    entry.set("blocks", attr.blocks);
    entry.set("atime", time(attr.atime));
    entry.set("mtime", time(attr.mtime));
    entry.set("ctime", time(attr.ctime));
    if matches!(attr.file_type, FileType::BlockDevice | FileType::CharDevice) {
        entry.set("rdev", format!("{:02}:{:02}", attr.rdev.major, attr.rdev.minor));
    }
    entry
}
