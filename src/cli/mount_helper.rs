//! The program as mount(8), fstab and autofs call it: `mount.snapbrowse SOURCE DIR [-sfnv] [-N ns] [-o OPTS] [-t TYPE]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgAction, Parser};

use crate::error::{Error, ErrorKind, Result};

use super::args::{Cli, SourceArg};
use super::exit::Exit;

/// The names that it is called by, as links to the program in `/sbin`.
const NAMES: [&str; 2] = ["mount.snapbrowse", "mount.fuse.snapbrowse"];

/// What mount(8) hands to a helper.
#[derive(Debug, Parser)]
#[command(name = NAMES[0], version, about = "Mount a snapshot, called by mount(8)")]
pub(crate) struct Helper {
    /// An iscsi:// URL, an image file or a block device; a URL without a target is for all targets of the portal
    source: OsString,
    /// Where to mount it
    directory: OsString,
    /// Mount options: allow_other, noexec, uid, ..., and every long option of snapbrowse as NAME=VALUE
    #[arg(short = 'o', value_name = "OPTS")]
    options: Vec<String>,
    /// Do everything but the mount
    #[arg(short = 'f')]
    fake: bool,
    /// Pass over unknown options
    #[arg(short = 's')]
    sloppy: bool,
    /// Write no mtab: there is none
    #[arg(short = 'n')]
    _no_mtab: bool,
    /// Say more
    #[arg(short = 'v', action = ArgAction::Count)]
    verbose: u8,
    /// The type of the file system
    #[arg(short = 't', value_name = "TYPE")]
    _type: Option<String>,
    /// The mount namespace
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<String>,
}

impl Helper {
    /// Whether the program is called by one of these names, or as mount.fuse3(8) calls it where there is no such link:
    /// `snapbrowse SOURCE DIR -o OPTS`.
    pub(crate) fn is_called(arguments: &[OsString]) -> bool {
        let name = arguments.first().and_then(|called| Path::new(called).file_name());
        if NAMES.iter().any(|known| name == Some(OsStr::new(known))) {
            return true;
        }
        // No command has a slash in its name, and mount(8) hands on paths as absolute ones, and options in any case.
        match arguments {
            [_, source, directory, options, ..] => {
                options == "-o"
                    && !source.as_bytes().starts_with(b"-")
                    && source.as_bytes().contains(&b'/')
                    && directory.as_bytes().starts_with(b"/")
            }
            _ => false,
        }
    }

    /// The same as a command line of the program's own; `None` where there is nothing to do.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for another namespace than this one.
    pub(crate) fn into_cli(self) -> Result<Option<Cli>> {
        if let Some(namespace) = self.namespace {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("mount namespace {namespace}: only this one is supported"),
            )
            .with_hint(format!("use nsenter --mount={namespace}")));
        }
        if self.fake {
            return Ok(None);
        }
        // A portal stands for all its targets.
        let url = SourceArg(self.source.clone()).url()?;
        let command = if url.is_some_and(|url| url.target.is_none()) { "browse" } else { "mount" };
        let [command, end] = [command, "--"].map(OsString::from);
        let mut cli =
            Cli::parse_from(["snapbrowse".into(), command, end, self.source, self.directory]);
        cli.global.verbose = self.verbose;
        if let Some(mounting) = cli.command.mounting() {
            mounting.options = self.options;
            mounting.sloppy = self.sloppy;
        }
        Ok(Some(cli))
    }
}

/// The ends that mount(8) knows: 0, 1 for a wrong call, 32 for a mount that failed.
pub(crate) fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(match exit {
        Exit::Done => 0,
        Exit::Usage => 1,
        _ => 32,
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::Command;
    use super::*;

    #[test]
    fn what_mount_and_autofs_call_it_with() {
        let line = "mount.snapbrowse iscsi://h/t/0 /mnt -n -s -v -t fuse.snapbrowse -o ro,_netdev";
        let helper = Helper::try_parse_from(line.split(' ')).unwrap();
        let mut cli = helper.into_cli().unwrap().unwrap();
        assert!(matches!(cli.command, Command::Mount(_)) && cli.command.leaves());
        assert_eq!(cli.global.verbose, 1);
        let mounting = cli.command.mounting().unwrap();
        assert_eq!(mounting.options, ["ro,_netdev"]);
        assert!(mounting.sloppy);
    }

    #[test]
    fn calls_by_mount_are_told_from_commands() {
        for (call, is_helper) in [
            (&["/sbin/mount.snapbrowse"][..], true),
            (&["mount.fuse.snapbrowse", "a", "b"], true),
            (&["snapbrowse", "iscsi://h:1/iqn.x:y", "/mnt", "-o", "ro,dev"], true),
            (&["snapbrowse", "/srv/disk.img", "/mnt", "-o", "rw"], true),
            (&["snapbrowse", "/srv/disk.img", "/etc/hostname"], false),
            (&["snapbrowse"], false),
            (&["snapbrowse", "mount", "iscsi://h:1/iqn.x:y", "/mnt"], false),
            (&["snapbrowse", "--config=/etc/x", "/mnt"], false),
            (&["snapbrowse", "iscsi://h:1/iqn.x:y"], false),
        ] {
            let arguments: Vec<OsString> = call.iter().map(OsString::from).collect();
            assert_eq!(Helper::is_called(&arguments), is_helper, "{call:?}");
        }
    }

    #[test]
    fn f_means_fake_here_and_a_foreign_namespace_is_refused() {
        let parse = |arguments: &[&str]| {
            Helper::try_parse_from([&["mount.snapbrowse", "a", "b"], arguments].concat()).unwrap()
        };
        assert!(parse(&["-f"]).into_cli().unwrap().is_none());
        assert!(parse(&["-sfnv"]).into_cli().unwrap().is_none());
        assert_eq!(parse(&["-N", "/run/ns"]).into_cli().unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_portal_is_browsed() {
        for (source, browses) in [("iscsi://h", true), ("iscsi://h/t", false), ("a.img", false)] {
            let helper = Helper::try_parse_from(["mount.snapbrowse", source, "/mnt"]).unwrap();
            let cli = helper.into_cli().unwrap().unwrap();
            assert_eq!(matches!(cli.command, Command::Browse(_)), browses, "{source}");
        }
    }
}
