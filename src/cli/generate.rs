//! `snapbrowse generate`: what packages install beside the program.

use std::path::PathBuf;

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

use crate::error::{Error, Result};

use super::args::Cli;
use super::exit::Exit;
use super::output;

/// Write shell completions or man pages
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write a man page for each command
    Man {
        /// Where to
        directory: PathBuf,
    },
}

pub(crate) fn run(args: Args) -> Result<Exit> {
    let mut command = Cli::command();
    match args.what {
        What::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "snapbrowse", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(output::failed)?;
        }
        What::Man { directory } => {
            let failed = |error| Error::io(format!("man pages in {}", directory.display()), error);
            std::fs::create_dir_all(&directory).map_err(failed)?;
            clap_mangen::generate_to(command, &directory).map_err(failed)?;
        }
    }
    Ok(Exit::Done)
}
