//! `-o`: the words of mount(8), and every long option of this program.

use clap::{Args as _, FromArgMatches};

use crate::error::{Error, ErrorKind, Result};

use super::args::GlobalArgs;

/// What `-o` says to the kernel, after the program's own options have been taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OptionList {
    /// Other users may look; the kernel checks permissions.
    pub(crate) allow_other: bool,
    /// Nothing may be executed.
    pub(crate) no_exec: bool,
}

/// Reads the options in order and lays the program's own over `global`.
///
/// fstab, autofs and mount(8) hand on words that say nothing to a read-only mount, or say what holds anyway.
///
/// # Errors
/// [`ErrorKind::Usage`] for `rw` and for what nobody knows.
pub(crate) fn apply(options: &[String], global: &mut GlobalArgs) -> Result<OptionList> {
    let mut list = OptionList::default();
    let mut ours = Vec::new();
    for option in options.iter().map(|option| option.trim()) {
        let name = option.split('=').next().unwrap_or(option);
        match name {
            "allow_other" => list.allow_other = true,
            "noexec" => list.no_exec = true,
            "exec" => list.no_exec = false,
            "rw" => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "mount option rw: snapshots are never written",
                )
                .with_hint("use ro"));
            }
            // Set-id bits and device nodes are never honoured: a snapshot's root is not this machine's.
            "suid" | "nosuid" | "dev" | "nodev" => {}
            ""
            | "ro"
            | "defaults"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "_netdev"
            | "nofail"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "atime"
            | "noatime"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "diratime"
            | "nodiratime"
            | "sync"
            | "async"
            | "dirsync"
            | "nonempty"
            | "nostrictatime"
            | "lazytime"
            | "nolazytime" => {}
            // Systemd's and other programs' own notes in fstab.
            name if name.starts_with("x-") || name == "comment" => {}
            _ => ours.push(format!("--{}{}", name.replace('_', "-"), &option[name.len()..])),
        }
    }
    let parser = GlobalArgs::augment_args(clap::Command::new("-o").no_binary_name(true));
    parser
        .try_get_matches_from(&ours)
        .and_then(|matches| global.update_from_arg_matches(&matches))
        .map_err(|error| unknown(&error))?;
    Ok(list)
}

/// clap's first line, without its advice on flags.
fn unknown(error: &clap::Error) -> Error {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    Error::new(ErrorKind::Usage, format!("mount options: {line}"))
}
