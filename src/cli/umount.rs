//! `snapbrowse umount`.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{self, Outcome};

use super::complain;
use super::context::Context;
use super::exit::Exit;
use super::presenting;

/// Unmount what `mount` or `browse` mounted; returns after the logout, when the snapshot may be revoked
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 0: unmounted, logged out of, and revoked where hooks have presented it. 1: unmounted, but the target did \
not confirm the logout, or the revoke hook failed; the message says which. 3: the volume was written meanwhile. \
10: nothing of snapbrowse's is mounted there, or there is no such directory.")]
pub(crate) struct Args {
    /// The directory that it is mounted on
    mountpoint: PathBuf,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<Exit> {
    let settings = &context.settings;
    // The process may wait for the end of a login before the logout.
    let outcome = fuse::unmount(&args.mountpoint, settings.with_hooks()?.saturating_mul(2))?;
    let shown = args.mountpoint.display();
    let exit = match outcome {
        Some(Outcome { code, failures }) => {
            for failure in failures {
                complain(&Error::new(ErrorKind::SessionLost, format!("{shown}: {failure}")));
            }
            match code {
                0 => Exit::Done,
                code if code == Exit::Partly as u8 => Exit::Partly,
                _ => Exit::Failed,
            }
        }
        None => {
            tracing::warn!("{shown}: the process behind it was killed before it could log out");
            let failures = revoke_for_the_dead()?;
            failures.iter().for_each(complain);
            if failures.is_empty() { Exit::Done } else { Exit::Failed }
        }
    };
    Ok(exit)
}

/// Revokes what the killed process can have left presented; gives back what failed.
fn revoke_for_the_dead() -> Result<Vec<Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    Ok(runtime.block_on(presenting::reconcile()))
}
