//! A tree as a PAX archive.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::walk::{Found, Listing, Walk, join};
use crate::fs::{Attr, FileReader, FileType, Filesystem, Ino};

use super::contents::{Contents, data_ranges, xattrs_to_keep};
use super::dest::Name;
use super::metadata::Xattrs;
use super::pax::{self, Kind};
use super::{Report, Root, root};

/// Members that are read ahead of the one that is being written.
const AHEAD: usize = 32;

/// Contents up to this size are read ahead; a file that cannot be read is left out then, not cut short.
const SMALL: u64 = 256 << 10;

/// Writes what `paths` name to `out`, `/etc` as `etc`, and of `/` the entries as `./...`. What cannot be read is told
/// to `report`.
///
/// Ends early, and without an error, where the other end of `out` has gone.
pub async fn archive(
    filesystem: &dyn Filesystem,
    paths: &[Vec<u8>],
    out: &mpsc::Sender<Segments>,
    report: &Report,
) {
    let mut archive = Archive { filesystem, out, report, links: HashMap::new() };
    for path in paths {
        let written = match root(filesystem, path).await {
            Ok(root) => archive.tree(root).await,
            Err(error) => {
                report.failure(&error);
                Ok(())
            }
        };
        if written.is_err() {
            return;
        }
    }
    // Two blocks of zeros are the end. Whether someone takes them is known by then to who waits there.
    let _ = archive.send(Segments::zeros(2 * pax::BLOCK as usize)).await;
}

/// Nobody takes what we write.
struct Gone;

struct Archive<'a> {
    filesystem: &'a dyn Filesystem,
    out: &'a mpsc::Sender<Segments>,
    report: &'a Report,
    /// The first names of files that have several.
    links: HashMap<Ino, Vec<u8>>,
}

/// A member that is ready to be written.
struct Member {
    /// Its name in the archive.
    name: Vec<u8>,
    attr: Attr,
    xattrs: Xattrs,
    /// Why some of them could not be read.
    unread: Vec<Error>,
    body: Body,
}

enum Body {
    None,
    Symlink(Vec<u8>),
    /// The data ranges of a file, and where they are read from.
    File {
        reader: std::sync::Arc<dyn FileReader>,
        ranges: Vec<(u64, u64)>,
    },
    /// The same, read already.
    Small {
        ranges: Vec<(u64, u64)>,
        data: Segments,
    },
}

