//! What the integration tests share. Every test binary takes what it needs of it.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod istgt;
mod needs;
mod tgtd;

pub use istgt::{Istgt, IstgtOptions};
pub use needs::{Need, can_run, find_program};
pub use tgtd::{TgtTarget, Tgtd, free_port};
