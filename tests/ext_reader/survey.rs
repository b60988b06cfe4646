//! Reads all that can be reached, whatever is damaged.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use snapbrowse::fs::{FileType, Filesystem, Ino};
use snapbrowse::{Error, Result};

/// What was read, and what was not.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// What `stat` shows of each path, its attributes, and the digest of a file's or link's contents.
    pub(crate) found: BTreeMap<Vec<u8>, String>,
    /// What failed, with the path.
    pub(crate) errors: Vec<(Vec<u8>, Error)>,
    /// Bytes of data that were read.
    pub(crate) bytes: u64,
}

/// Bytes of one file that are read at most, and of all files together.
const MOST_OF_FILE: u64 = 64 << 20;
const MOST_OF_ALL: u64 = 256 << 20;

/// Walks the whole tree. Each directory is entered once, however often it is named.
pub(crate) async fn survey(fs: &dyn Filesystem) -> Survey {
    let mut survey = Survey::default();
    let mut seen = HashSet::new();
    let mut pending = vec![(b".".to_vec(), fs.root())];
    while let Some((path, ino)) = pending.pop() {
        let attr = match fs.getattr(ino).await {
            Ok(attr) => attr,
            Err(error) => {
                survey.errors.push((path, error));
                continue;
            }
        };
        let mut shown = format!("{attr:?}");
        let contents = match attr.file_type {
            FileType::Directory if seen.insert(ino) => {
                let (children, end) = list(fs, ino).await;
                let named = children.into_iter().filter(|(name, _)| !is_dots(name));
                pending.extend(named.map(|(name, ino)| ([&path[..], b"/", &name].concat(), ino)));
                end.map(|()| String::new())
            }
            FileType::Regular => contents(fs, ino, attr.size, &mut survey.bytes).await,
            FileType::Symlink => fs.readlink(ino).await.map(|target| hex(&Sha256::digest(target))),
            _ => Ok(String::new()),
        };
        for part in [contents, attributes(fs, ino).await] {
            match part {
                Ok(part) => write!(shown, " {part}").unwrap(),
                Err(error) => survey.errors.push((path.clone(), error)),
            }
        }
        survey.found.insert(path, shown);
    }
    survey
}

fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

async fn list(fs: &dyn Filesystem, ino: Ino) -> (Vec<(Vec<u8>, Ino)>, Result<()>) {
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        match fs.readdir(ino, cookie).await {
            Ok(batch) => {
                let Some(last) = batch.last() else { return (names, Ok(())) };
                assert!(last.cookie > cookie, "a listing that does not go on");
                cookie = last.cookie;
                names.extend(batch.into_iter().map(|entry| (entry.name, entry.ino)));
            }
            Err(error) => return (names, Err(error)),
        }
        // Some names by look-up too, so that indexes are walked.
        for (name, _) in names.iter().rev().take(3) {
            let _ = fs.lookup(ino, name).await;
        }
    }
}

async fn contents(fs: &dyn Filesystem, ino: Ino, size: u64, bytes: &mut u64) -> Result<String> {
    let reader = fs.open(ino).await?;
    let mut hash = Sha256::new();
    let mut at = 0;
    let end = size.min(MOST_OF_FILE).min(MOST_OF_ALL.saturating_sub(*bytes));
    while at < end {
        let piece = reader.read(at, 1 << 20).await?;
        assert!(!piece.is_empty(), "no bytes before the end of the file");
        piece.pieces().iter().for_each(|piece| hash.update(piece));
        at += piece.len() as u64;
    }
    *bytes += at;
    let (mut at, mut ranges) = (0, 0);
    while let Some(range) = reader.data_range(at).await? {
        assert!(range.start < range.end && range.start >= at && range.end <= size);
        at = range.end;
        ranges += 1;
        if ranges > 1000 {
            break;
        }
    }
    Ok(hex(&hash.finalize()))
}

/// A digest of all names and values.
async fn attributes(fs: &dyn Filesystem, ino: Ino) -> Result<String> {
    let mut hash = Sha256::new();
    for name in fs.listxattr(ino).await? {
        let value = fs.getxattr(ino, &name).await?;
        hash.update(format!("{name:?}={value:?}"));
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
