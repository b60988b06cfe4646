//! The two readers, one beside the other: ours, and `ext4-view` over our journal overlay. Everything that both tell of a file
//! system is compared, and each difference is traced to a fault that is known, or counts as unexplained.

mod fault;
mod raw;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::Result;
use snapbrowse::Error;
use snapbrowse::fs::ext::Ext;
use snapbrowse::fs::ext4_view::Ext4View;
use snapbrowse::fs::walk::{join, names};
use snapbrowse::fs::{Attr, DirEntry, FileType, Filesystem, Ino, Timestamp};

pub use fault::Fault;
use fault::Scene;
use raw::Raw;

/// Of longer files only so much is compared: a hole of a terabyte takes hours to read.
const MOST_CONTENTS: u64 = 32 << 20;
const READ: usize = 1 << 20;
/// Directories deeper than this are not entered: a loop, most likely.
const MAX_DEPTH: usize = 100;

/// Whether a difference may come from damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// e2fsck finds nothing.
    Clean,
    /// It does.
    Damaged,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Comparison {
    /// So many paths were compared.
    pub paths: u64,
    /// How often each fault showed, and where first, with what was told.
    pub faults: BTreeMap<Fault, (u64, String)>,
    /// Differences that no known fault accounts for.
    pub unexplained: Vec<String>,
}

impl Comparison {
    fn note(&mut self, fault: Option<Fault>, what: String) {
        match fault {
            Some(fault) => self.faults.entry(fault).or_insert((0, what)).0 += 1,
            None => self.unexplained.push(what),
        }
    }
}

/// Reads all of a file system with both.
///
/// # Errors
/// Where what lies on the disk cannot be read to explain a difference.
pub async fn compare(native: Arc<Ext>, condition: Condition) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    let source = match native.recovered() {
        Ok(source) => source,
        Err(error) => {
            comparison.note(Some(Fault::FastCommits), error.to_string());
            return Ok(comparison);
        }
    };
    let backup = native.summary().warnings.iter().any(|warning| warning.contains("the backup in"));
    let scene = Scene { raw: Raw::open(source).await?, condition, backup };
    match Ext4View::open(Arc::clone(&native)).await {
        Ok(view) => {
            let mut pair = Pair { native, view, scene, comparison, seen: HashSet::new() };
            pair.tree().await?;
            comparison = pair.comparison;
        }
        Err(error) => {
            let fault = scene.opening(&error).await?;
            comparison.note(fault, error.to_string());
        }
    }
    Ok(comparison)
}

struct Pair {
    native: Arc<Ext>,
    view: Ext4View,
    scene: Scene,
    comparison: Comparison,
    seen: HashSet<Ino>,
}

/// A path with what it stands for in ours and in theirs.
struct Place {
    path: Vec<u8>,
    /// The directory that it stands in, in ours.
    dir: Ino,
    ours: Ino,
    theirs: Ino,
}

impl Place {
    fn told(&self, what: &str) -> String {
        format!("{}: {what}", self.path.escape_ascii())
    }
}

