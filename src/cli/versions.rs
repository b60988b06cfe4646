//! `snapbrowse versions`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Filesystem, LastLink, resolve};
use crate::iscsi;

use super::args::SourceArg;
use super::context::Context;
use super::entry::{Entry, EntryJson, mode_string};
use super::exit::Exit;
use super::output::{Output, local_time, printable};
use super::source::{self, Location};
use super::tally::Tally;

/// What is read at a time.
const CHUNK: usize = 1 << 20;

/// Show which snapshots hold a file, identical copies together
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A portal stands for all its targets.

Examples:
  snapbrowse versions iscsi://san1 /etc/foo
  snapbrowse versions monday.img tuesday.img /home/ann/thesis.tex")]
pub(crate) struct Args {
    /// Portals, iscsi:// URLs, images or block devices, and last the path
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "PATH"])]
    sources_and_path: Vec<OsString>,
}

/// The same file in one or more places.
#[derive(Serialize)]
struct Version {
    #[serde(flatten)]
    entry: EntryJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    sources: Vec<String>,
    #[serde(skip)]
    found: Found,
}

/// One file in one place.
struct Found {
    entry: Entry,
    digest: Option<[u8; 32]>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    let mut sources = args.sources_and_path;
    let path = sources.pop().map(OsString::into_vec).unwrap_or_default();
    let mut tally = Tally::default();
    let mut versions: Vec<Version> = Vec::new();
    let mut absent = 0;
    for source in expand(context, sources, &mut tally).await? {
        let looked = look(context, &source, &path).await;
        // One session at a time: a SAN may allow few, and hold many snapshots.
        context.log_out().await;
        context.revoke_all().await.iter().for_each(|error| tally.failed(error));
        match looked {
            Ok(Some((name, found))) => {
                add(&mut versions, name, found);
                tally.done();
            }
            Ok(None) => absent += 1,
            Err(error) => tally.failed(&error),
        }
    }
    versions.sort_by_key(|version| version.found.entry.attr.mtime);
    let mut out = Output::new();
    if context.settings.json {
        out.json_document(&versions)?;
    } else {
        for version in &versions {
            version.show(&mut out)?;
        }
    }
    out.flush()?;
    if versions.is_empty() && absent > 0 && tally.exit() == Exit::Done {
        let path = String::from_utf8_lossy(&path).into_owned();
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{path}: in none of {absent} snapshots"),
        ));
    }
    Ok(tally.exit())
}

/// All targets for a portal, everything else as it is.
async fn expand(
    context: &Context,
    sources: Vec<OsString>,
    tally: &mut Tally,
) -> Result<Vec<SourceArg>> {
    let mut all = Vec::new();
    for source in sources.into_iter().map(SourceArg::from) {
        let Some(portal) = source.url()?.filter(|url| url.target.is_none()) else {
            all.push(source);
            continue;
        };
        let config = context.settings.login(&portal)?;
        match iscsi::discover(&portal.portals, &config).await {
            Ok(records) => {
                // What stands before the host, a login, goes with each target.
                let prefix = source.0.to_string_lossy().trim().trim_end_matches('/').to_owned();
                let url = |record: iscsi::TargetRecord| format!("{prefix}/{}", record.name);
                all.extend(records.into_iter().map(|record| SourceArg(url(record).into())));
            }
            Err(error) => tally.failed(&error),
        }
    }
    Ok(all)
}

/// What `path` is there; nothing where the file system does not have it.
async fn look(
    context: &Context,
    source: &SourceArg,
    path: &[u8],
) -> Result<Option<(String, Found)>> {
    let name = Location::parse(source)?.to_string();
    let opened = source::open(context, source).await?;
    let found = match read(&*opened.filesystem, path).await {
        Ok(found) => Some(found),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDir) => {
            tracing::info!("{name}: {error}");
            None
        }
        Err(error) => return Err(error.context(&name)),
    };
    opened.filesystem.check_unchanged().await.map_err(|error| error.context(&name))?;
    Ok(found.map(|found| (name, found)))
}

async fn read(filesystem: &dyn Filesystem, path: &[u8]) -> Result<Found> {
    let attr = resolve(filesystem, path, LastLink::Keep).await?;
    let digest = match attr.file_type {
        FileType::Regular => {
            let reader = filesystem.open(attr.ino).await?;
            let mut digest = Sha256::new();
            let mut offset = 0;
            while offset < attr.size {
                let data = reader.read(offset, CHUNK).await?;
                // What the page cache holds comes without waiting, and Ctrl-C has to get in between.
                tokio::task::consume_budget().await;
                if data.is_empty() {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("ends at {offset} of {}", attr.size),
                    ));
                }
                offset += data.len() as u64;
                data.pieces().iter().for_each(|piece| digest.update(piece));
            }
            Some(digest.finalize().into())
        }
        _ => None,
    };
    Ok(Found { entry: Entry::read(filesystem, path.to_vec(), attr).await?, digest })
}

/// Puts a find with those that it does not differ from: in contents, owner, mode and the time of the last change.
fn add(versions: &mut Vec<Version>, source: String, found: Found) {
    let same = |known: &&mut Version| {
        let (a, b) = (&known.found.entry, &found.entry);
        let essence = |entry: &Entry| {
            let attr = &entry.attr;
            (attr.file_type, attr.size, attr.mtime, attr.permissions, attr.uid, attr.gid)
        };
        known.found.digest == found.digest && a.target == b.target && essence(a) == essence(b)
    };
    if let Some(known) = versions.iter_mut().find(same) {
        known.sources.push(source);
        return;
    }
    let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    versions.push(Version {
        entry: found.entry.to_json(),
        sha256: found.digest.as_ref().map(hex),
        sources: vec![source],
        found,
    });
}

impl Version {
    fn show(&self, out: &mut Output) -> Result<()> {
        let attr = &self.found.entry.attr;
        out.line(format_args!(
            "{} {} {} {} {}",
            local_time(attr.mtime),
            mode_string(attr),
            attr.uid,
            attr.gid,
            attr.size
        ))?;
        for source in &self.sources {
            out.line(format_args!("  {}", printable(source.as_bytes())))?;
        }
        Ok(())
    }
}
