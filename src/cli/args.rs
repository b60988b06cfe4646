//! The raw command line: what clap parses, before the environment and the configuration have their say.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::JournalMode;
use crate::iscsi::{DigestPolicy, IscsiUrl};

use super::mount_options::{self, Mounting};
use super::units;
use super::{
    automap, browse, cat, discover, extract, find, generate, info, ls, mount, stat, tar, umount,
    verify, versions,
};

const ABOUT: &str =
    "Browse and restore files from iSCSI SAN snapshots, without root, kernel sessions or fsck";

const AFTER_HELP: &str = "\
SOURCE is one of
  iscsi://HOST[:PORT]/TARGET/LUN   a LUN (IPv6 addresses in brackets)
  iscsi://HOST[:PORT]/TARGET       the target's only disk
  iscsi://HOST,HOST/TARGET/LUN     the same through several portals: long reading is shared among them
  FILE                             an image or a block device, opened read-only

Examples:
  snapbrowse discover iscsi://san1
  snapbrowse ls -l iscsi://san1/iqn.2001-05.com.example:snap-2026-11-20/0 /etc
  snapbrowse extract iscsi://san1/iqn.2001-05.com.example:snap-2026-11-20/0 /etc/foo --to .
  snapbrowse info disk.img
  snapbrowse mount iscsi://san1/iqn.2001-05.com.example:snap-2026-11-20/0 ~/snap

Exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 10 no such path, LUN or volume, \
11 cannot connect, 12 login refused, 13 no readable file system, 130 interrupted.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "snapbrowse", version, about = ABOUT, after_help = AFTER_HELP)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Discover(discover::Args),
    Info(info::Args),
    Ls(ls::Args),
    Stat(stat::Args),
    Find(find::Args),
    Cat(cat::Args),
    Extract(extract::Args),
    Tar(tar::Args),
    Verify(verify::Args),
    Versions(versions::Args),
    Mount(mount::Args),
    Browse(browse::Args),
    Umount(umount::Args),
    Automap(automap::Args),
    #[command(hide = true)]
    Generate(generate::Args),
}

impl Command {
    /// How the commands that mount something are to do it.
    pub(crate) fn mounting(&mut self) -> Option<&mut Mounting> {
        match self {
            Self::Mount(args) => Some(&mut args.mounting),
            Self::Browse(args) => Some(&mut args.mounting),
            _ => None,
        }
    }

    /// Lays what was given after `-o` over the options that were given as flags.
    ///
    /// # Errors
    /// Those of [`mount_options::apply`].
    pub(crate) fn apply_options(&mut self, global: &mut GlobalArgs) -> Result<()> {
        match self {
            Self::Mount(args) => mount_options::apply(&mut args.mounting, None, global),
            Self::Browse(args) => {
                mount_options::apply(&mut args.mounting, Some(&mut args.tree), global)
            }
            _ => Ok(()),
        }
    }

    /// Whether the command may read with another engine than [`Engine::Native`]: one that says enough for it.
    pub(crate) fn takes_engines(&self) -> bool {
        matches!(self, Self::Ls(_) | Self::Cat(_) | Self::Extract(_))
    }

    /// Whether the command has snapshots presented by hooks without being told to.
    pub(crate) fn presents(&self) -> bool {
        matches!(self, Self::Mount(_) | Self::Browse(_))
    }

    /// Whether the command goes on in the background after the program has returned.
    pub(crate) fn leaves(&mut self) -> bool {
        self.mounting().is_some_and(|mounting| !mounting.foreground)
    }
}

