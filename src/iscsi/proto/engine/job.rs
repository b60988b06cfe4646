//! A command and what has become of it so far.

use std::time::{Duration, Instant};

use crate::scsi::{Cdb, LunAddress};

/// A SCSI command with the time it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) lun: LunAddress,
    pub(crate) cdb: Cdb,
    /// Expected Data Transfer Length in bytes. A READ must bring exactly so many, other commands may bring fewer.
    pub(crate) expected: u32,
    /// When the caller wants an error instead.
    pub(crate) deadline: Instant,
    /// How long it had at first, for the message.
    pub(crate) timeout: Duration,
    /// Whether it comes back with [`ErrorKind::PathClosed`](crate::ErrorKind) where this port does not serve the unit
    /// now, and with the fault of a lost connection in a [shared](super::Engine::set_shared) session: the caller
    /// knows another path.
    pub(crate) detours: bool,
}

/// A [`Command`] with its ticket.
#[derive(Debug)]
pub(super) struct Job<T> {
    pub(super) command: Command,
    pub(super) ticket: T,
    /// The callers' order.
    pub(super) order: u64,
    /// How often the target has answered in a way that asked for another attempt.
    pub(super) retries: u32,
    /// How often its data came back damaged.
    pub(super) faults: u32,
    /// The last answer that asked for another attempt, in words.
    pub(super) last_answer: Option<String>,
}

impl<T> Job<T> {
    pub(super) fn new(command: Command, ticket: T, order: u64) -> Self {
        Self { command, ticket, order, retries: 0, faults: 0, last_answer: None }
    }
}
