//! `snapbrowse extract`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};

use super::args::SourceArg;
use super::exit::Exit;
use super::source::{self, Context};

/// Copy files and trees out
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
    /// Replace files that exist
    #[arg(long)]
    overwrite: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |_opened| {
        let Args { paths: _, to: _, overwrite: _, .. } = args;
        Err(Error::new(ErrorKind::Unsupported, "extract is not there yet"))
    })
    .await
}
