//! The ext reader itself, in this process, against what the kernel and e2fsprogs say of the same images.
#![allow(clippy::unwrap_used, reason = "tests")]

mod ahead;
mod allocations;
#[path = "../common/mod.rs"]
mod common;
mod crash;
mod damaged;
mod endless;
mod faithful;
mod fast_commit;
mod features;
mod hostile;
mod naming;
mod own_blocks;
mod survey;
mod walk;
