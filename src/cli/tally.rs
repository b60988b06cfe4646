//! Commands that work on many things: each failure is named, and the exit code says how it went on the whole.

use crate::error::{Error, ErrorKind};

use super::complain;
use super::exit::Exit;

/// Counts what was done and what failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    done: usize,
    first_failure: Option<ErrorKind>,
}

impl Tally {
    /// Counts a success.
    pub(crate) fn done(&mut self) {
        self.done += 1;
    }

    /// Names a failure, and counts it.
    pub(crate) fn failed(&mut self, error: &Error) {
        complain(error);
        self.first_failure.get_or_insert(error.kind());
    }

    /// Counts a directory: a success where some of it can be read, a failure where some cannot.
    pub(crate) fn listed<T>(&mut self, path: &[u8], entries: &[T], failure: Option<Error>) {
        if failure.is_none() || !entries.is_empty() {
            self.done();
        }
        if let Some(error) = failure {
            self.failed(&error.context(String::from_utf8_lossy(path)));
        }
    }

    /// Done where nothing failed, the first failure's code where nothing succeeded, else partly done.
    pub(crate) fn exit(&self) -> Exit {
        match self.first_failure {
            None => Exit::Done,
            Some(kind) if self.done == 0 => Exit::from(kind),
            Some(_) => Exit::Partly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partly_done_is_between_done_and_failed() {
        let mut tally = Tally::default();
        assert_eq!(tally.exit(), Exit::Done);
        tally.failed(&Error::new(ErrorKind::NotFound, "a"));
        tally.failed(&Error::new(ErrorKind::Io, "b"));
        assert_eq!(tally.exit(), Exit::NotFound);
        tally.done();
        assert_eq!(tally.exit(), Exit::Partly);
    }
}
