//! Together with the system's own programs: autofs, mount(8), systemd.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod autofs;
mod automap;
mod mount;
mod room;
mod systemd;
