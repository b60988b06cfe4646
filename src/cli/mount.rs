//! `snapbrowse mount`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ErrorKind, Result};
use crate::fuse::{Mount, Mountpoint, Watchdog};

use super::args::SourceArg;
use super::background::Background;
use super::context::Context;
use super::exit::Exit;
use super::mount_options::{Access, Mounting};
use super::notify::{State, notify};
use super::source::{self, Opened};
use super::{Signals, unless_interrupted};

/// How long the last look whether the volume was being written may hold up the end.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Show the files of a snapshot in a directory, as an ordinary user
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The mount is read-only. The command returns when it is ready; `snapbrowse umount`, `fusermount3 -u` \
or a SIGTERM to the process ends it and logs out. With -f, Ctrl-C does so too: all of these are regular \
ends, with exit code 0. Whoever mounts reads every file, whatever its mode, \
unless --strict-permissions is given; others are kept out unless -o allow_other is given, and then \
the modes and ACLs in the snapshot apply to all.

Examples:
  snapbrowse mount iscsi://san1/iqn.2001-05.com.example:snap/0 ~/snap
  snapbrowse mount -o allow_other,volume=p2 disk.img /mnt")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) mounting: Mounting,
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// An empty directory
    mountpoint: PathBuf,
}

/// Mounts, says that it is ready, and serves until it is unmounted or a signal comes.
pub(crate) async fn run(
    context: Arc<Context>,
    args: Args,
    background: Option<Background>,
    signals: &mut Signals,
) -> Result<Exit> {
    let mountpoint = Mountpoint::new(&args.mountpoint)?;
    let Args { source, mounting, .. } = args;
    let shared = Arc::clone(&context);
    let opened =
        unless_interrupted(signals, async move { source::open(&shared, &source).await }).await?;
    let mut mount = mount(&opened, &mountpoint, &mounting.access)?;
    context.will_say(mount.farewell());
    if let Some(background) = background {
        background.ready()?;
    }
    notify(State::Ready);
    // Last, because it must not hold on to the terminal of whoever waited.
    let watchdog = Watchdog::start(&mount)?;
    tracing::info!("{} is mounted on {}", opened.location, mountpoint.path().display());
    let ended = tokio::select! {
        ended = mount.ended() => Some(ended),
        () = signals.next() => None,
    };
    notify(State::Stopping);
    match ended {
        Some(ended) => ended?,
        None => mount.unmount().await?,
    }
    watchdog.dismiss();
    last_look(&opened).await
}

fn mount(opened: &Opened, mountpoint: &Mountpoint, access: &Access) -> Result<Mount> {
    let options = access.mount_options(opened.location.clone());
    let runtime = tokio::runtime::Handle::current();
    Mount::new(Arc::clone(&opened.filesystem), mountpoint, &options, runtime)
}

/// A short use ends before the first of the looks that a mount takes by itself.
async fn last_look(opened: &Opened) -> Result<Exit> {
    let look = opened.filesystem.check_unchanged();
    match tokio::time::timeout(LAST_LOOK, look).await {
        // An error, so that whoever unmounts hears of it: in the background nobody sees what the program ends with.
        Ok(Err(error)) if error.kind() == ErrorKind::BeingWritten => {
            Err(error.context(&opened.location))
        }
        _ => Ok(Exit::Done),
    }
}
