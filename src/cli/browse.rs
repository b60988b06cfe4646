//! `snapbrowse browse`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use globset::Glob;

use crate::browse::{Aliases, Browse, Options};
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{Mount, Mountpoint, Watchdog};

use super::args::SourceArg;
use super::background::Background;
use super::config::{Config, glob};
use super::context::Context;
use super::exit::Exit;
use super::mount_options::Mounting;
use super::notify::{State, notify};
use super::san::PortalSan;
use super::settings::Settings;
use super::source::portals;
use super::{Signals, units, unless_interrupted};

const DEFAULT_IDLE: Duration = Duration::from_secs(5 * 60);
const DEFAULT_REFRESH: Duration = Duration::from_secs(60);
const DEFAULT_SESSIONS: u16 = 64;

/// Show all targets of a SAN as one tree of files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The root lists every target that the portals report, without logging in to any. Entering one logs in and shows its \
files; a target that nobody uses is logged out again. by-volume groups the snapshots of a volume by date, and \
.snapbrowse/status tells what each target is doing. SIGHUP asks the portals anew.

Examples:
  snapbrowse browse iscsi://san1 ~/san
  snapbrowse browse --targets '*:home-*' --idle 1m iscsi://san1 iscsi://san2:3261 ~/san
  snapbrowse browse ~/san                       the portals of the configuration")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) mounting: Mounting,
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Portals (iscsi://HOST[:PORT]), and last an empty directory
    #[arg(required = true, value_name = "PORTAL... MOUNTPOINT")]
    places: Vec<OsString>,
}

/// How the tree behaves; the configuration's `[browse]` has the same names, with underscores.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TreeArgs {
    /// Log out of a target that was not used for this long [default: 5m]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) idle: Option<Duration>,
    /// Ask the portals for their targets this often [default: 60s]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(crate) refresh: Option<Duration>,
    /// Be logged in to no more targets than this at a time [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_sessions: Option<u16>,
    /// Show only targets whose names match
    #[arg(long, value_name = "GLOB")]
    pub(crate) targets: Option<Glob>,
}

impl TreeArgs {
    /// With what the configuration says where no flag does.
    fn options(self, settings: &Settings) -> Result<Options> {
        let file = &settings.config.browse;
        if settings.volume.is_some() {
            return Err(Error::new(ErrorKind::Usage, "--volume: browse shows all volumes")
                .with_hint("`mount` shows one volume of one LUN"));
        }
        let time = |flag: Option<Duration>, key: &str, text: &Option<String>, default| {
            let wrong = |why| Error::new(ErrorKind::Usage, format!("configuration: {key}: {why}"));
            match (flag, text) {
                (Some(flag), _) => Ok(flag),
                (None, Some(text)) => units::duration(text).map_err(wrong),
                (None, None) => Ok(default),
            }
        };
        let refresh = time(self.refresh, "browse.refresh", &file.refresh, DEFAULT_REFRESH)?;
        let max_sessions = self.max_sessions.or(file.max_sessions).unwrap_or(DEFAULT_SESSIONS);
        if max_sessions == 0 {
            let what = "configuration: browse.max_sessions: at least 1 is needed";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let targets = match (self.targets, &file.targets) {
            (Some(flag), _) => Some(flag),
            (None, Some(pattern)) => Some(glob("browse.targets", pattern)?),
            (None, None) => None,
        };
        Ok(Options {
            idle: time(self.idle, "browse.idle", &file.idle, DEFAULT_IDLE)?,
            refresh: refresh.max(Duration::from_secs(1)),
            max_sessions: max_sessions.into(),
            patience: settings.timeout,
            login_limit: settings.with_hooks()?,
            targets: targets.as_ref().map(Glob::compile_matcher),
            aliases: aliases(&settings.config)?,
        })
    }
}

/// Mounts the tree, says that it is ready, and serves until it is unmounted or a signal comes.
pub(crate) async fn run(
    context: Arc<Context>,
    args: Args,
    background: Option<Background>,
    signals: &mut Signals,
) -> Result<Exit> {
    let tree_options = args.tree.options(&context.settings)?;
    let (mountpoint, portal_args) =
        args.places.split_last().expect("clap sees to it that there is at least one");
    let mountpoint = Mountpoint::new(&PathBuf::from(mountpoint))?;
    let portal_args: Vec<SourceArg> = portal_args.iter().cloned().map(SourceArg::from).collect();
    let urls = context.settings.portals(&portal_args)?;
    let name = urls.iter().map(portals).collect::<Vec<_>>().join(" ");
    let san = Arc::new(PortalSan::new(Arc::clone(&context), urls));
    let browse =
        unless_interrupted(signals, async move { Browse::new(san, tree_options).await }).await?;
    let mount_options = args.mounting.access.mount_options(name);
    let runtime = tokio::runtime::Handle::current();
    let mut mount = Mount::new(Arc::new(browse.clone()), &mountpoint, &mount_options, runtime)?;
    context.will_say(mount.farewell());
    if let Some(background) = background {
        background.ready()?;
    }
    notify(State::Ready);
    // Last, because it must not hold on to the terminal of whoever waited.
    let watchdog = Watchdog::start(&mount)?;
    let keeper = tokio::spawn(browse.clone().keep());
    let result = serve(&browse, &mut mount, signals).await;
    notify(State::Stopping);
    keeper.abort();
    let unmounted = mount.unmount().await;
    watchdog.dismiss();
    context.left_behind(browse.log_out().await);
    result.and(unmounted).map(|()| Exit::Done)
}

/// Until the tree is unmounted or a signal asks for the end.
async fn serve(browse: &Browse, mount: &mut Mount, signals: &mut Signals) -> Result<()> {
    loop {
        tokio::select! {
            ended = mount.ended() => return ended,
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.hang_up.recv() => {
                let browse = browse.clone();
                // Aside: it may take long, and a signal to end may come meanwhile.
                tokio::spawn(async move { browse.refresh().await });
            }
        }
    }
}

/// The `[alias]` table: patterns and what they become.
pub(crate) fn aliases(config: &Config) -> Result<Aliases> {
    let rules = config.alias.iter().map(|(pattern, alias)| {
        let alias = alias.as_str().ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                format!("configuration: alias {pattern:?} is not a string"),
            )
        })?;
        Ok((pattern.as_str(), alias))
    });
    Aliases::new(rules.collect::<Result<Vec<_>>>()?)
}
