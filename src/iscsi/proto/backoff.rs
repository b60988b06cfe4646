//! How long to wait before the next attempt to reconnect.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(4);

/// Exponential back-off with jitter, so that many clients of a restarted target do not come at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// How many waits there have been.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next wait: 100 ms doubled up to 4 s, less up to half of it by `random`.
    pub(crate) fn next_wait(&mut self, random: u32) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.next_wait(u32::MAX)).collect();
        assert_eq!(waits[0], FIRST);
        assert_eq!(waits[1], FIRST * 2);
        assert_eq!(waits[39], LONGEST);
        assert_eq!(Backoff::default().next_wait(0), FIRST / 2);
    }
}
