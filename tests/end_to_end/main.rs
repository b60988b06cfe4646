//! The main job from end to end: real targets, real images, the program as its users run it.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod faithful;
mod ordinary_user;
mod paths;
mod refusals;
mod unprivileged;
mod wire;
