//! Copies files and trees out of a [`Filesystem`], faithfully and never outside the destination.
//!
//! Everything is made under a temporary name, gets its contents and metadata, and only then its own name: a file
//! with its own name is complete. Directories get their modes and times last, when nothing is put into them any more.

mod archive;
mod contents;
mod dest;
mod item;
mod metadata;
mod pax;
mod report;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Filesystem, LastLink, resolve};

pub use archive::archive;
pub use report::Report;
pub use verify::verify;

use dest::{Destination, Name};
use walk::{Extraction, Root};

/// How to extract.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Replace files that exist, and give directories that exist the metadata of the image. They are filled either
    /// way.
    pub overwrite: bool,
}

/// Copies what `paths` name into the directory `to`, which is made where it is missing: `/etc` becomes `to/etc`,
/// and of `/` the entries go into `to`.
///
/// Symbolic links on the way to a path are followed inside the file system, one in the last place is copied as a
/// link. What cannot be restored is told to `report` and passed over.
///
/// # Errors
/// Only what makes going on senseless: the destination cannot be opened, or is full.
pub async fn extract(
    filesystem: Arc<dyn Filesystem>,
    paths: &[Vec<u8>],
    to: &Path,
    options: Options,
    report: Arc<Report>,
) -> Result<()> {
    let destination = Arc::new(Destination::open(to)?);
    let extraction =
        Extraction::new(Arc::clone(&filesystem), destination, options, Arc::clone(&report));
    let mut roots = Vec::new();
    for path in paths {
        match root(&*filesystem, path).await {
            Ok(root) => roots.push(root),
            Err(error) => report.failure(&error),
        }
    }
    extraction.run(roots).await
}

/// What a path of the command line stands for.
async fn root(filesystem: &dyn Filesystem, path: &[u8]) -> Result<Root> {
    let attr = resolve(filesystem, path, LastLink::Keep).await?;
    let last = path.split(|&byte| byte == b'/').rfind(|name| !name.is_empty());
    let name = match last {
        None | Some(b"." | b"..") => None,
        Some(name) => Some(Name::parse(name)?),
    };
    if name.is_none() && attr.file_type != FileType::Directory {
        return Err(Error::new(
            ErrorKind::NotDir,
            format!("{}: not a directory", String::from_utf8_lossy(path)),
        ));
    }
    Ok(Root { name, from: path.to_vec(), attr })
}
