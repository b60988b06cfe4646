//! What the process behind a mount says to whoever unmounts it, at its end.
//!
//! It is written into memory that only lives as a file descriptor. Whoever unmounts opens that through /proc before,
//! and reads it when the process is gone: there is no file to go stale, and nobody has to wait for an answer.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::MemfdFlags;

use crate::error::{Error, Result};

/// More than there ever is to say.
const LONGEST: u64 = 1 << 20;

/// The last words of a process, told once.
#[derive(Clone, Debug)]
pub struct Farewell(Arc<File>);

impl Farewell {
    pub(super) fn new() -> Result<Self> {
        let memory = rustix::fs::memfd_create(c"snapbrowse farewell", MemfdFlags::CLOEXEC)
            .map_err(|errno| Error::io("set memory aside", errno.into()))?;
        Ok(Self(Arc::new(File::from(memory))))
    }

    /// Says that the process ends with `code`, and why if that is not 0: a line each.
    pub fn say(&self, code: u8, failures: impl Iterator<Item = String>) {
        let lines = failures.map(|failure| failure.replace('\n', " ") + "\n");
        let text = format!("{code}\n{}", lines.collect::<String>());
        // In one piece, and at once: whoever reads it finds all of it or nothing.
        if let Err(error) = self.0.write_all_at(text.as_bytes(), 0) {
            tracing::warn!("{}", Error::io("tell the outcome", error));
        }
    }

    /// Its number in this process.
    pub(super) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// How the process behind a mount has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// With which exit code.
    pub code: u8,
    /// What was not logged out or not revoked, and why.
    pub failures: Vec<String>,
}

impl Outcome {
    /// What stands in the memory of a process that has ended; `None` where it did not come to say anything.
    pub(super) fn read(mut memory: File) -> Option<Self> {
        let mut text = String::new();
        memory.seek(SeekFrom::Start(0)).ok()?;
        memory.take(LONGEST).read_to_string(&mut text).ok()?;
        let mut lines = text.lines();
        let code = lines.next()?.parse().ok()?;
        Some(Self { code, failures: lines.map(str::to_owned).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let farewell = Farewell::new().unwrap();
        let read = || Outcome::read(farewell.0.try_clone().unwrap());
        assert_eq!(read(), None);
        farewell.say(1, ["one".to_owned(), "two\nlines".to_owned()].into_iter());
        let failures = ["one", "two lines"].map(str::to_owned).to_vec();
        assert_eq!(read(), Some(Outcome { code: 1, failures }));
    }
}
