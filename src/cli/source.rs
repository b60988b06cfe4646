//! From SOURCE to a file system: log in or open the image, cache, partition table, volume, reader.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::block::{BlockSource, ImageFile};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Filesystem;
use crate::fs::ext::{Ext, Summary};
use crate::fs::ext4_view::Ext4View;
use crate::iscsi::{IscsiUrl, Lun, Portal};
use crate::volume::{self, Content, Scan, Volume};

use super::args::{Engine, SourceArg};
use super::complain;
use super::context::Context;
use super::exit::Exit;
use super::units::show_size;

/// Where the blocks come from.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// A LUN.
    Lun { url: IscsiUrl, target: String },
    /// An image file or a block device.
    Image(PathBuf),
}

impl Location {
    /// Understands SOURCE.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a URL that is none, or that names a portal only.
    pub(crate) fn parse(source: &SourceArg) -> Result<Self> {
        let Some(url) = source.url()? else {
            return Ok(Self::Image(PathBuf::from(&source.0)));
        };
        match url.target.clone() {
            Some(target) => Ok(Self::Lun { url, target }),
            None => Err(Error::new(
                ErrorKind::Usage,
                format!("{} names a portal, and a target is needed here", portals(&url)),
            )
            .with_hint(format!("snapbrowse discover {} lists the targets", portals(&url)))),
        }
    }
}

/// Without the user and the secret that a URL may hold.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(path) => path.display().fmt(f),
            Self::Lun { url, target } => {
                write!(f, "{}/{target}", portals(url))?;
                url.lun.map_or(Ok(()), |lun| write!(f, "/{lun}"))
            }
        }
    }
}

/// The portals of a URL, as a URL.
pub(crate) fn portals(url: &IscsiUrl) -> String {
    let portals: Vec<String> = url.portals.iter().map(Portal::to_string).collect();
    format!("iscsi://{}", portals.join(","))
}

/// Opens the blocks of SOURCE.
///
/// # Errors
/// Those of the image file, or of connecting, logging in and finding the LUN.
pub(crate) async fn open_device(
    context: &Context,
    location: &Location,
) -> Result<Arc<dyn BlockSource>> {
    match location {
        Location::Image(path) => {
            let image = ImageFile::open(path).map_err(|error| {
                // Names of targets have colons, and so have URLs with a slip in their beginning.
                match error.kind() == ErrorKind::NotFound
                    && path.as_os_str().as_bytes().contains(&b':')
                {
                    true => error.with_hint("a LUN is written iscsi://HOST[:PORT]/TARGET/LUN"),
                    false => error,
                }
            })?;
            Ok(Arc::new(image))
        }
        Location::Lun { url, target } => {
            let lun = open_lun(context, url, target).await?;
            Ok(Arc::new(context.cache(Arc::new(lun))))
        }
    }
}

/// Logs in and opens a LUN, without a cache.
///
/// # Errors
/// Those of connecting, logging in and finding the LUN.
pub(crate) async fn open_lun(context: &Context, url: &IscsiUrl, target: &str) -> Result<Lun> {
    let config = context.settings.login(url)?;
    let session = context.log_in(&url.portals, target, url.lun, &config).await?;
    session.open_lun(url.lun).await
}

/// An open file system with what it stands on.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) filesystem: Arc<dyn Filesystem>,
    /// SOURCE without secrets.
    pub(crate) location: String,
}

/// Opens the file system that SOURCE and `--volume` mean.
///
/// # Errors
/// Those of [`open_device`], [`choose`] and the reader.
pub(crate) async fn open(context: &Context, source: &SourceArg) -> Result<Opened> {
    let location = Location::parse(source)?;
    let name = location.to_string();
    let device = open_device(context, &location).await?;
    let scan = volume::scan(&device).await.map_err(|error| error.context(&name))?;
    for warning in &scan.warnings {
        tracing::warn!("{name}: {warning}");
    }
    let volume =
        choose(&scan, context.settings.volume.as_deref()).map_err(|error| error.context(&name))?;
    tracing::info!("{name}: reading volume {}", volume.name);
    let filesystem = read(context, volume)
        .await
        .map_err(|error| error.context(format!("{name}, volume {}", volume.name)))?;
    Ok(Opened { filesystem, location: name })
}

/// Opens the file system on `volume` with the reader that was asked for.
async fn read(context: &Context, volume: &Volume) -> Result<Arc<dyn Filesystem>> {
    let ext = open_ext(context, volume).await?;
    for warning in warnings(ext.summary()) {
        tracing::warn!("volume {}: {warning}", volume.name);
    }
    Ok(match context.settings.engine {
        Engine::Native => Arc::new(ext),
        Engine::Ext4View => Arc::new(Ext4View::open(Arc::new(ext)).await?),
    })
}

