//! Snapbrowse gets files out of SAN snapshots: an iSCSI initiator, a block cache, partition tables and a
//! read-only ext2/3/4 reader in one unprivileged program that never writes to the LUN.
//!
//! The layers, from the bottom up; a layer imports only from lines above its own in this list:
//!
//! | module | room for |
//! | --- | --- |
//! | [`error`] | the one error type: a kind, what failed on what, and what to do |
//! | [`block`] | [`block::BlockSource`]: image files, the cache, slices; knows nothing else of ours |
//! | [`scsi`] | bytes to and from CDBs, sense data, INQUIRY, capacities |
//! | [`iscsi`] | the initiator: PDUs, the protocol core, sessions, discovery, [`iscsi::Lun`] |
//! | [`volume`] | partition tables: a device becomes named volumes, each a `BlockSource` |
//! | [`fs`] | [`fs::Filesystem`]: inode-level, asynchronous, read-only; the ext reader |
//! | [`browse`] | many targets as one tree: a `Filesystem` made of file systems |
//! | [`extract`] | copies trees out, faithfully, over `Filesystem` |
//! | [`fuse`] | shows a `Filesystem` through FUSE |
//! | [`hooks`] | the commands of the user's that present and revoke snapshots; sees none of the layers above |
//! | [`cli`] | the commands; the only place where a URL meets a file system |

pub mod block;
pub mod browse;
pub mod cli;
pub mod error;
pub mod extract;
pub mod fs;
pub mod fuse;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod hooks;
pub mod iscsi;
pub mod scsi;
pub mod volume;

pub use error::{Error, ErrorKind, Result};
