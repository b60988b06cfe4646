//! Mounts as users live with them: how they begin and end, and what they show to whom.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod helper;
mod life;
mod tools;
mod user;
