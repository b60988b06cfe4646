//! The command line: one file per subcommand; the only place that knows clap.

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    eprintln!("snapbrowse: no commands yet");
    ExitCode::from(2)
}
