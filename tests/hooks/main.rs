//! Snapshots that the SAN presents only while they are read.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod san;
mod tgt;
