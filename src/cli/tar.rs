//! `snapbrowse tar`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStringExt;

use crate::error::{Error, ErrorKind, Result};
use crate::extract::{self, Report};

use super::args::SourceArg;
use super::complain;
use super::context::Context;
use super::exit::Exit;
use super::source;
use super::writer::Writer;

/// Write files and trees to standard output as a tar archive (PAX)
///
/// Keeps what `extract` keeps: times to the nanosecond, hard links, holes, extended attributes and ACLs. Read it with
/// `tar -x --xattrs --xattrs-include='*'`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse tar iscsi://san1/iqn.2001-05.com.example:snap/0 /etc > etc.tar
  snapbrowse tar disk.img / | ssh host tar -x --xattrs --xattrs-include='*' -C /restore")]
pub(crate) struct Args {
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// What to write; `/etc` is called `etc` in the archive
    #[arg(required = true)]
    paths: Vec<OsString>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    if std::io::stdout().is_terminal() {
        return Err(Error::new(ErrorKind::Usage, "an archive is nothing for a terminal")
            .with_hint("redirect standard output: > FILE or | COMMAND"));
    }
    source::with_filesystem(context, &args.source, async |opened| {
        let writer = Writer::start()?;
        let report = Report::new(complain);
        let paths: Vec<Vec<u8>> = args.paths.into_iter().map(OsString::into_vec).collect();
        extract::archive(&*opened.filesystem, &paths, writer.chunks(), &report).await;
        writer.finish().await?;
        let nothing = report.files() + report.directories() == 0;
        Ok(match report.first_failure() {
            None => Exit::Done,
            Some(kind) if nothing => Exit::from(kind),
            Some(_) => Exit::Partly,
        })
    })
    .await
}