/// The options that mean the same with every command.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// The volume to use where several hold a file system (p1, p2, ...)
    #[arg(long, global = true, value_name = "NAME", help_heading = "Reading")]
    pub(crate) volume: Option<String>,
    /// What to do about a journal that was not played back
    #[arg(long, global = true, value_enum, value_name = "HOW", help_heading = "Reading")]
    pub(crate) journal: Option<JournalArg>,
    /// Where a journal outside the file system lies: a URL, an image or a block device
    #[arg(long, global = true, value_name = "SOURCE", help_heading = "Reading")]
    pub(crate) journal_device: Option<SourceArg>,
    /// The superblock to use, as a block of the file system [default: the first that is whole]
    #[arg(long, global = true, value_name = "BLOCK", help_heading = "Reading")]
    pub(crate) sb: Option<u64>,
    /// The ext reader to use; ls, cat and extract take another than native
    #[arg(long, global = true, value_enum, value_name = "NAME", help_heading = "Reading")]
    pub(crate) engine: Option<Engine>,
    /// Memory for blocks that were read [default: 256MiB]
    #[arg(long, global = true, value_parser = units::size, value_name = "SIZE", help_heading = "Reading")]
    pub(crate) cache: Option<u64>,

    /// The initiator name to log in with
    #[arg(long, global = true, value_name = "IQN", help_heading = "Login")]
    pub(crate) initiator: Option<String>,
    /// The CHAP user name
    #[arg(long, global = true, value_name = "NAME", help_heading = "Login")]
    pub(crate) user: Option<String>,
    /// A file whose first line is the CHAP secret; only its owner may be able to read it
    #[arg(long, global = true, value_name = "FILE", help_heading = "Login")]
    pub(crate) password_file: Option<PathBuf>,
    /// The name that the target must prove itself with (mutual CHAP)
    #[arg(long, global = true, value_name = "NAME", help_heading = "Login")]
    pub(crate) target_user: Option<String>,
    /// A file whose first line is the target's secret
    #[arg(long, global = true, value_name = "FILE", help_heading = "Login")]
    pub(crate) target_password_file: Option<PathBuf>,
    /// Checksums over PDU headers
    #[arg(long, global = true, value_enum, value_name = "HOW", help_heading = "Login")]
    pub(crate) header_digest: Option<DigestArg>,
    /// Checksums over data
    #[arg(long, global = true, value_enum, value_name = "HOW", help_heading = "Login")]
    pub(crate) data_digest: Option<DigestArg>,
    /// The longest that one operation on the SAN may take, retries included [default: 30s]
    #[arg(long, global = true, value_parser = units::duration, value_name = "TIME", help_heading = "Login")]
    pub(crate) timeout: Option<Duration>,
    /// The most portals of a target to read through at the same time; 1: the others are a fall-back only [default: 8]
    #[arg(long = "paths", global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Login")]
    pub(crate) max_paths: Option<u16>,

    /// Have the hooks of the configuration present the snapshot first, and revoke it at the end (mount and browse
    /// always do)
    #[arg(long, global = true, help_heading = "Login")]
    pub(crate) present: bool,

    /// Print JSON: one document for lists, one line each for streams
    #[arg(long, global = true, help_heading = "General")]
    pub(crate) json: bool,
    /// Read this configuration file only
    #[arg(long, global = true, value_name = "FILE", help_heading = "General")]
    pub(crate) config: Option<PathBuf>,
    /// Say more (-vv: still more)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "General")]
    pub(crate) verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "General")]
    pub(crate) quiet: bool,
}

/// SOURCE as it was typed. A URL may hold a secret, so `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct SourceArg(pub(crate) OsString);

impl std::fmt::Debug for SourceArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceArg(..)")
    }
}

impl SourceArg {
    /// The URL that it is; `None` for a path.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a URL that is not a good one: its password must not come to stand in a message
    /// about a file of that name.
    pub(crate) fn url(&self) -> Result<Option<IscsiUrl>> {
        if !IscsiUrl::is_meant_by(&self.0.to_string_lossy()) {
            return Ok(None);
        }
        let not_text = || Error::new(ErrorKind::Usage, "iSCSI URL: not UTF-8");
        self.0.to_str().ok_or_else(not_text)?.parse().map(Some)
    }
}

impl From<OsString> for SourceArg {
    fn from(text: OsString) -> Self {
        Self(text)
    }
}

/// `--journal`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum JournalArg {
    /// Read the file system as it would be after recovery
    Replay,
    /// Read the blocks as they lie on the disk
    Ignore,
    /// Refuse a file system that needs recovery
    RequireClean,
}

impl From<JournalArg> for JournalMode {
    fn from(arg: JournalArg) -> Self {
        match arg {
            JournalArg::Replay => Self::Replay,
            JournalArg::Ignore => Self::Ignore,
            JournalArg::RequireClean => Self::RequireClean,
        }
    }
}

/// `--header-digest` and `--data-digest`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DigestArg {
    /// Never
    None,
    /// Always; a target without them is refused
    Crc32c,
    /// Where the target can
    Prefer,
}

impl From<DigestArg> for DigestPolicy {
    fn from(arg: DigestArg) -> Self {
        match arg {
            DigestArg::None => Self::None,
            DigestArg::Crc32c => Self::Require,
            DigestArg::Prefer => Self::Prefer,
        }
    }
}

/// `--engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// The reader of this program
    #[default]
    Native,
    /// The `ext4-view` crate over this program's journal overlay: a second opinion, without devices, hard links
    /// and extended attributes
    Ext4View,
}
