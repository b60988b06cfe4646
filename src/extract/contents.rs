//! What a file holds: its data without the holes, and its extended attributes.

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Attr, FileReader, Filesystem};

use super::metadata::Xattrs;

/// What is read at a time.
const CHUNK: usize = 1 << 20;

/// The most bytes of attributes that one file may have: those of many files are in memory at the same time.
const MOST_XATTRS: usize = 4 << 20;

/// The extended attributes of an inode, and why some or all of them cannot be read: its contents are worth having without
/// them.
pub(super) async fn read_xattrs(filesystem: &dyn Filesystem, attr: &Attr) -> (Xattrs, Vec<Error>) {
    let ino = attr.ino;
    let mut xattrs = Vec::new();
    let lost = |error: Error| error.context("extended attributes lost");
    let names = match filesystem.listxattr(ino).await {
        Ok(names) => names,
        Err(error) => return (xattrs, vec![lost(error)]),
    };
    let mut unread = Vec::new();
    let mut room = MOST_XATTRS;
    for name in names {
        match filesystem.getxattr(ino, &name).await {
            Ok(value) if value.len() <= room => {
                room -= value.len();
                xattrs.push((name, value));
            }
            Ok(_) => {
                let message =
                    format!("{ino}: more than {MOST_XATTRS} bytes of extended attributes");
                return (Vec::new(), vec![lost(Error::new(ErrorKind::Unsupported, message))]);
            }
            Err(error) => unread.push(lost(error)),
        }
    }
    (xattrs, unread)
}

/// The data of a file in order, without its holes.
pub(super) struct Contents<'a> {
    reader: &'a dyn FileReader,
    size: u64,
    /// The data range that is being read.
    start: u64,
    end: u64,
}

impl<'a> Contents<'a> {
    pub(super) fn new(reader: &'a dyn FileReader, size: u64) -> Self {
        Self { reader, size, start: 0, end: 0 }
    }

    /// The next piece of data and where it stands.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, Segments)>> {
        if self.start >= self.end {
            let found = match self.end < self.size {
                true => self.reader.data_range(self.end).await?,
                false => None,
            };
            let Some(range) = found else { return Ok(None) };
            if range.start < self.end || range.is_empty() {
                return Err(Error::new(ErrorKind::Corrupt, "data ranges that overlap"));
            }
            (self.start, self.end) = (range.start, range.end.min(self.size));
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

/// Where the data of a file lies, holes left out.
pub(super) async fn data_ranges(reader: &dyn FileReader, size: u64) -> Result<Vec<(u64, u64)>> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0;
    while offset < size {
        let Some(range) = reader.data_range(offset).await? else { break };
        if range.start < offset || range.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "data ranges that overlap"));
        }
        let end = range.end.min(size);
        match ranges.last_mut() {
            Some((_, last)) if *last == range.start => *last = end,
            _ => ranges.push((range.start, end)),
        }
        offset = end;
    }
    Ok(ranges)
}
