//! The `snapbrowse` program: everything happens in [`snapbrowse::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    snapbrowse::cli::main()
}
