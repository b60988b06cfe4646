//! A small, read-only iSCSI target (RFC 7143) that can be told to misbehave.
//!
//! It needs no root and no kernel: [`Server::start`] listens on loopback, serves files, bytes or patterns as LUNs
//! and counts what initiators do. It also checks what they do: [`Stats::violations`] holds every rule they broke.
//! A script of [`Rule`]s, each a [`Fault`] and the event that sets it off, makes it fail in the ways in which real
//! arrays and networks fail.
//!
//! It shares no code with the initiator it tests: where both read the RFC in the same wrong way, nothing would
//! show.
//!
//! ```
//! # #[tokio::main] async fn main() -> std::io::Result<()> {
//! use snapbrowse_target::{Config, Disk, Fault, Lun, On, Rule, Server, Target};
//!
//! let disk = Disk::pattern(1 << 20, 42);
//! let target = Target::new("iqn.2026-01.test:disk").lun(Lun::new(1, "serial-1", disk));
//! let server = Server::start(Config { targets: vec![target], ..Config::default() }).await?;
//! server.inject(Rule::new(On::Read, Fault::Silence).after(2));
//! println!("iscsi://{}/iqn.2026-01.test:disk/1", server.portal());
//! assert_eq!(server.stats().forbidden, 0);
//! # Ok(()) }
//! ```

mod answer;
mod chap;
mod connection;
mod disk;
mod fault;
mod keys;
mod login;
mod lun;
mod scsi;
mod sender;
mod sense;
mod server;
mod stats;
#[cfg(test)]
mod tests;
mod text;
mod wire;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use chap::{BinaryForm, Chap, ChapAlgorithm};
pub use disk::Disk;
pub use fault::{AsyncMessage, Close, Fault, On, Residual, Rule};
pub use lun::{AccessState, Lun};
pub use sense::Sense;
pub use server::{Config, DigestSupport, Request, Server, Target};
pub use stats::Stats;

/// Locks; every critical section here leaves its data whole, so a panic elsewhere in it does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
