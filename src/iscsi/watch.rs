//! Who relies on a unit being what it was: told to the session's task, which has it looked at again whenever it may
//! have become another one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::scsi::LunAddress;

use super::driver::{Handle, Request};
use super::unit::UnitFacts;

/// Tells watchers of one unit apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatcherId(u64);

/// One watcher of a unit of a session, from before the first question about the unit until this is dropped: what
/// happens to the unit while it is being opened counts, too.
#[derive(Debug)]
pub(super) struct Watch {
    handle: Handle,
    lun: LunAddress,
    id: WatcherId,
}

impl Watch {
    pub(super) fn begin(handle: &Handle, lun: LunAddress) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = WatcherId(NEXT.fetch_add(1, Ordering::Relaxed));
        handle.tell(Request::Watch(lun, id, None));
        Self { handle: handle.clone(), lun, id }
    }

    /// This is what the unit must still be when it is looked at.
    pub(super) fn rely_on(&self, facts: UnitFacts) {
        self.handle.tell(Request::Watch(self.lun, self.id, Some(facts)));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.handle.tell(Request::Unwatch(self.lun, self.id));
    }
}

/// The units of a session that somebody watches.
#[derive(Debug, Default)]
pub(super) struct Watchers(HashMap<LunAddress, Watched>);

/// One unit.
#[derive(Debug, Default)]
struct Watched {
    /// Who watches it, with what they rely on.
    by: Vec<(WatcherId, Option<UnitFacts>)>,
    /// Why the last look at it has failed.
    trouble: Option<Error>,
    has_grown: bool,
}

impl Watchers {
    /// Adds a watcher, or what it relies on. True where another one of the same unit relies on something else: it was
    /// exchanged between the two.
    pub(super) fn add(&mut self, lun: LunAddress, id: WatcherId, facts: Option<UnitFacts>) -> bool {
        let watchers = &mut self.0.entry(lun).or_default().by;
        watchers.retain(|(known, _)| *known != id);
        let disputed =
            facts.is_some() && watchers.iter().any(|(_, other)| other.is_some() && *other != facts);
        watchers.push((id, facts));
        disputed
    }

    /// Takes a watcher away. True where nobody watches the unit any more.
    pub(super) fn remove(&mut self, lun: LunAddress, id: WatcherId) -> bool {
        let Some(watched) = self.0.get_mut(&lun) else { return true };
        watched.by.retain(|(known, _)| *known != id);
        let is_last = watched.by.is_empty();
        if is_last {
            self.0.remove(&lun);
        }
        is_last
    }

    /// Everything that somebody relies on, each once.
    pub(super) fn facts(&self, lun: LunAddress) -> Vec<UnitFacts> {
        let mut all = Vec::new();
        let watchers = self.0.get(&lun).into_iter().flat_map(|watched| &watched.by);
        for facts in watchers.filter_map(|(_, facts)| facts.as_ref()) {
            if !all.contains(facts) {
                all.push(facts.clone());
            }
        }
        all
    }

    /// Takes note of what came of a look at the unit. True where it is found for the first time to have grown.
    pub(super) fn looked(&mut self, lun: LunAddress, result: &Result<bool>) -> bool {
        let Some(watched) = self.0.get_mut(&lun) else { return false };
        watched.trouble = result.as_ref().err().cloned();
        matches!(result, Ok(true)) && !std::mem::replace(&mut watched.has_grown, true)
    }

    /// Why the last look at the unit has failed, if it has.
    pub(super) fn trouble(&self, lun: LunAddress) -> Option<&Error> {
        self.0.get(&lun)?.trouble.as_ref()
    }
}
