//! What a file holds: its data without the holes, and its extended attributes.

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Attr, FileReader, FileType, Filesystem, Ino};

use super::metadata::{ACCESS_ACL, GROUP, Xattrs};

/// What is read at a time.
const CHUNK: usize = 1 << 20;

/// The most bytes of attributes that one file may have: those of many files are in memory at the same time.
const MOST_XATTRS: usize = 4 << 20;

/// The most places that an archive tells of the data of one file, all before the first byte: 4 MiB of them, for each of the
/// files that are read ahead. The last one goes over the holes behind it.
pub(super) const MOST_RANGES: usize = 1 << 18;

/// What can be read of an inode's extended attributes.
#[derive(Default)]
pub(super) struct Found {
    pub(super) xattrs: Xattrs,
    /// Why some or all of them cannot be read: the contents are worth having without them.
    pub(super) unread: Vec<Error>,
    /// Whether the access ACL is, or may be, among those.
    acl_unread: bool,
}

/// Reads the extended attributes of an inode.
pub(super) async fn read_xattrs(filesystem: &dyn Filesystem, ino: Ino) -> Found {
    let mut found = Found::default();
    let lost = |error: Error| error.context("extended attributes lost");
    let names = match filesystem.listxattr(ino).await {
        Ok(names) => names,
        Err(error) => return Found { unread: vec![lost(error)], acl_unread: true, ..found },
    };
    let is_acl = |name: &[u8]| name == ACCESS_ACL.to_bytes();
    let has_acl = names.iter().any(|name| is_acl(name));
    let mut room = MOST_XATTRS;
    for name in names {
        match filesystem.getxattr(ino, &name).await {
            Ok(value) if value.len() <= room => {
                room -= value.len();
                found.xattrs.push((name, value));
            }
            Ok(_) => {
                let message =
                    format!("{ino}: more than {MOST_XATTRS} bytes of extended attributes");
                let unread = vec![lost(Error::new(ErrorKind::Unsupported, message))];
                return Found { unread, acl_unread: has_acl, ..Found::default() };
            }
            Err(error) => {
                found.acl_unread |= is_acl(&name);
                found.unread.push(lost(error));
            }
        }
    }
    found
}

/// [`read_xattrs`] for what is going to be restored. Where the access ACL may be lost, `attr` loses the permissions of the
/// group: with an ACL they are its mask, and without it the owning group would get what the ACL denies.
pub(super) async fn xattrs_to_keep(
    filesystem: &dyn Filesystem,
    attr: &mut Attr,
) -> (Xattrs, Vec<Error>) {
    let Found { xattrs, mut unread, acl_unread } = read_xattrs(filesystem, attr.ino).await;
    if acl_unread && attr.file_type != FileType::Symlink && attr.permissions & GROUP != 0 {
        attr.permissions &= !GROUP;
        let closed = "closed to its group, whom an ACL may keep out";
        unread = unread.into_iter().map(|error| error.context(closed)).collect();
    }
    (xattrs, unread)
}

/// The data of a file in order, without its holes.
pub(super) struct Contents<'a> {
    reader: &'a dyn FileReader,
    size: u64,
    /// The ranges still to be read, where they are not asked for one by one.
    known: Option<std::slice::Iter<'a, (u64, u64)>>,
    /// The data range that is being read.
    start: u64,
    end: u64,
}

impl<'a> Contents<'a> {
    pub(super) fn new(reader: &'a dyn FileReader, size: u64) -> Self {
        Self { reader, size, known: None, start: 0, end: 0 }
    }

    /// What lies in `ranges`, of which [`data_ranges`] has answered, and nothing else.
    pub(super) fn within(reader: &'a dyn FileReader, size: u64, ranges: &'a [(u64, u64)]) -> Self {
        Self { known: Some(ranges.iter()), ..Self::new(reader, size) }
    }

    /// The next piece of data and where it stands.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Segments)>> {
        if self.start >= self.end {
            let next = match &mut self.known {
                Some(known) => known.next().copied(),
                None => next_range(self.reader, self.end, self.size).await?,
            };
            match next {
                Some(range) => (self.start, self.end) = range,
                None => return Ok(None),
            }
        }
        let wanted =
            usize::try_from(self.end.saturating_sub(self.start)).unwrap_or(CHUNK).min(CHUNK);
        let at = self.start;
        let data = match self.reader.try_read(at, wanted) {
            Some(answer) => answer?,
            None => self.reader.read(at, wanted).await?,
        };
        if data.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, format!("ends at {at} of {}", self.size)));
        }
        self.start += data.len() as u64;
        // What the page cache holds comes without waiting, and Ctrl-C has to get in between.
        tokio::task::consume_budget().await;
        Ok(Some((at, data)))
    }
}

/// Where the next data of a file stands at or behind `offset`, and where it ends.
pub(super) async fn next_range(
    reader: &dyn FileReader,
    offset: u64,
    size: u64,
) -> Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    tokio::task::consume_budget().await;
    let Some(range) = reader.data_range(offset).await? else { return Ok(None) };
    let end = range.end.min(size);
    if range.start < offset || range.start >= end {
        return Err(Error::new(ErrorKind::Corrupt, "data ranges that overlap"));
    }
    Ok(Some((range.start, end)))
}

/// Where the data of a file lies, holes left out, but for those behind the start of the last of [`MOST_RANGES`] places.
pub(super) async fn data_ranges(reader: &dyn FileReader, size: u64) -> Result<Vec<(u64, u64)>> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0;
    while let Some((start, end)) = next_range(reader, offset, size).await? {
        let full = ranges.len() >= MOST_RANGES;
        match ranges.last_mut() {
            Some((_, last)) if *last == start || full => *last = end,
            _ => ranges.push((start, end)),
        }
        offset = end;
    }
    Ok(ranges)
}
