//! What a target has seen.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::lock;
use crate::scsi;

/// At most this many broken rules are kept in words.
const MAX_VIOLATIONS: usize = 100;

/// Counts since the start of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// TCP connections taken.
    pub connections: u64,
    /// TCP connections open now.
    pub open_connections: u64,
    /// Logins that reached the full-feature phase of a normal session.
    pub normal_sessions: u64,
    /// Logins that reached the full-feature phase of a discovery session.
    pub discovery_sessions: u64,
    /// Text requests.
    pub texts: u64,
    /// Logout requests.
    pub logouts: u64,
    /// SCSI commands by operation code and service action (0 for those that have none).
    pub commands: BTreeMap<(u8, u8), u64>,
    /// READ(10) and READ(16) by the index of the portal that they came through.
    pub reads_at: BTreeMap<usize, u64>,
    /// SCSI commands that could change something or that this target does not know.
    pub forbidden: u64,
    /// Task management requests by function.
    pub task_management: BTreeMap<u8, u64>,
    /// NOP-Outs.
    pub nops: u64,
    /// Bytes of data sent in answer to READ.
    pub bytes_read: u64,
    /// The most commands that were in flight at once in one session.
    pub max_in_flight: u64,
    /// Rules of RFC 7143 that an initiator broke, in words.
    pub violations: Vec<String>,
}

impl Stats {
    /// How many commands with this operation code arrived.
    pub fn opcode(&self, opcode: u8) -> u64 {
        self.commands.iter().filter(|((found, _), _)| *found == opcode).map(|(_, n)| n).sum()
    }

    /// How many READ(10) and READ(16) arrived.
    pub fn reads(&self) -> u64 {
        self.opcode(scsi::READ_10) + self.opcode(scsi::READ_16)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    stats: Mutex<Stats>,
    changed: Notify,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Stats {
        lock(&self.stats).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.stats));
        self.changed.notify_waiters();
    }

    /// Waits until the counts are as wanted.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&Stats) -> bool) -> Stats {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed, and the counts are looked at after that.
            changed.as_mut().enable();
            let stats = self.snapshot();
            if wanted(&stats) {
                return stats;
            }
            changed.await;
        }
    }

    /// Notes that an initiator broke a rule.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        self.update(|stats| {
            if stats.violations.len() < MAX_VIOLATIONS {
                stats.violations.push(what.into());
            }
        });
    }

    pub(crate) fn command(&self, portal: usize, cdb: &[u8]) {
        let key = (cdb[0], scsi::service_action(cdb));
        self.update(|stats| {
            *stats.commands.entry(key).or_default() += 1;
            if scsi::read_range(cdb).is_some() {
                *stats.reads_at.entry(portal).or_default() += 1;
            }
            stats.forbidden += u64::from(!scsi::is_allowed(cdb));
        });
    }
}
