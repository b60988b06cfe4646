//! Many targets as one tree: real targets behind two portals, real processes that walk in it.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod changes;
mod many;
mod san;
mod tree;
