//! `snapbrowse ls`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::error::Result;
use crate::fs::walk::{self, Found, Listing, Walk};
use crate::fs::{Attr, DeviceNumber, FileType, Filesystem, Ino, LastLink, resolve};

use super::args::SourceArg;
use super::context::Context;
use super::entry::{Entry, mode_string};
use super::exit::Exit;
use super::output::{Output, local_time};
use super::source;
use super::tally::Tally;

/// List a directory, names that start with a dot included
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse ls disk.img
  snapbrowse ls -l iscsi://san1/iqn.2001-05.com.example:snap/0 /etc
  snapbrowse ls -lR --volume p2 disk.img /home")]
pub(crate) struct Args {
    /// Show mode, links, owner, size and time
    #[arg(short)]
    long: bool,
    /// Go into directories
    #[arg(short = 'R', long)]
    recursive: bool,
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// What to list
    #[arg(default_value = "/", hide_default_value = true)]
    path: OsString,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |opened| {
        let filesystem = &*opened.filesystem;
        let mut listing = Lister {
            filesystem,
            out: Output::new(),
            long: args.long,
            json: context.settings.json.then(JsonList::default),
            tally: Tally::default(),
        };
        // As in ls: with -l a link in the last place is shown itself.
        let last = if args.long { LastLink::Keep } else { LastLink::Follow };
        let path = args.path.as_bytes();
        let attr = resolve(filesystem, path, last).await?;
        if attr.file_type != FileType::Directory {
            let entry = Entry::read(filesystem, path.to_vec(), attr).await?;
            listing.show(None, &[entry])?;
        } else if args.long || args.recursive || context.settings.json {
            listing.directory(path.to_vec(), attr.ino, args.recursive).await?;
        } else {
            listing.names(path, attr.ino).await?;
        }
        listing.finish()
    })
    .await
}

struct Lister<'a> {
    filesystem: &'a dyn Filesystem,
    out: Output,
    long: bool,
    json: Option<JsonList>,
    tally: Tally,
}

/// A JSON array that is written as its elements come.
#[derive(Default)]
struct JsonList {
    started: bool,
}

impl Lister<'_> {
    /// Names alone: no inode is needed, and each one saved is a read over the network saved.
    async fn names(&mut self, path: &[u8], directory: Ino) -> Result<()> {
        let (entries, failure) = walk::names(self.filesystem, directory).await;
        for entry in &entries {
            self.out.name(&entry.name)?;
            self.out.line("")?;
        }
        self.tally.listed(path, &entries, failure);
        Ok(())
    }

    /// Entries with their inodes.
    async fn directory(&mut self, path: Vec<u8>, ino: Ino, recursive: bool) -> Result<()> {
        let mut walk = Walk::new(self.filesystem);
        walk.enter(vec![(path, ino)]);
        let mut first = true;
        while let Some(Listing { path, entries, failure, .. }) = walk.next().await {
            let unread = failure.is_some() && entries.is_empty();
            self.tally.listed(&path, &entries, failure);
            if unread {
                continue;
            }
            if recursive && self.json.is_none() {
                if !first {
                    self.out.line("")?;
                }
                self.out.name(&path)?;
                self.out.line(":")?;
            }
            first = false;
            let mut shown = Vec::with_capacity(entries.len());
            let mut inside = Vec::new();
            for Found { name, attr } in entries {
                let entry = async { Entry::read(self.filesystem, name.clone(), attr?).await };
                match entry.await {
                    Ok(entry) => {
                        if recursive && entry.attr.file_type == FileType::Directory {
                            inside.push((walk::join(&path, &name), entry.attr.ino));
                        }
                        shown.push(entry);
                    }
                    Err(error) => {
                        let path = walk::join(&path, &name);
                        self.tally.failed(&error.context(String::from_utf8_lossy(&path)));
                    }
                }
            }
            walk.enter(inside);
            self.show(Some(&path), &shown)?;
        }
        Ok(())
    }

    /// Shows entries of `directory`; without one their names are whole paths.
    fn show(&mut self, directory: Option<&[u8]>, entries: &[Entry]) -> Result<()> {
        if let Some(list) = &mut self.json {
            for entry in entries {
                let mut entry = entry.clone();
                if let Some(directory) = directory {
                    entry.path = walk::join(directory, &entry.path);
                }
                self.out.text(if std::mem::replace(&mut list.started, true) {
                    ",\n"
                } else {
                    "[\n"
                })?;
                self.out.json(&entry.to_json())?;
            }
            return Ok(());
        }
        let widths = Widths::of(entries.iter().map(|entry| &entry.attr));
        for entry in entries {
            if self.long {
                self.out.text(widths.columns(&entry.attr))?;
            }
            self.out.name(&entry.path)?;
            if let (true, Some(target)) = (self.long, &entry.target) {
                self.out.text(" -> ")?;
                self.out.name(target)?;
            }
            self.out.line("")?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Exit> {
        if let Some(list) = self.json {
            self.out.line(if list.started { "\n]" } else { "[]" })?;
        }
        self.out.flush()?;
        Ok(self.tally.exit())
    }
}

/// How wide the columns of `ls -l` are.
#[derive(Default)]
struct Widths {
    links: usize,
    uid: usize,
    gid: usize,
    size: usize,
}

impl Widths {
    fn of<'a>(all: impl Iterator<Item = &'a Attr>) -> Self {
        let mut widths = Self::default();
        for attr in all {
            widths.links = widths.links.max(attr.nlink.to_string().len());
            widths.uid = widths.uid.max(attr.uid.to_string().len());
            widths.gid = widths.gid.max(attr.gid.to_string().len());
            widths.size = widths.size.max(size(attr).len());
        }
        widths
    }

    /// All columns before the name.
    fn columns(&self, attr: &Attr) -> String {
        let Self { links, uid, gid, size: width } = *self;
        format!(
            "{} {:>links$} {:>uid$} {:>gid$} {:>width$} {} ",
            mode_string(attr),
            attr.nlink,
            attr.uid,
            attr.gid,
            size(attr),
            local_time(attr.mtime),
        )
    }
}

/// The size, or the number of a device.
fn size(attr: &Attr) -> String {
    let DeviceNumber { major, minor } = attr.rdev;
    match attr.file_type {
        FileType::BlockDevice | FileType::CharDevice => format!("{major}, {minor}"),
        _ => attr.size.to_string(),
    }
}
