//! `snapbrowse verify`.

use serde::Serialize;

use crate::error::Result;
use crate::extract::{self, Report};

use super::args::SourceArg;
use super::context::Context;
use super::exit::Exit;
use super::output::Output;
use super::source;
use super::units::show_size;
use super::{complain, progress};

/// Read everything, and say whether all of it could be restored
///
/// Reads every directory, inode, attribute and block map, and with --data the contents of all files too. Nothing is
/// written anywhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse verify iscsi://san1/iqn.2001-05.com.example:snap/0
  snapbrowse verify --data disk.img")]
pub(crate) struct Args {
    /// Read the contents of all files too
    #[arg(long)]
    data: bool,
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
}

#[derive(Serialize)]
struct Summary {
    files: u64,
    directories: u64,
    bytes: u64,
    failed: u64,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |opened| {
        let settings = &context.settings;
        let bar = progress::bar(settings);
        let report = {
            let bar = bar.clone();
            Report::new(move |error| bar.suspend(|| complain(error)))
        };
        let work = extract::verify(&*opened.filesystem, args.data, &report);
        progress::show(&bar, &report, work).await;
        let summary = Summary {
            files: report.files(),
            directories: report.directories(),
            bytes: report.bytes(),
            failed: report.failed(),
        };
        let mut out = Output::new();
        if settings.json {
            out.json_document(&summary)?;
        } else if !settings.quiet {
            out.line(summary.sentence(args.data))?;
        }
        out.flush()?;
        Ok(if summary.failed == 0 { Exit::Done } else { Exit::Partly })
    })
    .await
}

impl Summary {
    fn sentence(&self, data: bool) -> String {
        let Self { files, directories, bytes, failed } = self;
        let contents = match data {
            true => format!("and {} of contents ", show_size(*bytes)),
            false => String::new(),
        };
        let verdict = match failed {
            0 => "all can be restored".to_owned(),
            failed => format!("{failed} cannot be restored as they were"),
        };
        format!("read {files} files, {directories} directories {contents}: {verdict}")
            .replace(" :", ":")
    }
}
