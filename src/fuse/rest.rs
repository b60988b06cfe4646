//! Lets a session thread rest while there is no work for two.
//!
//! Two threads read requests because one of them may be copying out an answer. Where all answers are still to come from
//! the target there is nothing to copy: then a second thread only means that every request finds one asleep and has to
//! wake it, while one alone stays awake and takes request after request.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many requests in a row that had to wait are a workload of such.
const MANY: u32 = 16;

/// The longest rest: for so long a request may have to wait for the only thread that is awake.
const REST: Duration = Duration::from_millis(10);

/// Shared by the session threads, of which there are two.
#[derive(Debug)]
pub(super) struct Rest {
    longest: Duration,
    /// How many requests in a row could not be answered at once.
    waited: AtomicU32,
    resting: Mutex<bool>,
    call: Condvar,
}

impl Default for Rest {
    fn default() -> Self {
        Self::new(REST)
    }
}

impl Rest {
    fn new(longest: Duration) -> Self {
        let (waited, resting, call) = Default::default();
        Self { longest, waited, resting, call }
    }

    /// A request was answered in its session thread: there is work for two.
    pub(super) fn answered(&self) {
        // Nothing is written as long as there was nothing to wait for: the threads would fight over the cache line.
        if self.waited.load(Ordering::Relaxed) > 0 && self.waited.swap(0, Ordering::Relaxed) >= MANY
        {
            *self.lock() = false;
            self.call.notify_one();
        }
    }

    /// A request has been handed on: rests, if that is all that happens and the other thread is awake.
    pub(super) fn handed_on(&self) {
        if self.waited.fetch_add(1, Ordering::Relaxed) < MANY {
            return;
        }
        let mut resting = self.lock();
        if !*resting {
            *resting = true;
            let rested = self.call.wait_timeout_while(resting, self.longest, |resting| *resting);
            *rested.unwrap_or_else(PoisonError::into_inner).0 = false;
        }
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that rests until it is called would do so for as long as nobody has patience for.
    fn long() -> Rest {
        Rest::new(Duration::from_secs(3600))
    }

    fn wait_for_rest(rest: &Rest) {
        while !*rest.lock() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_rests_after_many_waits_until_something_is_answered_at_once() {
        let rest = long();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..=MANY).for_each(|_| rest.handed_on()));
            wait_for_rest(&rest);
            rest.answered();
        });
        assert!(!*rest.lock());
    }

    #[test]
    fn the_last_one_awake_does_not_rest() {
        let rest = long();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..=MANY).for_each(|_| rest.handed_on()));
            wait_for_rest(&rest);
            (0..10 * MANY).for_each(|_| rest.handed_on());
            assert!(*rest.lock(), "the other one was called for nothing");
            rest.answered();
        });
    }

    #[test]
    fn nobody_rests_where_some_are_answered_at_once() {
        let rest = long();
        for _ in 0..10 {
            (0..MANY).for_each(|_| rest.handed_on());
            rest.answered();
        }
    }

    #[test]
    fn a_rest_ends_by_itself() {
        let rest = Rest::new(Duration::from_millis(1));
        (0..2 * MANY).for_each(|_| rest.handed_on());
        assert!(!*rest.lock());
    }
}
