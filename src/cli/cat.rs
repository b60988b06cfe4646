//! `snapbrowse cat`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use tokio::sync::{mpsc, oneshot};

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Filesystem, LastLink, resolve};

use super::args::SourceArg;
use super::entry::type_name;
use super::exit::Exit;
use super::output;
use super::source::{self, Context};
use super::tally::Tally;

/// What is read and written at a time: large enough that system calls do not count.
const CHUNK: usize = 1 << 20;

/// Chunks between the reader and the writer, so that both sides of the network stay busy.
const IN_FLIGHT: usize = 4;

/// The most pieces that one `writev` takes (IOV_MAX of Linux).
const MOST_PIECES: usize = 1024;

/// Write files to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  snapbrowse cat iscsi://san1/iqn.2001-05.com.example:snap/0 /etc/fstab
  snapbrowse cat disk.img /var/log/syslog | grep oom")]
pub(crate) struct Args {
    /// An iscsi:// URL, an image file or a block device
    source: SourceArg,
    /// The files
    #[arg(required = true)]
    paths: Vec<OsString>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Exit> {
    source::with_filesystem(context, &args.source, async |opened| {
        let writer = Writer::start()?;
        let mut tally = Tally::default();
        for path in &args.paths {
            match copy(&*opened.filesystem, path.as_bytes(), &writer).await {
                Ok(Copied::Whole) => tally.done(),
                Ok(Copied::NoReader) => break,
                Err(error) => tally.failed(&error),
            }
        }
        writer.finish().await?;
        Ok(tally.exit())
    })
    .await
}

enum Copied {
    Whole,
    /// Standard output takes no more; [`Writer::finish`] knows why.
    NoReader,
}

async fn copy(filesystem: &dyn Filesystem, path: &[u8], writer: &Writer) -> Result<Copied> {
    let attr = resolve(filesystem, path, LastLink::Follow).await?;
    let named = |error: Error| error.context(String::from_utf8_lossy(path));
    match attr.file_type {
        FileType::Regular => {}
        FileType::Directory => {
            return Err(named(Error::new(ErrorKind::IsDir, "is a directory"))
                .with_hint("extract copies directories"));
        }
        other => {
            let what = type_name(other);
            return Err(named(Error::new(
                ErrorKind::InvalidInput,
                format!("a {what} has no contents"),
            )));
        }
    }
    let reader = filesystem.open(attr.ino).await.map_err(named)?;
    let mut offset = 0;
    while offset < attr.size {
        let data = match reader.try_read(offset, CHUNK) {
            Some(answer) => answer,
            None => reader.read(offset, CHUNK).await,
        };
        let data = data.map_err(named)?;
        if data.is_empty() {
            return Err(named(Error::new(
                ErrorKind::Corrupt,
                format!("ends at {offset} of {}", attr.size),
            )));
        }
        offset += data.len() as u64;
        if writer.chunks.send(data).await.is_err() {
            return Ok(Copied::NoReader);
        }
    }
    Ok(Copied::Whole)
}

/// Standard output in a thread of its own, which may wait for a slow reader without holding up the network.
struct Writer {
    chunks: mpsc::Sender<Segments>,
    result: oneshot::Receiver<std::io::Result<()>>,
}

impl Writer {
    fn start() -> Result<Self> {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(output::failed)?;
        // A pipe holds 64 KiB unless it is asked for more; not a pipe, or no more allowed, is no matter.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, CHUNK);
        let mut stdout = File::from(stdout);
        let (chunks, mut received) = mpsc::channel::<Segments>(IN_FLIGHT);
        let (done, result) = oneshot::channel();
        // Not a task of the runtime: a reader that never reads must not keep the program from ending.
        std::thread::spawn(move || {
            let mut write = || {
                while let Some(data) = received.blocking_recv() {
                    write_all(&mut stdout, &data)?;
                }
                Ok(())
            };
            let result = write();
            // Nobody waits for it where the command was interrupted.
            let _ = done.send(result);
        });
        Ok(Self { chunks, result })
    }

    /// Waits until everything is written.
    async fn finish(self) -> Result<()> {
        drop(self.chunks);
        match self.result.await {
            Ok(result) => result.map_err(output::failed),
            Err(_) => Err(Error::new(ErrorKind::Io, "the thread that writes has gone")),
        }
    }
}

/// Writes all pieces without joining them first.
fn write_all(out: &mut impl Write, data: &Segments) -> std::io::Result<()> {
    for pieces in data.pieces().chunks(MOST_PIECES) {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match out.write_vectored(left) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most seven bytes at a time.
    struct Slow(Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            let taken = data.len().min(7);
            self.0.extend_from_slice(&data[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_writes_lose_nothing() {
        let mut data = Segments::new();
        let mut expected = Vec::new();
        for n in 0..2000u32 {
            let piece = vec![n as u8; n as usize % 20];
            expected.extend_from_slice(&piece);
            data.push(piece.into());
        }
        let mut out = Slow(Vec::new());
        write_all(&mut out, &data).unwrap();
        assert_eq!(out.0, expected);
    }
}
