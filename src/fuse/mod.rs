//! Shows a [`Filesystem`] through FUSE; the only place that knows `fuser`.
//!
//! ```text
//! kernel -> serve (requests, in the session threads) -> view (answers, without FUSE) -> Filesystem
//! ```
//!
//! A request is polled once in the session thread that read it: what the caches hold is answered there, and only
//! what has to wait moves to the runtime; while all requests do, one of the session threads rests. Nothing here
//! waits on its own or tries again: every bound is the iSCSI session's, and a request that fails there is answered at
//! once.

mod errno;
mod farewell;
mod handles;
#[cfg(test)]
mod memory;
mod mount;
mod mountpoint;
mod mounts;
mod node;
mod rest;
mod serve;
mod unmount;
mod view;
mod watchdog;

#[cfg(test)]
#[path = "../../tests/common/needs.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the integration tests, which use all of it"
)]
mod needs;

pub use farewell::{Farewell, Outcome};
pub use mount::{Mount, MountOptions};
pub use mountpoint::Mountpoint;
pub use node::Shown;
pub use unmount::unmount;
pub use watchdog::Watchdog;

use std::ffi::OsString;
use std::process::ExitCode;

/// The small tasks that this layer starts the program again for, under names of its own; `None` where `arguments`
/// (the whole command line) name none of them. To be called before anything else.
pub fn run_task(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let name = arguments.next()?;
    match name.to_str()? {
        watchdog::NAME => watchdog::watch(arguments),
        unmount::ASK_NAME => unmount::ask(arguments),
        _ => None,
    }
}

#[cfg(doc)]
use crate::fs::Filesystem;
