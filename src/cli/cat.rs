//! `snapbrowse cat`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Filesystem, LastLink, resolve};

use super::args::SourceArg;
use super::context::Context;
use super::entry::type_name;
use super::exit::Exit;
use super::source;
use super::tally::Tally;
use super::writer::Writer;

/// What is read and written at a time: large enough that system calls do not count.
const CHUNK: usize = 1 << 20;

/// Write files to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse cat iscsi://san1/iqn.2001-05.com.example:snap/0 /etc/fstab
  snapbrowse cat disk.img /var/log/syslog | grep oom")]
pub(crate) struct Args {
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// The files
    #[arg(required = true)]
    paths: Vec<OsString>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |opened| {
        let writer = Writer::start()?;
        let mut tally = Tally::default();
        for path in &args.paths {
            match copy(&*opened.filesystem, path.as_bytes(), &writer).await {
                Ok(Copied::Whole) => tally.done(),
                Ok(Copied::NoReader) => break,
                Err(error) => tally.failed(&error),
            }
        }
        writer.finish().await?;
        Ok(tally.exit())
    })
    .await
}

enum Copied {
    Whole,
    /// Standard output takes no more; [`Writer::finish`] knows why.
    NoReader,
}

async fn copy(filesystem: &dyn Filesystem, path: &[u8], writer: &Writer) -> Result<Copied> {
    let attr = resolve(filesystem, path, LastLink::Follow).await?;
    let named = |error: Error| error.context(String::from_utf8_lossy(path));
    match attr.file_type {
        FileType::Regular => {}
        FileType::Directory => {
            return Err(named(Error::new(ErrorKind::IsDir, "is a directory"))
                .with_hint("extract copies directories"));
        }
        other => {
            let what = type_name(other);
            return Err(named(Error::new(
                ErrorKind::InvalidInput,
                format!("a {what} has no contents"),
            )));
        }
    }
    let reader = filesystem.open(attr.ino).await.map_err(named)?;
    let mut offset = 0;
    while offset < attr.size {
        let data = match reader.try_read(offset, CHUNK) {
            Some(answer) => answer,
            None => reader.read(offset, CHUNK).await,
        };
        let data = data.map_err(named)?;
        if data.is_empty() {
            return Err(named(Error::new(
                ErrorKind::Corrupt,
                format!("ends at {offset} of {}", attr.size),
            )));
        }
        offset += data.len() as u64;
        if writer.chunks().send(data).await.is_err() {
            return Ok(Copied::NoReader);
        }
    }
    Ok(Copied::Whole)
}
