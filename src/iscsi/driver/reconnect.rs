//! What a session does without a connection: it logs in again, at a pace that spares the target, and serves requests and
//! deadlines meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::iscsi::connect::{Connection, LoginFailure, Passes, log_in, random_u32};
use crate::iscsi::proto::Backoff;

use super::{Driver, Request};

/// After a lost connection, "target not found" may mean that it moves.
const MOVING: Duration = Duration::from_secs(10);
/// A connection that lasts for so long was a good one: the next reconnect need not hold back.
const GOOD: Duration = Duration::from_secs(5);
/// After so many failed attempts nobody is connected to until somebody asks for something.
const EAGER_ATTEMPTS: u32 = 8;

/// When the next attempt to connect is made.
#[derive(Debug)]
pub(super) struct Pace {
    /// Grows with each attempt, until a connection lasts or somebody waits for one.
    backoff: Backoff,
    /// The target wants no login before this (Time2Wait).
    earliest: Instant,
    next: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { backoff: Backoff::default(), earliest: now, next: now }
    }

    /// A connection was lost that was made at `since`; the target wants no login within `wait`.
    pub(super) fn lost(&mut self, now: Instant, since: Instant, wait: Duration) {
        if now >= since + GOOD {
            self.backoff = Backoff::default();
        }
        self.earliest = now + wait;
        self.failed(now);
    }

    /// An attempt has failed.
    fn failed(&mut self, now: Instant) {
        self.next = self.earliest.max(now + self.wait());
    }

    /// Somebody waits: the next attempt need not wait longer than the first one did. Between two attempts a first wait
    /// has always passed, so that they do not crowd however many wait.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.backoff = Backoff::default();
        let soon = self.earliest.max(now + self.wait());
        self.next = self.next.min(soon);
    }

    fn wait(&mut self) -> Duration {
        self.backoff.next_wait(random_u32().unwrap_or(0))
    }

    /// Whether it has been tried often enough while nobody waits.
    fn is_tired(&self) -> bool {
        self.backoff.attempts() >= EAGER_ATTEMPTS
    }
}

impl Driver {
    /// Logs in again with the same ISID, which reinstates the session. `None`: the session is over.
    pub(super) async fn reconnect(&mut self, lost: Instant) -> Option<Connection> {
        let mut told = String::new();
        loop {
            if !self.stand_by().await {
                return None;
            }
            match self.try_log_in().await? {
                // While it was under way, another session has come to stand by at that portal.
                Ok(connection) if self.shared && connection.asked != self.asked => {}
                Ok(connection) => return Some(connection),
                Err(LoginFailure { error, passes }) => {
                    let passes = match passes {
                        Passes::Perhaps => true,
                        Passes::WhileMoving => lost.elapsed() < MOVING,
                        Passes::WithOneAlgorithm | Passes::No => false,
                    };
                    let now = Instant::now();
                    // A portal may be down for days: each reason is told once.
                    let reason = error.to_string();
                    if reason != told && self.notices.allow("login", now.into_std()).is_some() {
                        tracing::warn!("{reason}");
                        told = reason;
                    }
                    if !passes {
                        self.engine.fail_all(&error);
                        self.dispatch();
                    }
                    self.engine.connect_failed(error);
                    self.pace.failed(now);
                }
            }
        }
    }

    /// One login, while requests and deadlines are served. `None`: the session is over.
    async fn try_log_in(&mut self) -> Option<Result<Connection, LoginFailure>> {
        let mut portals = vec![self.asked.clone()];
        if !self.shared {
            let others = self.portals.iter().filter(|portal| **portal != self.asked);
            portals.extend(others.cloned());
        }
        let (target, config) = (self.target.clone(), self.config.clone());
        let isid = self.isid;
        let mut told = std::mem::take(&mut self.told);
        let result = {
            let login = log_in(&portals, &target, &config, isid, &mut told);
            tokio::pin!(login);
            loop {
                tokio::select! {
                    result = &mut login => break Some(result),
                    goes_on = self.serve_disconnected(None) => if !goes_on {
                        break None;
                    },
                }
            }
        };
        self.told = told;
        result
    }

    /// Serves requests and deadlines until it is time for an attempt. False: the session is over.
    async fn stand_by(&mut self) -> bool {
        loop {
            // Where nobody waits, and it has been tried often enough, the next request wakes us.
            let is_wanted = !self.pace.is_tired() || self.engine.has_work();
            let until = is_wanted.then_some(self.pace.next);
            if until.is_some_and(|until| until <= Instant::now()) {
                return true;
            }
            if !self.serve_disconnected(until).await {
                return false;
            }
        }
    }

    /// Serves the next request or deadline, or waits until a time. False: the session is over.
    async fn serve_disconnected(&mut self, until: Option<Instant>) -> bool {
        let deadline = self.engine.next_timeout().map(Instant::from_std);
        let wake = [deadline, until].into_iter().flatten().min();
        let timer = async {
            match wake {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        let request: Option<Option<Request>> = tokio::select! {
            request = self.requests.recv() => Some(request),
            () = timer => None,
        };
        let now = std::time::Instant::now();
        match request {
            Some(Some(request)) => self.take(request, now),
            Some(None) => self.close(now),
            None => {
                // Without a link there is nothing that could be at fault.
                let _ = self.engine.handle_timeout(now);
            }
        }
        !self.dispatch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);

    /// Attempts have failed for long.
    fn slow(now: Instant) -> Pace {
        let mut pace = Pace::new(now);
        (0..10).for_each(|_| pace.failed(now));
        assert!(pace.next >= now + 10 * FIRST);
        pace
    }

    #[test]
    fn whoever_waits_does_not_wait_for_what_has_grown() {
        let now = Instant::now();
        let mut pace = slow(now);
        assert!(pace.is_tired());
        pace.hurry(now);
        assert!(pace.next <= now + FIRST && !pace.is_tired());
    }

    #[test]
    fn many_that_wait_neither_crowd_the_attempts_nor_put_them_off() {
        let now = Instant::now();
        let mut pace = slow(now);
        for n in 0..1000 {
            pace.hurry(now + n * FIRST / 1000);
            assert!((now + FIRST / 2..=now + FIRST).contains(&pace.next));
        }
    }

    #[test]
    fn no_attempt_is_made_before_the_target_wants_one() {
        let (now, wait) = (Instant::now(), Duration::from_secs(2));
        let mut pace = Pace::new(now);
        pace.lost(now, now, wait);
        pace.hurry(now);
        assert_eq!(pace.next, now + wait);
    }

    #[test]
    fn a_connection_that_lasted_is_made_again_soon() {
        let now = Instant::now();
        let mut pace = slow(now);
        pace.lost(now + GOOD, now, Duration::ZERO);
        assert!(pace.next <= now + GOOD + FIRST);
    }
}
