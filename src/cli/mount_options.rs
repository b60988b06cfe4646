//! `-o`: the words of mount(8), and every long option of this program.

use std::path::PathBuf;

use clap::{Args as _, FromArgMatches};

use crate::error::{Error, ErrorKind, Result};
use crate::fuse::{MountOptions, Shown};

use super::args::GlobalArgs;
use super::browse::TreeArgs;

/// What `mount` and `browse` have in common.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Mounting {
    /// Stay in the foreground
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Mount options as in fstab: allow_other, noexec, and every long option as NAME=VALUE
    #[arg(short = 'o', value_name = "OPTS")]
    pub(crate) options: Vec<String>,
    /// Unknown mount options are passed over
    #[arg(skip)]
    pub(crate) sloppy: bool,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) log: Log,
}

/// Where messages go once the program is in the background.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Log {
    /// Append messages to this file rather than to the system's log; it is opened anew for each, so it may be renamed
    #[arg(long = "log", value_name = "FILE", help_heading = "General")]
    pub(crate) file: Option<PathBuf>,
}

/// Who may see what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Access {
    /// Show all files as this user's
    #[arg(long, value_name = "UID", help_heading = "Access")]
    pub(crate) uid: Option<u32>,
    /// Show all files as this group's
    #[arg(long, value_name = "GID", help_heading = "Access")]
    pub(crate) gid: Option<u32>,
    /// Show all files without these permissions (octal)
    #[arg(long, value_name = "MASK", value_parser = umask, help_heading = "Access")]
    pub(crate) umask: Option<u16>,
    /// Let the permissions in the snapshot apply to whoever mounts it, too
    #[arg(long, help_heading = "Access")]
    pub(crate) strict_permissions: bool,
    /// Let other users in, as far as the permissions in the snapshot go
    #[arg(skip)]
    pub(crate) allow_other: bool,
    /// Let nothing be executed
    #[arg(skip)]
    pub(crate) no_exec: bool,
}

impl Access {
    /// The same for a mount of `source_name`.
    pub(crate) fn mount_options(&self, source_name: String) -> MountOptions {
        MountOptions {
            source_name,
            allow_other: self.allow_other,
            strict_permissions: self.strict_permissions,
            no_exec: self.no_exec,
            shown: Shown { uid: self.uid, gid: self.gid, umask: self.umask.unwrap_or(0) },
        }
    }
}

fn umask(text: &str) -> std::result::Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777)
        .ok_or_else(|| format!("`{text}` is no umask; write it in octal, as 022"))
}

/// Words that mount(8), fstab, autofs and systemd hand on and that say nothing here, or what holds anyway: the
/// mount is read-only, set-id bits and device nodes are never honoured (a snapshot's root is not this machine's),
/// and `user` is who may mount (the name for the login belongs in the URL or in the configuration).
const WITHOUT_EFFECT: &[&str] = &[
    "",
    "_netdev",
    "async",
    "atime",
    "auto",
    "comment",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "group",
    "lazytime",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "nofail",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "ro",
    "strictatime",
    "suid",
    "sync",
    "user",
    "users",
];

/// Lays the options, each a list with commas, over those that were given as flags.
///
/// # Errors
/// [`ErrorKind::Usage`] for `rw`, and for what nobody knows unless `sloppy`.
pub(crate) fn apply(
    args: &mut Mounting,
    mut tree: Option<&mut TreeArgs>,
    global: &mut GlobalArgs,
) -> Result<()> {
    let lists = std::mem::take(&mut args.options);
    for option in lists.iter().flat_map(|list| list.split(',')).map(str::trim) {
        let name = option.split('=').next().unwrap_or(option);
        match name {
            "rw" => {
                let message = "mount option rw: snapshots are never written";
                return Err(Error::new(ErrorKind::Usage, message).with_hint("use ro"));
            }
            "allow_other" => args.access.allow_other = true,
            "default_permissions" => args.access.strict_permissions = true,
            "noexec" => args.access.no_exec = true,
            "exec" => args.access.no_exec = false,
            name if WITHOUT_EFFECT.contains(&name) || name.starts_with("x-") => {}
            _ => match long_option(option, name, args, tree.as_deref_mut(), global) {
                Err(error) if !args.sloppy => return Err(error),
                _ => {}
            },
        }
    }
    Ok(())
}

