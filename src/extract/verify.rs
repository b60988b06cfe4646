//! Whether everything could be restored: the same reads as a copy, with nothing written.

use std::collections::HashSet;

use futures_util::{StreamExt, stream};

use crate::error::{Error, Result};
use crate::fs::walk::{Found, Listing, Walk, join};
use crate::fs::{FileType, Filesystem, Ino};

use super::Report;
use super::contents::{Contents, next_range, read_xattrs};

/// Files that are read at the same time.
const FILES: usize = 16;

/// Reads every directory, inode, attribute, link and map, and with `data` every block of every file. What cannot be
/// read is told to `report`.
pub async fn verify(filesystem: &dyn Filesystem, data: bool, report: &Report) {
    match filesystem.check_journal().await {
        Ok(damage) => damage.iter().for_each(|error| report.failure(error)),
        Err(error) => report.failure(&error.context("journal")),
    }
    let mut walk = Walk::new(filesystem);
    walk.enter(vec![(b"/".to_vec(), filesystem.root())]);
    let mut seen: HashSet<Ino> = HashSet::new();
    while let Some(Listing { path, entries, failure, .. }) = walk.next().await {
        match failure {
            Some(error) => report.failure(&error.context(String::from_utf8_lossy(&path))),
            None => report.directory_done(),
        }
        let mut files = Vec::new();
        let mut inside = Vec::new();
        for found in entries {
            if let Ok(attr) = &found.attr {
                if attr.file_type == FileType::Directory {
                    inside.push((join(&path, &found.name), attr.ino));
                } else if attr.nlink > 1 && !seen.insert(attr.ino) {
                    continue;
                }
            }
            files.push(found);
        }
        walk.enter(inside);
        let check = |found: Found| async {
            let path = join(&path, &found.name);
            let mut unread = Vec::new();
            let result = check(filesystem, found, data, report, &mut unread).await;
            (path, unread, result)
        };
        let mut checks = stream::iter(files).map(check).buffered(FILES).boxed();
        while let Some((path, unread, result)) = checks.next().await {
            let named = |error: Error| error.context(String::from_utf8_lossy(&path));
            unread.into_iter().for_each(|error| report.failure(&named(error)));
            match result {
                Ok(FileType::Directory) => {}
                Ok(_) => report.file_done(),
                Err(error) => report.failure(&named(error)),
            }
        }
    }
}

async fn check(
    filesystem: &dyn Filesystem,
    found: Found,
    data: bool,
    report: &Report,
    unread: &mut Vec<Error>,
) -> Result<FileType> {
    let attr = found.attr?;
    unread.extend(read_xattrs(filesystem, attr.ino).await.unread);
    match attr.file_type {
        FileType::Symlink => {
            filesystem.readlink(attr.ino).await?;
        }
        FileType::Regular => {
            let reader = filesystem.open(attr.ino).await?;
            if data {
                let mut contents = Contents::new(&*reader, attr.size);
                while let Some((_, data)) = contents.next().await? {
                    report.bytes_done(data.len() as u64);
                }
            } else {
                let mut at = 0;
                while let Some((_, end)) = next_range(&*reader, at, attr.size).await? {
                    at = end;
                }
            }
        }
        _ => {}
    }
    Ok(attr.file_type)
}