impl Archive<'_> {
    async fn tree(&mut self, root: Root) -> Result<(), Gone> {
        let Root { name, from, attr } = root;
        // For messages: where the archive's names stand in the image.
        let base = match &name {
            None => from,
            Some(name) => {
                let slashes = from.iter().rev().take_while(|&&byte| byte == b'/').count();
                from[..from.len() - slashes - name.as_bytes().len()].to_vec()
            }
        };
        let name = name.map_or(b".".to_vec(), |name| name.as_bytes().to_vec());
        let filesystem = self.filesystem;
        if attr.file_type != FileType::Directory {
            let member = prepare(filesystem, name.clone(), Ok(attr)).await;
            return self.put(&base, &name, member).await;
        }
        let mut walk = Walk::new(filesystem);
        walk.enter(vec![(name, attr.ino)]);
        while let Some(Listing { path, ino, entries, failure }) = walk.next().await {
            // A directory stands right before what is in it: tar sets its time when it has left it behind.
            let attr = filesystem.getattr(ino).await;
            let member = prepare(filesystem, path.clone(), attr).await;
            self.put(&base, &path, member).await?;
            if let Some(error) = failure {
                self.fail(&base, &path, &error);
            }
            let is_directory = |found: &Found| {
                let directory = |attr: &Attr| attr.file_type == FileType::Directory;
                found.attr.as_ref().is_ok_and(directory) && Name::parse(&found.name).is_ok()
            };
            let (inside, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_directory);
            let inside = inside.into_iter().filter_map(|found| {
                found.attr.ok().map(|attr| (join(&path, &found.name), attr.ino))
            });
            walk.enter(inside.collect());
            let prepare = |found: Found| {
                let name = join(&path, &found.name);
                let attr = Name::parse(&found.name).and(found.attr);
                async move { (name.clone(), prepare(filesystem, name, attr).await) }
            };
            let mut members = stream::iter(files).map(prepare).buffered(AHEAD).boxed();
            while let Some((name, member)) = members.next().await {
                self.put(&base, &name, member).await?;
            }
        }
        Ok(())
    }

    fn fail(&self, base: &[u8], name: &[u8], error: &Error) {
        let path = match name {
            b"." => base.to_vec(),
            name => join(base, name.strip_prefix(b"./").unwrap_or(name)),
        };
        self.report.failure(&error.clone().context(String::from_utf8_lossy(&path)));
    }

    /// Writes one member.
    async fn put(&mut self, base: &[u8], name: &[u8], member: Result<Member>) -> Result<(), Gone> {
        let Member { name, attr, xattrs, unread, body } = match member {
            Ok(member) => member,
            Err(error) => {
                self.fail(base, name, &error);
                return Ok(());
            }
        };
        unread.iter().for_each(|error| self.fail(base, &name, error));
        let several = attr.nlink > 1 && attr.file_type != FileType::Directory;
        if let Some(first) = self.links.get(&attr.ino).filter(|_| several) {
            let header = pax::header(&name, &attr, &xattrs, &Kind::HardLink(first));
            self.send(header.into()).await?;
            self.report.file_done();
            return Ok(());
        }
        match body {
            Body::None => {
                self.send(pax::header(&name, &attr, &xattrs, &Kind::Plain).into()).await?;
            }
            Body::Symlink(target) => {
                self.send(pax::header(&name, &attr, &xattrs, &Kind::Symlink(&target)).into())
                    .await?;
            }
            Body::Small { ranges, data } => {
                let stored = data.len() as u64;
                self.start_file(&name, &attr, &xattrs, &ranges, stored).await?;
                self.send(data).await?;
                self.end_file(stored).await?;
            }
            Body::File { reader, ranges } => {
                let stored = ranges.iter().map(|(start, end)| end - start).sum();
                self.start_file(&name, &attr, &xattrs, &ranges, stored).await?;
                if let Err(error) = self.stream(&*reader, attr.size, &ranges, stored).await? {
                    self.fail(base, &name, &error);
                }
                self.end_file(stored).await?;
            }
        }
        if several {
            self.links.insert(attr.ino, name);
        }
        match attr.file_type {
            FileType::Directory => self.report.directory_done(),
            _ => self.report.file_done(),
        }
        Ok(())
    }

    /// Writes the header of a file, and before the data of a sparse one its map.
    async fn start_file(
        &self,
        name: &[u8],
        attr: &Attr,
        xattrs: &Xattrs,
        ranges: &[(u64, u64)],
        stored: u64,
    ) -> Result<(), Gone> {
        if stored == attr.size {
            return self.send(pax::header(name, attr, xattrs, &Kind::Plain).into()).await;
        }
        let map = sparse_map(ranges, attr.size);
        let kind = Kind::Sparse { stored: map.len() as u64 + stored };
        self.send(pax::header(name, attr, xattrs, &kind).into()).await?;
        self.send(map.into()).await
    }

    async fn end_file(&self, stored: u64) -> Result<(), Gone> {
        self.report.bytes_done(stored);
        self.send(Segments::zeros(pax::padding(stored))).await
    }

    /// Writes the `stored` bytes of `ranges`, whatever happens: the header has promised them. Where the file cannot be
    /// read, zeros stand for the rest.
    async fn stream(
        &self,
        reader: &dyn FileReader,
        size: u64,
        ranges: &[(u64, u64)],
        stored: u64,
    ) -> Result<Result<()>, Gone> {
        let mut contents = Contents::within(reader, size, ranges);
        let mut left = stored;
        let result = loop {
            match contents.next().await {
                Ok(Some((_, data))) => {
                    left = left.saturating_sub(data.len() as u64);
                    self.send(data).await?;
                }
                Ok(None) => break Ok(()),
                Err(error) => {
                    let why = "; in the archive zeros stand from there on";
                    break Err(Error::new(error.kind(), format!("{}{why}", error.message())));
                }
            }
        };
        while left > 0 {
            let some = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 20);
            self.send(Segments::zeros(some)).await?;
            left -= some as u64;
        }
        Ok(result)
    }

    async fn send(&self, data: Segments) -> Result<(), Gone> {
        if data.is_empty() {
            return Ok(());
        }
        self.out.send(data).await.map_err(|_| Gone)
    }
}

/// Reads all of a member that is needed before its header can be written.
async fn prepare(filesystem: &dyn Filesystem, name: Vec<u8>, attr: Result<Attr>) -> Result<Member> {
    let mut attr = attr?;
    let (xattrs, unread) = xattrs_to_keep(filesystem, &mut attr).await;
    let body = match attr.file_type {
        FileType::Regular => {
            let reader = filesystem.open(attr.ino).await?;
            let ranges = data_ranges(&*reader, attr.size).await?;
            match attr.size <= SMALL {
                true => Body::Small { data: read_all(&*reader, attr.size, &ranges).await?, ranges },
                false => Body::File { reader, ranges },
            }
        }
        FileType::Symlink => Body::Symlink(filesystem.readlink(attr.ino).await?),
        FileType::Socket => {
            return Err(Error::new(ErrorKind::InvalidInput, "a socket has no place in an archive"));
        }
        _ => Body::None,
    };
    Ok(Member { name, attr, xattrs, unread, body })
}

async fn read_all(reader: &dyn FileReader, size: u64, ranges: &[(u64, u64)]) -> Result<Segments> {
    let mut contents = Contents::within(reader, size, ranges);
    let mut all = Segments::new();
    while let Some((_, data)) = contents.next().await? {
        all.append(data);
    }
    Ok(all)
}

/// The map in front of the data (GNU tar, "PAX Format, Version 1.0"): counts and offsets in decimal, one a line.
fn sparse_map(ranges: &[(u64, u64)], size: u64) -> Bytes {
    let ends_in_hole = ranges.last().is_none_or(|(_, end)| *end < size);
    let mut map = format!("{}\n", ranges.len() + usize::from(ends_in_hole));
    for (start, end) in ranges {
        map.push_str(&format!("{start}\n{}\n", end - start));
    }
    if ends_in_hole {
        map.push_str(&format!("{size}\n0\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len() + pax::padding(map.len() as u64), 0);
    map.into()
}
