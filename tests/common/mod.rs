//! What the integration tests share. Every test binary takes what it needs of it.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod needs;

pub use needs::{Need, can_run, find_program};
