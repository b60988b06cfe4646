//! What a tree of targets needs of a SAN: a list of targets, and each of them opened.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::fs::{Filesystem, Pending};
use crate::iscsi::TargetRecord;

/// The way to the targets. Everything it does has a bound in time of its own.
pub trait San: Send + Sync + 'static {
    /// Asks every portal for its targets. A portal that does not answer is one of the failures.
    fn discover(&self) -> BoxFuture<'_, Discovery>;

    /// Logs in to a target and opens every file system on it.
    fn open<'a>(&'a self, target: &'a TargetRecord) -> Pending<'a, OpenTarget>;
}

/// One of those who tell of targets, a portal or a hook: a number that stays the same from one discovery to the next.
pub type Teller = usize;

/// A target that all portals together list at more portals than this is shown with so many: each is compared with the
/// others.
const MAX_PORTALS: usize = 1024;

/// What the portals said.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Whether anybody did, be it that there is no target.
    pub answered: bool,
    /// The targets of all portals that answered, those of the same name merged.
    pub targets: Vec<Told>,
    /// Who did not answer, and why.
    pub failures: Vec<(Teller, Error)>,
    /// Where among the targets each name stands: there may be a hundred thousand.
    places: HashMap<String, usize>,
}

/// A target, and who told of it.
#[derive(Debug)]
pub struct Told {
    /// The target, with the portals that all of them named.
    pub record: TargetRecord,
    /// Never empty.
    pub by: BTreeSet<Teller>,
}

impl Discovery {
    /// Adds a target, or its portals to the target of that name.
    pub fn add(&mut self, by: Teller, record: TargetRecord) {
        let place = self.places.get(&record.name);
        let Some(known) = place.and_then(|&place| self.targets.get_mut(place)) else {
            self.places.insert(record.name.clone(), self.targets.len());
            self.targets.push(Told { record, by: BTreeSet::from([by]) });
            return;
        };
        known.by.insert(by);
        let portals = &mut known.record.portals;
        for portal in record.portals {
            if portals.len() < MAX_PORTALS && !portals.contains(&portal) {
                portals.push(portal);
            }
        }
    }
}

/// A target that is logged in.
pub struct OpenTarget {
    /// The name that the target gives itself (TargetAlias).
    pub alias: Option<String>,
    /// The file systems found on it.
    pub volumes: Vec<OpenVolume>,
    /// What a person should know: LUNs and volumes that could not be opened, and why.
    pub notes: Vec<String>,
    /// Bytes read from the target so far.
    pub bytes_read: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The paths to its disks, one line each, where there are several to one.
    pub paths: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Ends the login, and says in the log what went wrong with that; what it opened is dead afterwards.
    pub log_out: Box<dyn Fn() -> BoxFuture<'static, Vec<Error>> + Send + Sync>,
}

/// One file system of a target.
pub struct OpenVolume {
    /// The directories that lead to it within its target: none where it is the only one, else `lun0`, `p1`.
    pub path: Vec<String>,
    /// Its files.
    pub filesystem: Arc<dyn Filesystem>,
    /// Tells this file system from another one that later goes by the same name, a later snapshot of the same volume
    /// too; where nothing can, the next login counts as another one.
    pub identity: Option<Vec<u8>>,
    /// A line about it for people: type, label, journal.
    pub summary: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(n: usize) -> TargetRecord {
        TargetRecord { name: format!("iqn.2026-01.test:{n}"), portals: Vec::new() }
    }

    #[test]
    fn as_many_targets_as_portals_can_tell_of_are_merged_at_once() {
        let mut found = Discovery::default();
        for teller in 0..2 {
            (0..100_000).for_each(|n| found.add(teller, target(n)));
        }
        assert_eq!(found.targets.len(), 100_000);
        assert!(found.targets.iter().all(|told| told.by == BTreeSet::from([0, 1])));
        assert_eq!(found.targets[7].record, target(7), "their order is lost");
    }

    #[test]
    fn a_target_has_only_so_many_portals_whoever_tells_of_them() {
        let mut found = Discovery::default();
        for teller in 0..3 {
            let portal = |n: usize| format!("10.{teller}.{}.{}", n / 256, n % 256).parse().unwrap();
            let portals = (0..1000).map(|n| (portal(n), 1)).collect();
            found.add(teller, TargetRecord { portals, ..target(0) });
        }
        assert_eq!(found.targets[0].record.portals.len(), 1024);
    }
}