/// `password_file=F` is `--password-file=F`.
fn long_option(
    option: &str,
    name: &str,
    args: &mut Mounting,
    tree: Option<&mut TreeArgs>,
    global: &mut GlobalArgs,
) -> Result<()> {
    let flag = format!("--{}{}", name.replace('_', "-"), &option[name.len()..]);
    let parser = clap::Command::new("-o").no_binary_name(true).disable_help_flag(true);
    let parser = Log::augment_args(Access::augment_args(GlobalArgs::augment_args(parser)));
    let parser = if tree.is_some() { TreeArgs::augment_args(parser) } else { parser };
    let wrong = |error: clap::Error| {
        // clap's first line, without its advice on flags.
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Error::new(ErrorKind::Usage, format!("mount option {name}: {line}"))
    };
    let matches = parser.try_get_matches_from([flag]).map_err(wrong)?;
    global.update_from_arg_matches(&matches).map_err(wrong)?;
    args.access.update_from_arg_matches(&matches).map_err(wrong)?;
    args.log.update_from_arg_matches(&matches).map_err(wrong)?;
    tree.map_or(Ok(()), |tree| tree.update_from_arg_matches(&matches)).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn applied(options: &[&str]) -> Result<(Mounting, GlobalArgs)> {
        let mut line = vec!["snapbrowse", "--cache", "1MiB", "mount", "--uid", "5"];
        line.extend(options.iter().flat_map(|option| ["-o", option]));
        line.extend(["disk.img", "/mnt"]);
        let Cli { mut global, command } = Cli::try_parse_from(line).unwrap();
        let Command::Mount(args) = command else { panic!("{command:?}") };
        let mut mounting = args.mounting;
        apply(&mut mounting, None, &mut global).map(|()| (mounting, global))
    }

    #[test]
    fn words_of_mount_are_taken_and_mean_what_they_mean_there() {
        let fstab = "_netdev,nofail,user=me,users,noexec,nosuid,nodev,suid,dev,noatime,ro,x-a.b=c";
        let (args, global) = applied(&[fstab, "allow_other"]).unwrap();
        assert!(args.access.no_exec && args.access.allow_other);
        assert_eq!(global.user, None);
        let (args, _) = applied(&["noexec,exec"]).unwrap();
        assert!(!args.access.no_exec);
    }

    #[test]
    fn every_long_option_is_one_after_o_too_and_flags_that_it_leaves_alone_stay() {
        let (args, global) =
            applied(&["volume=p1,password_file=/root/pw", "gid=7,umask=027,strict_permissions"])
                .unwrap();
        assert_eq!(global.volume.as_deref(), Some("p1"));
        assert_eq!(global.password_file.as_deref(), Some("/root/pw".as_ref()));
        assert_eq!(global.cache, Some(1 << 20));
        assert_eq!((args.access.uid, args.access.gid), (Some(5), Some(7)));
        assert_eq!(args.access.umask, Some(0o027));
        assert!(args.access.strict_permissions);
    }

    #[test]
    fn writing_and_the_unknown_are_refused() {
        for (option, said) in
            [("rw", "never written"), ("ro,colour=red", "colour"), ("umask=9", "umask")]
        {
            let error = applied(&[option]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(said) && !error.message().contains('\n'), "{error}");
        }
    }

    #[test]
    fn browse_takes_its_own_options_too() {
        let line =
            ["snapbrowse", "browse", "--idle", "9m", "-o", "idle=1m,max_sessions=3,log=l", "/m"];
        let Cli { mut global, mut command } = Cli::try_parse_from(line).unwrap();
        command.apply_options(&mut global).unwrap();
        let Command::Browse(args) = command else { panic!("{command:?}") };
        assert_eq!(args.tree.idle, Some(std::time::Duration::from_secs(60)));
        assert_eq!((args.tree.max_sessions, args.tree.refresh), (Some(3), None));
        assert_eq!(args.mounting.log.file, Some(PathBuf::from("l")));
        assert!(applied(&["idle=1m"]).is_err(), "mount has none");
    }
}
