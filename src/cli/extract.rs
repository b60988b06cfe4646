//! `snapbrowse extract`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;
use crate::extract::{self, Options, Report};

use super::args::{Engine, SourceArg};
use super::context::Context;
use super::exit::Exit;
use super::output::{Output, printable};
use super::settings::Settings;
use super::source;
use super::units::show_size;
use super::{complain, progress};

/// Copy files and trees out
///
/// Keeps contents, holes, mode, times, symbolic and hard links, extended attributes and ACLs; as root also owners,
/// devices, set-id bits and attributes of the system. Whatever cannot be restored is named, and the exit code is 3 then;
/// only what belonged to other users or groups, and is an ordinary user's now, is just counted in the last line.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse extract iscsi://san1/iqn.2001-05.com.example:snap/0 /etc/foo --to .
  snapbrowse extract disk.img /home/ann /home/bob --to /restore
  snapbrowse extract disk.img / --to /restore")]
pub(crate) struct Args {
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// What to copy; `/` means everything in the root directory
    #[arg(required = true)]
    paths: Vec<OsString>,
    /// Where to: `/etc` makes DIR/etc
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Replace files that exist, and the mode, owner and times of directories that do
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct Summary {
    files: u64,
    directories: u64,
    bytes: u64,
    failed: u64,
    /// Files and directories of other users or groups, where only root could have kept that.
    owners_not_kept: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |opened| {
        let settings = &context.settings;
        if settings.engine == Engine::Ext4View {
            tracing::warn!(
                "ext4-view does not tell of hard links and extended attributes: links become files of their own, \
                 attributes and ACLs are left out"
            );
        }
        let bar = progress::bar(settings);
        let report = {
            let bar = bar.clone();
            Arc::new(Report::new(move |error| bar.suspend(|| complain(error))))
        };
        let paths: Vec<Vec<u8>> = args.paths.into_iter().map(OsString::into_vec).collect();
        let options = Options { overwrite: args.overwrite };
        let work =
            extract::extract(opened.filesystem, &paths, &args.to, options, Arc::clone(&report));
        let result = progress::show(&bar, &report, work).await;
        let nothing = report.files() + report.directories() == 0;
        if result.is_ok() || !nothing {
            summarise(settings, &args.to, &report)?;
        }
        result?;
        Ok(match report.first_failure() {
            None => Exit::Done,
            Some(kind) if nothing => Exit::from(kind),
            Some(_) => Exit::Partly,
        })
    })
    .await
}

fn summarise(settings: &Settings, to: &Path, report: &Report) -> Result<()> {
    let summary = Summary {
        files: report.files(),
        directories: report.directories(),
        bytes: report.bytes(),
        failed: report.failed(),
        owners_not_kept: report.foreign(),
    };
    let mut out = Output::new();
    if settings.json {
        out.json_document(&summary)?;
    } else if !settings.quiet {
        let Summary { files, directories, bytes, failed, owners_not_kept } = summary;
        let to = printable(to.as_os_str().as_bytes());
        out.text(format_args!(
            "restored {} and {}, {}, to {to}",
            count(files, "file", "files"),
            count(directories, "directory", "directories"),
            show_size(bytes)
        ))?;
        if failed > 0 {
            out.text(format_args!("; {}", count(failed, "failure", "failures")))?;
        }
        if owners_not_kept > 0 {
            out.text(format_args!(
                "; {owners_not_kept} belong to other users or groups, which only root can keep"
            ))?;
        }
        out.line("")?;
    }
    out.flush()
}

/// `1 file`, `2 files`.
fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
