//! What an extraction has done so far, for whoever watches it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind};

/// Counts, and hears of every failure as it happens.
pub struct Report {
    files: Counter,
    directories: Counter,
    bytes: Counter,
    failed: Counter,
    foreign: Counter,
    first_failure: OnceLock<ErrorKind>,
    on_failure: Box<dyn Fn(&Error) + Send + Sync>,
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn subtract(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Report {
    /// Nothing done yet; `on_failure` is told of each failure with the path in its message.
    pub fn new(on_failure: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        Self {
            files: Counter::default(),
            directories: Counter::default(),
            bytes: Counter::default(),
            failed: Counter::default(),
            foreign: Counter::default(),
            first_failure: OnceLock::new(),
            on_failure: Box::new(on_failure),
        }
    }

    /// Everything restored that is not a directory.
    pub fn files(&self) -> u64 {
        self.files.get()
    }

    /// Directories restored.
    pub fn directories(&self) -> u64 {
        self.directories.get()
    }

    /// Bytes of contents in the files that were restored, and in those under way.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Failures: each one was told.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Files and directories whose owner and group only root could have kept.
    pub fn foreign(&self) -> u64 {
        self.foreign.get()
    }

    /// The kind of the first failure.
    pub fn first_failure(&self) -> Option<ErrorKind> {
        self.first_failure.get().copied()
    }

    pub(super) fn file_done(&self) {
        self.files.add(1);
    }

    pub(super) fn directory_done(&self) {
        self.directories.add(1);
    }

    pub(super) fn bytes_done(&self, bytes: u64) {
        self.bytes.add(bytes);
    }

    /// Takes back what was counted for a file that is not kept.
    pub(super) fn bytes_undone(&self, bytes: u64) {
        self.bytes.subtract(bytes);
    }

    pub(super) fn foreign_seen(&self) {
        self.foreign.add(1);
    }

    pub(super) fn failure(&self, error: &Error) {
        self.failed.add(1);
        self.first_failure.get_or_init(|| error.kind());
        (self.on_failure)(error);
    }
}
