//! The command line as scripts see it: what is printed, in which form, and with which exit code.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod copies;
mod failures;
mod image;
mod late_errors;
mod listings;
