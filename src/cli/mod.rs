//! The command line: one file per subcommand; the only place that knows clap.

mod args;
mod automap;
mod background;
mod browse;
mod cat;
mod config;
mod context;
mod discover;
mod entry;
mod exit;
mod extract;
mod find;
mod generate;
mod info;
mod initiator;
mod log;
mod ls;
mod mount;
mod mount_helper;
mod mount_options;
mod nodes;
mod notify;
mod output;
mod password;
mod presenting;
mod progress;
mod san;
mod settings;
mod source;
mod stat;
mod tally;
mod tar;
mod umount;
mod units;
mod verify;
mod versions;
mod writer;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use tracing::Level;

use crate::error::{Error, ErrorKind, Result};
use crate::fuse;

use args::{Cli, Command, Engine};
use background::Background;
use context::Context;
use exit::Exit;
use mount_helper::Helper;
use output::{is_broken_pipe, printable};
use presenting::Presenter;
use settings::Settings;

/// How long an interrupted command may take to put its things away.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the program.
pub fn main() -> ExitCode {
    if let Some(code) = fuse::run_task(std::env::args_os()) {
        return code;
    }
    if let Some(cli) = automap::called() {
        return start(cli, &[], None, Exit::into);
    }
    let (arguments, background) = background::arguments();
    // clap prints help, versions and usage errors itself, with exit code 0 or 2 as ours.
    if !Helper::is_called(&arguments) {
        return start(Cli::parse_from(&arguments), &arguments, background, Exit::into);
    }
    match Helper::parse_from(&arguments).into_cli() {
        // autofs and systemd keep what a helper says to themselves; their users look into the system's log.
        Ok(Some(cli)) => {
            log::to_syslog();
            start(cli, &arguments, background, mount_helper::exit_code)
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => mount_helper::exit_code(end(Err(error))),
    }
}

/// Does what the command line says, or has a second process do it in the background.
fn start(
    mut cli: Cli,
    arguments: &[OsString],
    background: Option<Background>,
    exit_code: fn(Exit) -> ExitCode,
) -> ExitCode {
    log::start(cli.global.verbose, cli.global.quiet);
    if background.is_none() && cli.command.leaves() {
        return background::start(arguments).unwrap_or_else(|error| exit_code(end(Err(error))));
    }
    exit_code(end(run(cli, background)))
}

fn run(cli: Cli, background: Option<Background>) -> Result<Exit> {
    let Cli { mut global, mut command } = cli;
    if matches!(command, Command::Automap(_)) {
        // automount tells its users nothing but that there is no such directory.
        log::to_syslog();
    }
    command.apply_options(&mut global)?;
    if let Some(file) = command.mounting().and_then(|mounting| mounting.log.file.as_ref()) {
        log::to_file(file)?;
    }
    let settings = Settings::resolve(global)?;
    if settings.engine != Engine::Native && !command.takes_engines() {
        let why = "--engine: only ls, cat and extract take another reader than native";
        return Err(Error::new(ErrorKind::Usage, why));
    }
    let presenter = match settings.present || command.presents() {
        true => Presenter::new(&settings.config.hooks)?,
        false => None,
    };
    if settings.present && presenter.is_none() {
        return Err(Error::new(ErrorKind::Usage, "--present: the configuration names no hooks")
            .with_hint("set present and revoke in [hooks]"));
    }
    let context = Arc::new(Context::new(settings, presenter));
    let shared = Arc::clone(&context);
    match command {
        Command::Umount(args) => umount::run(&context, &args),
        Command::Generate(args) => generate::run(args),
        Command::Mount(args) => with_runtime(&context, async |signals| {
            mount::run(shared, args, background, signals).await
        }),
        Command::Browse(args) => with_runtime(&context, async |signals| {
            browse::run(shared, args, background, signals).await
        }),
        command => with_runtime(&context, async |signals| {
            unless_interrupted(signals, one_shot(shared, command)).await
        }),
    }
}

async fn one_shot(context: Arc<Context>, command: Command) -> Result<Exit> {
    match command {
        Command::Discover(args) => discover::run(&context, args).await,
        Command::Info(args) => info::run(&context, args).await,
        Command::Ls(args) => ls::run(&context, args).await,
        Command::Stat(args) => stat::run(&context, args).await,
        Command::Find(args) => find::run(&context, args).await,
        Command::Cat(args) => cat::run(&context, args).await,
        Command::Extract(args) => extract::run(&context, args).await,
        Command::Tar(args) => tar::run(&context, args).await,
        Command::Verify(args) => verify::run(&context, args).await,
        Command::Versions(args) => versions::run(&context, args).await,
        Command::Automap(args) => automap::run(&context, args).await,
        Command::Mount(_) | Command::Browse(_) | Command::Umount(_) | Command::Generate(_) => {
            unreachable!("run takes these aside")
        }
    }
}

/// Runs `work` to its end; then, whatever that is, logs out and revokes.
fn with_runtime(
    context: &Context,
    work: impl AsyncFnOnce(&mut Signals) -> Result<Exit>,
) -> Result<Exit> {
    // One worker: between sessions, cache and commands there are only short steps, and each that woke another
    // thread would cost more than itself. What takes long (files to be written, FUSE) has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        if context.presenter().is_some() {
            tokio::select! {
                failures = presenting::reconcile() => failures.iter().for_each(complain),
                () = signals.next() => return Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            }
        }
        let result = work(&mut signals).await;
        let logouts = tokio::select! {
            failures = context.log_out() => failures,
            () = signals.next() => {
                vec![Error::new(ErrorKind::Interrupted, "the end of the logout was not waited for")]
            }
        };
        // No signal ends this, only the hooks' own limit: nobody else would revoke it.
        let revokes = context.revoke_all().await;
        revokes.iter().for_each(complain);
        parted(context, result, &logouts, &revokes)
    });
    runtime.shutdown_timeout(GRACE);
    result
}

