//! What the integration tests share. Every test binary takes what it needs of it.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod beside;
mod crashed_lun;
mod disks;
mod images;
mod istgt;
mod kernel;
mod large_file;
mod log;
mod manifest;
mod needs;
mod snapbrowse;
mod stat_json;
mod tgtd;
mod tree;

pub use beside::assert_readers_agree;
pub use crashed_lun::CrashedLun;
pub use disks::{disk, pattern};
pub use images::{MadeImage, crashed_disk, make_crashed_disk};
pub use istgt::{Istgt, IstgtOptions};
pub use kernel::{KernelMount, copy_image, run};
pub use large_file::{Cat, LargeFile};
pub use log::Log;
pub use manifest::{Aspects, Entry, Manifest, sha256, sha256_of};
pub use needs::{Need, can_run, find_program};
pub use snapbrowse::{FuseMount, Snapbrowse, User, is_mount_point};
pub use tgtd::{TgtTarget, Tgtd, free_port};
pub use tree::{Limits, populate};
