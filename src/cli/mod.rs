//! The command line: one file per subcommand; the only place that knows clap.

mod args;
mod cat;
mod config;
mod discover;
mod entry;
mod exit;
mod extract;
mod info;
mod initiator;
mod log;
mod ls;
mod output;
mod password;
mod settings;
mod source;
mod stat;
mod tally;
mod units;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, ErrorKind, Result};

use args::{Cli, Command};
use exit::Exit;
use output::{is_broken_pipe, printable};
use settings::Settings;
use source::Context;

/// How long an interrupted command may take to put its things away.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the program.
pub fn main() -> ExitCode {
    // clap prints help, versions and usage errors itself, with exit code 0 or 2 as ours.
    let cli = Cli::parse();
    log::start(cli.global.verbose, cli.global.quiet);
    end(run(cli)).into()
}

/// Everything before the runtime exists: a command that forks must do it here.
fn run(cli: Cli) -> Result<Exit> {
    let context = Arc::new(Context::new(Settings::resolve(cli.global)?));
    let command = cli.command;
    let shared = Arc::clone(&context);
    run_to_end(&context, async move {
        let context = shared;
        match command {
            Command::Discover(args) => discover::run(&context, args).await,
            Command::Info(args) => info::run(&context, args).await,
            Command::Ls(args) => ls::run(&context, args).await,
            Command::Stat(args) => stat::run(&context, args).await,
            Command::Cat(args) => cat::run(&context, args).await,
            Command::Extract(args) => extract::run(&context, args).await,
        }
    })
}

/// Runs `work` until it ends or a signal comes, and logs out either way.
fn run_to_end(
    context: &Context,
    work: impl Future<Output = Result<Exit>> + Send + 'static,
) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        // A task of its own: work that is stuck in a write to a full pipe must not keep the signal from us.
        let mut task = tokio::spawn(work);
        let result = tokio::select! {
            result = &mut task => joined(result),
            () = signals.next() => {
                task.abort();
                // Dropping the work removes its temporary files; it ends at its next await.
                let _ = tokio::time::timeout(GRACE, task).await;
                Err(Error::new(ErrorKind::Interrupted, "interrupted"))
            }
        };
        tokio::select! {
            () = context.log_out() => {}
            () = signals.next() => {}
        }
        result
    });
    runtime.shutdown_timeout(GRACE);
    result
}

fn joined(result: std::result::Result<Result<Exit>, tokio::task::JoinError>) -> Result<Exit> {
    match result.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
    }
}

/// The signals that ask a program to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("listen for signals", error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// Says what went wrong, and with which code the program ends.
fn end(result: Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Done,
        Err(error) => {
            complain(&error);
            Exit::from(error.kind())
        }
    }
}

/// One line on standard error. Names from the image may be part of the message.
fn complain(error: &Error) {
    eprintln!("snapbrowse: {}", printable(error.to_string().as_bytes()));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
