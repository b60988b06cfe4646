//! Standard output for contents: large writes of whatever pieces come, from a thread that may wait.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsFd;

use tokio::sync::{mpsc, oneshot};

use crate::block::Segments;
use crate::error::{Error, ErrorKind, Result};

use super::output;

/// Chunks between the reader and the writer, so that both sides of the network stay busy.
const IN_FLIGHT: usize = 4;

/// The most pieces that one `writev` takes (IOV_MAX of Linux).
const MOST_PIECES: usize = 1024;

/// What a pipe is asked to hold: the most that an ordinary user may ask for (`/proc/sys/fs/pipe-max-size`).
const PIPE_SIZE: usize = 1 << 20;

/// Standard output in a thread of its own, which may wait for a slow reader without holding up the network.
pub(crate) struct Writer {
    chunks: mpsc::Sender<Segments>,
    result: oneshot::Receiver<std::io::Result<()>>,
}

impl Writer {
    /// Takes standard output; until [`Writer::finish`] nothing else may write to it.
    pub(crate) fn start() -> Result<Self> {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(output::failed)?;
        // A pipe holds 64 KiB unless it is asked for more; not a pipe, or no more allowed, is no matter.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_SIZE);
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
            let written = write();
            // A file on a network file system says only now what could not be written to it.
            let closed = nix::unistd::close(stdout).map_err(std::io::Error::from);
            let result = written.and(closed);
            // Nobody waits for it where the command was interrupted.
            let _ = done.send(result);
        });
        Ok(Self { chunks, result })
    }

    /// Where to put what is to be written. A closed channel means that standard output takes no more.
    pub(crate) fn chunks(&self) -> &mpsc::Sender<Segments> {
        &self.chunks
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// That of the write that failed.
    pub(crate) async fn finish(self) -> Result<()> {
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
