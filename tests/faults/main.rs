//! Whatever a target or a network does wrong: right data, or a clear error within the deadline.
//!
//! Never wrong data, never a hang, never a log that fills a disk. The target is `tools/target` with a script of
//! faults; every answer is compared by digest with what the disk holds.
#![allow(clippy::unwrap_used, reason = "tests")]

mod addresses;
mod connection;
mod data;
mod discovery;
mod load;
#[path = "../common/log.rs"]
#[allow(unreachable_pub, reason = "other test binaries share it")]
mod log;
mod login;
mod maintenance;
#[path = "../common/needs.rs"]
#[allow(unreachable_pub, dead_code, reason = "other test binaries share it")]
mod needs;
mod paths;
mod rig;
mod status;
mod wire;