/// How the command ends where logouts were not confirmed or something was not revoked. Told to whoever unmounts, too:
/// nobody sees what a process in the background ends with.
fn parted(
    context: &Context,
    result: Result<Exit>,
    logouts: &[Error],
    revokes: &[Error],
) -> Result<Exit> {
    let Some(farewell) = context.farewell() else {
        // The files are there all the same.
        return match result {
            Ok(Exit::Done) if !revokes.is_empty() => Ok(Exit::Partly),
            result => result,
        };
    };
    let result = match result {
        Ok(Exit::Done) if !logouts.is_empty() || !revokes.is_empty() => Ok(Exit::Failed),
        result => result,
    };
    let failures = result.as_ref().err().into_iter().chain(logouts).chain(revokes);
    let exit = result.as_ref().map_or_else(|error| Exit::from(error.kind()), |exit| *exit);
    farewell.say(exit as u8, failures.map(ToString::to_string));
    result
}

/// Runs `work` until it ends or a signal comes.
async fn unless_interrupted<T: Send + 'static>(
    signals: &mut Signals,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    // A task of its own: work that is stuck in a write to a full pipe must not keep the signal from us.
    let mut task = tokio::spawn(work);
    tokio::select! {
        result = &mut task => joined(result),
        () = signals.next() => {
            task.abort();
            // Dropping the work removes its temporary files; it ends at its next await.
            let _ = tokio::time::timeout(GRACE, task).await;
            Err(Error::new(ErrorKind::Interrupted, "interrupted"))
        }
    }
}

fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    match result {
        Ok(result) => result,
        // It has said itself where it happened. An error, so that the sessions are logged out of.
        Err(error) if error.is_panic() => {
            Err(Error::new(ErrorKind::Io, "a fault in snapbrowse itself ended the command")
                .with_hint("report it with the lines above"))
        }
        Err(_) => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
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

/// One line where messages go. Names from the image may be part of the message.
fn complain(error: &Error) {
    log::line(Level::ERROR, &format!("snapbrowse: {}\n", printable(error.to_string().as_bytes())));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_so_that_the_logout_takes_place() {
        let mut signals = Signals::listen().unwrap();
        let work = async { panic!("as intended") };
        let error = unless_interrupted::<()>(&mut signals, work).await.unwrap_err();
        assert_eq!(Exit::from(error.kind()), Exit::Failed);
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
