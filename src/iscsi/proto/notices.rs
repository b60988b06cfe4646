//! At most one line per event per second in the log, however often it happens.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// When each event was last told of, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    told: Vec<(&'static str, Instant, u64)>,
}

impl Notices {
    /// Whether to tell of this event now. `Some(n)`: yes, and n like it were passed over before.
    pub(crate) fn allow(&mut self, event: &'static str, now: Instant) -> Option<u64> {
        let Some((_, last, missed)) = self.told.iter_mut().find(|(name, ..)| *name == event) else {
            self.told.push((event, now, 0));
            return Some(0);
        };
        if now < *last + INTERVAL {
            *missed += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(missed))
    }

    /// Logs `line` at level WARN, if it may be.
    pub(crate) fn warn(
        &mut self,
        event: &'static str,
        now: Instant,
        line: impl FnOnce() -> String,
    ) {
        match self.allow(event, now) {
            None => {}
            Some(0) => tracing::warn!("{}", line()),
            Some(missed) => tracing::warn!("{} ({missed} more like it)", line()),
        }
    }

    /// Logs `line` at level INFO, if it may be.
    pub(crate) fn info(
        &mut self,
        event: &'static str,
        now: Instant,
        line: impl FnOnce() -> String,
    ) {
        match self.allow(event, now) {
            None => {}
            Some(0) => tracing::info!("{}", line()),
            Some(missed) => tracing::info!("{} ({missed} more like it)", line()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_event_per_second() {
        let mut notices = Notices::default();
        let start = Instant::now();
        assert_eq!(notices.allow("drop", start), Some(0));
        assert_eq!(notices.allow("ping", start), Some(0));
        for n in 0..100 {
            assert_eq!(notices.allow("drop", start + INTERVAL * n / 100), None);
        }
        assert_eq!(notices.allow("drop", start + INTERVAL), Some(100));
        assert_eq!(notices.allow("drop", start + INTERVAL * 2), Some(0));
    }
}