/// What a person should know before believing what is read: damage that was passed over, a journal left aside.
pub(crate) fn warnings(summary: &Summary) -> impl Iterator<Item = &String> {
    summary.warnings.iter().chain(&summary.journal.warnings)
}

/// Opens the ext file system on `volume`, with its journal from `--journal-device` where that is given.
///
/// # Errors
/// Those of [`Ext::open`] and [`Ext::open_with_journal`].
pub(crate) async fn open_ext(context: &Context, volume: &Volume) -> Result<Ext> {
    let source = Arc::clone(&volume.source);
    let options = context.settings.ext;
    match &context.settings.journal_device {
        None => Ext::open(source, options).await,
        Some(journal) => {
            let journal = open_device(context, &Location::parse(journal)?).await?;
            Ext::open_with_journal(source, journal, options).await
        }
    }
}

/// Opens SOURCE, works on it, and looks at the end whether it held still.
///
/// # Errors
/// Those of [`open`] and of `work`; [`ErrorKind::BeingWritten`] where the volume changed meanwhile: what was read
/// may be wrong then, and what failed may have failed for that reason.
pub(crate) async fn with_filesystem(
    context: &Context,
    source: &SourceArg,
    work: impl AsyncFnOnce(Opened) -> Result<Exit>,
) -> Result<Exit> {
    let opened = open(context, source).await?;
    let result = work(opened.clone()).await;
    let unchanged = opened.filesystem.check_unchanged().await;
    match (result, unchanged) {
        (result, Ok(())) => result,
        (Ok(_), Err(error)) => Err(error.context(&opened.location)),
        (Err(error), Err(change)) if change.kind() == ErrorKind::BeingWritten => {
            complain(&error);
            Err(change.context(&opened.location))
        }
        // The session is gone, most likely, and so the check fails too: the first failure says more.
        (Err(error), Err(_)) => Err(error),
    }
}

/// The volume of that name, or the only one with a file system.
///
/// # Errors
/// [`ErrorKind::VolumeNotFound`] where there is none of that name, or several and none named;
/// [`ErrorKind::NoFilesystem`] where none is readable. All of them list what was found.
fn choose<'a>(scan: &'a Scan, name: Option<&str>) -> Result<&'a Volume> {
    let readable = |volume: &&Volume| volume.content == Content::Ext;
    if let Some(name) = name {
        let volume = scan.volumes.iter().find(|volume| volume.name == name).ok_or_else(|| {
            Error::new(ErrorKind::VolumeNotFound, format!("no volume {name}; found {}", list(scan)))
        })?;
        // A damaged superblock has no signature; whoever names such a volume gets the reader's own verdict.
        return match volume.content {
            Content::Ext | Content::Unknown => Ok(volume),
            Content::PhysicalVolume => Err(Error::new(
                ErrorKind::NoFilesystem,
                format!("volume {name} is an LVM2 physical volume; found {}", list(scan)),
            )
            .with_hint("name one of its logical volumes, as GROUP/VOLUME")),
            Content::Other(what) => Err(Error::new(
                ErrorKind::NoFilesystem,
                format!("volume {name} holds {what}, which is not read here"),
            )),
        };
    }
    let mut found = scan.volumes.iter().filter(readable);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Error::new(
            ErrorKind::NoFilesystem,
            format!("no ext2, ext3 or ext4 file system; found {}", list(scan)),
        )),
        (Some(_), Some(_)) => Err(Error::new(
            ErrorKind::VolumeNotFound,
            format!("several file systems; found {}", list(scan)),
        )
        .with_hint("choose one with --volume NAME")),
    }
}

/// `p1 (ext, 8.0 GiB), p2 (XFS, 1.0 GiB)`.
fn list(scan: &Scan) -> String {
    if scan.volumes.is_empty() {
        return "no volumes".to_owned();
    }
    let describe = |volume: &Volume| {
        format!("{} ({}, {})", volume.name, content_name(volume.content), show_size(volume.size))
    };
    scan.volumes.iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// What a volume holds, in words.
pub(crate) fn content_name(content: Content) -> &'static str {
    match content {
        Content::Ext => "ext2/3/4",
        Content::PhysicalVolume => "LVM2 physical volume",
        Content::Other(what) => what,
        Content::Unknown => "nothing known",
    }
}
