//! `snapbrowse umount`.

use std::path::PathBuf;

use crate::error::Result;
use crate::fuse;

use super::exit::Exit;
use super::source::Context;

/// Unmount what `mount` mounted; returns after the logout, when the snapshot may be revoked
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory that it is mounted on
    mountpoint: PathBuf,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit> {
    fuse::unmount(&args.mountpoint, context.settings.timeout)?;
    Ok(Exit::Done)
}