impl Pair {
    async fn tree(&mut self) -> Result<()> {
        let root = self.native.root();
        let (path, theirs) = (b"/".to_vec(), self.view.root());
        let mut stack = vec![(Place { path, dir: root, ours: root, theirs }, 0)];
        while let Some((place, depth)) = stack.pop() {
            self.comparison.paths += 1;
            let Some(file_type) = self.inode(&place).await? else { continue };
            match file_type {
                FileType::Directory if depth < MAX_DEPTH && self.seen.insert(place.ours) => {
                    let children = self.directory(&place).await?;
                    stack.extend(children.into_iter().map(|child| (child, depth + 1)));
                }
                FileType::Regular => self.contents(&place).await?,
                FileType::Symlink => self.target(&place).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares what `stat` shows; the type, where both tell it.
    async fn inode(&mut self, place: &Place) -> Result<Option<FileType>> {
        let (ours, theirs) =
            (self.native.getattr(place.ours).await, self.view.getattr(place.theirs).await);
        let (ours, theirs) = match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Ok(ours), Err(error)) => {
                let known = (place.ours, ours.file_type);
                let fault = self.scene.attributes(place.dir, &place.path, known, &error).await?;
                self.comparison.note(fault, place.told(error.message()));
                return Ok(None);
            }
            (Err(error), Ok(_)) => {
                self.ours(place, &error);
                return Ok(None);
            }
            (Err(error), Err(_)) => {
                self.both(place, &error);
                return Ok(None);
            }
        };
        for (name, ours, theirs) in plain_fields(&ours, &theirs) {
            if ours != theirs {
                let what = place.told(&format!("{name} {theirs}, ours {ours}"));
                let fault = match name {
                    "size" => self.scene.size(place.ours).await?,
                    _ => None,
                };
                self.comparison.note(fault, what);
            }
        }
        for (name, ours, theirs) in times(&ours, &theirs) {
            if ours != theirs {
                let what = place.told(&format!("{name} {theirs}, ours {ours}"));
                let fault = self.scene.time(place.ours).await?;
                self.comparison.note(fault, what);
            }
        }
        Ok((ours.file_type == theirs.file_type).then_some(ours.file_type))
    }

    fn ours(&mut self, place: &Place, error: &Error) {
        let what = place.told(&format!("ours: {error}"));
        self.comparison.note(self.scene.ours(error), what);
    }

    /// What neither reads.
    fn both(&mut self, place: &Place, error: &Error) {
        if !self.scene.may_fail(error) {
            self.comparison.note(None, place.told(&format!("both: {error}")));
        }
    }

    /// Compares the names in a directory, and gives those that both have.
    async fn directory(&mut self, place: &Place) -> Result<Vec<Place>> {
        let (ours, our_failure) = names(&*self.native, place.ours).await;
        let (theirs, their_failure) = names(&self.view, place.theirs).await;
        if let Some(error) = &their_failure {
            let fault = self.scene.listing(place.ours, our_failure.as_ref(), error).await?;
            if our_failure.is_none() || !ours.is_empty() {
                self.comparison.note(fault, place.told(error.message()));
            }
            return Ok(Vec::new());
        }
        if let Some(error) = &our_failure {
            self.ours(place, error);
        }
        let mut children = Vec::new();
        let mut rest: BTreeMap<&[u8], &DirEntry> =
            theirs.iter().map(|entry| (entry.name.as_slice(), entry)).collect();
        for (index, entry) in ours.iter().enumerate() {
            let path = join(&place.path, &entry.name);
            if fault::is_second(&ours, index) {
                let what = format!("{}: another entry of this name", path.escape_ascii());
                self.comparison.note(Some(Fault::TwoEntriesOfOneName), what);
                continue;
            }
            let Some(their) = rest.remove(entry.name.as_slice()) else {
                let what = format!("{}: not in the other's listing", path.escape_ascii());
                self.comparison.note(None, what);
                continue;
            };
            let child = Place { path, dir: place.ours, ours: entry.ino, theirs: their.ino };
            match self.native.lookup(place.ours, &entry.name).await {
                Ok(found) if found == entry.ino => {}
                Ok(found) => {
                    let what = child.told(&format!("listed as {}, found as {found}", entry.ino));
                    self.comparison.note(None, what);
                }
                // What the other finds is told below.
                Err(error) if self.view.getattr(their.ino).await.is_ok() => {
                    self.ours(&child, &error);
                }
                Err(error) => self.both(&child, &error),
            }
            children.push(child);
        }
        for (name, _) in rest {
            let path = join(&place.path, name);
            let what = format!("{}: not in our listing", path.escape_ascii());
            // Where our own listing fails, that was told.
            if our_failure.is_none() {
                self.comparison.note(None, what);
            }
        }
        Ok(children)
    }

    async fn target(&mut self, place: &Place) -> Result<()> {
        match (self.native.readlink(place.ours).await, self.view.readlink(place.theirs).await) {
            (Ok(ours), Ok(theirs)) if ours == theirs => {}
            (Ok(ours), Ok(theirs)) => {
                let (ours, theirs) = (ours.escape_ascii(), theirs.escape_ascii());
                let what = place.told(&format!("leads to {theirs}, ours to {ours}"));
                self.comparison.note(None, what);
            }
            (Ok(ours), Err(error)) => {
                let fault = self.scene.target(place.ours, &ours, &error).await?;
                self.comparison.note(fault, place.told(error.message()));
            }
            (Err(error), Ok(_)) => self.ours(place, &error),
            (Err(error), Err(_)) => self.both(place, &error),
        }
        Ok(())
    }

    async fn contents(&mut self, place: &Place) -> Result<()> {
        let opened = (self.native.open(place.ours).await, self.view.open(place.theirs).await);
        let (ours, theirs) = match opened {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            // It asks for the map at once, ours when that is needed.
            (Ok(ours), Err(error)) => {
                return match ours.read(0, READ).await {
                    Ok(_) => self.unread(place, &error).await,
                    Err(error) => {
                        self.both(place, &error);
                        Ok(())
                    }
                };
            }
            (Err(error), Ok(_)) => {
                self.ours(place, &error);
                return Ok(());
            }
            (Err(error), Err(_)) => {
                self.both(place, &error);
                return Ok(());
            }
        };
        let mut offset = 0;
        while offset < MOST_CONTENTS {
            let (mine, other) = (ours.read(offset, READ).await, theirs.read(offset, READ).await);
            let (mine, other) = match (mine, other) {
                (Ok(mine), Ok(other)) => (mine.into_bytes(), other.into_bytes()),
                (Ok(_), Err(error)) => return self.unread(place, &error).await,
                (Err(error), Ok(_)) => {
                    self.ours(place, &error);
                    return Ok(());
                }
                (Err(error), Err(_)) => {
                    self.both(place, &error);
                    return Ok(());
                }
            };
            if mine != other {
                let what = place.told(&format!("contents differ within 1 MiB at {offset}"));
                let fault = match mine.len() == other.len() {
                    true => self.scene.contents(place.ours, offset, &mine, &other).await?,
                    false => None,
                };
                self.comparison.note(fault, what);
            }
            if mine.is_empty() || other.is_empty() {
                break;
            }
            offset += mine.len() as u64;
        }
        Ok(())
    }

    async fn unread(&mut self, place: &Place, error: &Error) -> Result<()> {
        let fault = self.scene.unread(place.ours, error).await?;
        self.comparison.note(fault, place.told(error.message()));
        Ok(())
    }
}

/// What both tell of an inode but its times: `ext4-view` knows no numbers, links, blocks and devices.
fn plain_fields(ours: &Attr, theirs: &Attr) -> [(&'static str, String, String); 4] {
    let fields = |attr: &Attr| {
        let mode = attr.file_type.mode_bits() | u32::from(attr.permissions);
        [format!("{mode:06o}"), attr.uid.to_string(), attr.gid.to_string(), attr.size.to_string()]
    };
    let ([a, b, c, d], [w, x, y, z]) = (fields(ours), fields(theirs));
    [("mode", a, w), ("uid", b, x), ("gid", c, y), ("size", d, z)]
}

/// The times that both tell: `ext4-view` does not say when an inode changed.
fn times(ours: &Attr, theirs: &Attr) -> [(&'static str, String, String); 3] {
    let time = |time: Option<Timestamp>| {
        time.map_or("nothing".into(), |time| format!("{}.{:09}", time.seconds, time.nanoseconds))
    };
    [
        ("atime", time(Some(ours.atime)), time(Some(theirs.atime))),
        ("mtime", time(Some(ours.mtime)), time(Some(theirs.mtime))),
        ("crtime", time(ours.crtime), time(theirs.crtime)),
    ]
}
