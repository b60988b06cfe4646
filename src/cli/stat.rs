//! `snapbrowse stat`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::fs::{FileType, Filesystem, LastLink, resolve};

use super::args::SourceArg;
use super::context::Context;
use super::entry::{Entry, EntryJson, mode_string, type_name};
use super::exit::Exit;
use super::output::{Output, printable, rfc3339};
use super::source;
use super::tally::Tally;

/// Show everything that an inode holds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse stat disk.img /etc/passwd
  snapbrowse stat --json disk.img /bin /bin/")]
pub(crate) struct Args {
    /// Follow a symbolic link in the last place
    #[arg(short = 'L', long)]
    dereference: bool,
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// What to look at
    #[arg(required = true)]
    paths: Vec<OsString>,
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Serialize)]
struct StatJson {
    #[serde(flatten)]
    entry: EntryJson,
    generation: u32,
    /// Values in base64.
    xattrs: BTreeMap<String, String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |opened| {
        let last = if args.dereference { LastLink::Follow } else { LastLink::Keep };
        let mut out = Output::new();
        let mut tally = Tally::default();
        for path in args.paths {
            let path = path.into_vec();
            match look(&*opened.filesystem, path, last).await {
                Ok((entry, xattrs, unread)) => {
                    if context.settings.json {
                        out.json_line(&to_json(&entry, &xattrs))?;
                    } else {
                        show(&mut out, &entry, &xattrs)?;
                    }
                    tally.done();
                    unread.iter().for_each(|error| tally.failed(error));
                }
                Err(error) => tally.failed(&error),
            }
        }
        out.flush()?;
        Ok(tally.exit())
    })
    .await
}

/// What can be shown of a file, and why some of its attributes cannot.
async fn look(
    filesystem: &dyn Filesystem,
    path: Vec<u8>,
    last: LastLink,
) -> Result<(Entry, Xattrs, Vec<Error>)> {
    let attr = resolve(filesystem, &path, last).await?;
    let ino = attr.ino;
    let named = |error: Error| error.context(String::from_utf8_lossy(&path));
    let entry = Entry::read(filesystem, path.clone(), attr).await.map_err(named)?;
    let mut xattrs = Vec::new();
    let mut unread = Vec::new();
    match filesystem.listxattr(ino).await {
        Ok(names) => {
            for name in names {
                match filesystem.getxattr(ino, &name).await {
                    Ok(value) => xattrs.push((name, value)),
                    Err(error) => unread.push(named(error)),
                }
            }
        }
        Err(error) => unread.push(named(error)),
    }
    Ok((entry, xattrs, unread))
}

fn to_json(entry: &Entry, xattrs: &Xattrs) -> StatJson {
    let xattrs = xattrs
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), BASE64.encode(value)))
        .collect();
    StatJson { entry: entry.to_json(), generation: entry.attr.generation, xattrs }
}

fn show(out: &mut Output, entry: &Entry, xattrs: &Xattrs) -> Result<()> {
    let attr = &entry.attr;
    out.text("  File: ")?;
    out.name(&entry.path)?;
    if let Some(target) = &entry.target {
        out.text(" -> ")?;
        out.name(target)?;
    }
    out.line("")?;
    let kind = type_name(attr.file_type);
    out.line(format_args!("  Size: {:<14} Blocks: {:<10} {kind}", attr.size, attr.blocks))?;
    out.text(format_args!(" Inode: {:<14} Links: {}", attr.ino.0, attr.nlink))?;
    if matches!(attr.file_type, FileType::BlockDevice | FileType::CharDevice) {
        out.text(format_args!("  Device: {}:{}", attr.rdev.major, attr.rdev.minor))?;
    }
    out.line("")?;
    let mode = mode_string(attr);
    out.line(format_args!(
        "Access: {:04o}/{mode}  Uid: {}  Gid: {}",
        attr.permissions, attr.uid, attr.gid
    ))?;
    for (what, time) in [
        ("Access", Some(attr.atime)),
        ("Modify", Some(attr.mtime)),
        ("Change", Some(attr.ctime)),
        (" Birth", attr.crtime),
    ] {
        out.line(format_args!("{what}: {}", time.map_or("-".to_owned(), rfc3339)))?;
    }
    for (name, value) in xattrs {
        out.line(format_args!(" Xattr: {}={}", printable(name), shown_value(value)))?;
    }
    Ok(())
}

/// Text in quotation marks, anything else in hexadecimal, as getfattr(1) shows them.
fn shown_value(value: &[u8]) -> String {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains(char::is_control));
    match text {
        Some(text) => format!("{text:?}"),
        None => value.iter().fold("0x".to_owned(), |hex, byte| format!("{hex}{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::memory::MemoryFs;

    #[tokio::test]
    async fn a_link_is_itself_unless_followed() {
        let mut fs = MemoryFs::new();
        fs.file("/f", b"abc");
        fs.symlink("/l", b"f");
        let (link, ..) = look(&fs, b"/l".to_vec(), LastLink::Keep).await.unwrap();
        assert_eq!(link.target.as_deref(), Some(&b"f"[..]));
        let (file, ..) = look(&fs, b"/l".to_vec(), LastLink::Follow).await.unwrap();
        assert_eq!((file.target, file.attr.size), (None, 3));
    }
}
