//! The `snapbrowse` program: everything happens in [`snapbrowse::cli`].

use std::process::ExitCode;

/// A block that is read through FUSE passes three threads, and its memory with it. The C library's allocator lets the arena of
/// a thread grow page by page, each by a system call of its own, and takes a lock for what another thread gives back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    snapbrowse::cli::main()
}
