//! How much is read ahead from one device at a time: as much as makes it faster, and no more.
//!
//! Too little leaves a far device idle. Too much stands before every other read in its queue, and has left the processor's
//! caches by the time that it is used. How much is right, the delay alone does not tell: disks that work side by side want
//! more of it. So it is tried out: now and then a step deeper, which is kept where reading gets faster by it, and a step
//! back, which is kept where it does not get slower.

use std::time::Instant;

/// Where every device begins, in bytes; nothing gets faster with less.
const FIRST: usize = 4 << 20;

/// A step deeper is half as much again: where the delay is what limits, it brings half as much again. One that brings
/// less than this factor is taken back.
const WORTHWHILE: f64 = 1.15;

/// The same for the first steps, each of which is twice as much: a file on a far device is short.
const WORTHWHILE_AT_FIRST: f64 = 1.4;

/// A step back may cost this much of the speed.
const TOLERABLE: f64 = 0.95;

/// A rate is measured over so many times the depth, ...
const MEASURED_DEPTHS: usize = 4;

/// ... and so many at first.
const MEASURED_AT_FIRST: usize = 2;

/// So many measurements lie between two trials.
const REST: u32 = 16;

/// The depth of one device.
#[derive(Debug)]
pub(super) struct Depth {
    /// Bytes that may be under way.
    limit: usize,
    most: usize,
    measurement: Measurement,
    /// Where the trial that is going on began: the depth, and the rate there in bytes per second.
    trial: Option<(usize, f64)>,
    /// Measurements until the next trial.
    rest: u32,
    /// Whether that one goes deeper.
    deeper: bool,
    /// Until the first step that was not worthwhile.
    first: bool,
}

/// How fast bytes come at one depth.
#[derive(Debug)]
struct Measurement {
    /// Bytes that still come from before.
    skipped: usize,
    since: Option<Instant>,
    bytes: usize,
}

impl Measurement {
    fn new(depth: usize) -> Self {
        Self { skipped: depth, since: None, bytes: 0 }
    }

    /// The rate, once there is enough to tell.
    fn add(&mut self, bytes: usize, enough: usize, now: Instant) -> Option<f64> {
        let Some(since) = self.since else {
            self.skipped = self.skipped.saturating_sub(bytes);
            self.since = (self.skipped == 0).then_some(now);
            return None;
        };
        self.bytes += bytes;
        let seconds = now.duration_since(since).as_secs_f64();
        (self.bytes >= enough && seconds > 0.0).then(|| self.bytes as f64 / seconds)
    }
}

impl Depth {
    /// With never more than `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        let limit = FIRST.min(most);
        let measurement = Measurement::new(limit);
        Self { limit, most, measurement, trial: None, rest: 1, deeper: true, first: true }
    }

    /// How many bytes may be under way.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// So many bytes have come. `held_back`: more would be under way, but for the limit. Else the readers set the pace, and
    /// there is nothing to learn from it.
    pub(super) fn landed(&mut self, bytes: usize, held_back: bool, now: Instant) {
        if !held_back {
            match self.trial.take() {
                // More than the readers ask for does no harm, and they may ask for more soon.
                Some(_) if self.first => {
                    (self.rest, self.deeper) = (1, true);
                    self.go_to(self.limit);
                }
                Some((before, _)) => self.settle(before),
                None => self.go_to(self.limit),
            }
            return;
        }
        let (depths, worthwhile) = match self.first {
            true => (MEASURED_AT_FIRST, WORTHWHILE_AT_FIRST),
            false => (MEASURED_DEPTHS, WORTHWHILE),
        };
        let Some(rate) = self.measurement.add(bytes, depths * self.limit, now) else { return };
        match self.trial {
            None => {
                self.rest -= 1;
                if self.rest == 0 {
                    self.try_out(rate);
                } else {
                    self.go_to(self.limit);
                }
            }
            // Where more has helped, still more may.
            Some((before, slower)) if self.limit > before && rate >= slower * worthwhile => {
                self.deeper = true;
                self.try_out(rate);
            }
            Some((before, faster)) if self.limit < before && rate >= faster * TOLERABLE => {
                self.settle(self.limit);
            }
            Some((before, _)) => self.settle(before),
        }
    }

    /// Begins a trial, with the rate that it is compared to.
    fn try_out(&mut self, rate: f64) {
        let before = self.limit;
        let more = if self.first { before } else { before / 2 };
        let after = match self.deeper {
            true => (before + more).min(self.most),
            false => (before - before / 3).max(FIRST.min(self.most)),
        };
        self.deeper = !self.deeper;
        if after == before {
            self.settle(before);
        } else {
            self.trial = Some((before, rate));
            self.go_to(after);
        }
    }

    /// Stays at this depth for a while.
    fn settle(&mut self, depth: usize) {
        self.trial = None;
        self.first = false;
        self.rest = REST;
        self.go_to(depth);
    }

    fn go_to(&mut self, depth: usize) {
        self.limit = depth;
        self.measurement = Measurement::new(depth);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: usize = 1 << 20;

    struct Device {
        depth: Depth,
        now: Instant,
    }

    impl Device {
        fn new(most: usize) -> Self {
            Self { depth: Depth::new(most), now: Instant::now() }
        }

        /// Lets `total` bytes come, so many per second at a depth. Gives the depth in the end.
        fn read(&mut self, total: usize, rate: impl Fn(usize) -> f64) -> usize {
            for _ in 0..total / MIB {
                self.now += Duration::from_secs_f64(MIB as f64 / rate(self.depth.limit()));
                self.depth.landed(MIB, true, self.now);
            }
            self.depth.limit()
        }
    }

    /// What comes of a depth where the delay limits, up to what the wire takes.
    fn far(delay: Duration, wire: f64) -> impl Fn(usize) -> f64 {
        move |depth| (depth as f64 / delay.as_secs_f64()).min(wire)
    }

    #[test]
    fn a_near_device_is_not_read_further_ahead_than_it_helps() {
        let mut device = Device::new(32 * MIB);
        for _ in 0..100 {
            let depth = device.read(64 * MIB, |_| 2e9);
            assert!(depth <= FIRST * 2, "{depth}: more than a trial");
        }
    }

    #[test]
    fn a_far_device_gets_what_keeps_it_busy_soon() {
        let far = || far(Duration::from_millis(20), 1e9);
        let depth = Device::new(32 * MIB).read(100 * MIB, far());
        assert!(depth >= 16 * MIB, "{depth}");
        let depth = Device::new(8 * MIB).read(1024 * MIB, far());
        assert!((4 * MIB..=8 * MIB).contains(&depth), "{depth}");
    }

    #[test]
    fn a_device_that_comes_near_is_read_less_far_ahead() {
        let mut device = Device::new(32 * MIB);
        device.read(512 * MIB, far(Duration::from_millis(20), 1e9));
        let depth = device.read(16 << 30, |_| 1e9);
        assert!(depth <= FIRST * 3 / 2, "{depth}");
    }

    #[test]
    fn nothing_is_learned_while_readers_set_the_pace() {
        let mut depth = Depth::new(32 * MIB);
        let mut now = Instant::now();
        for at in 0..10_000_u64 {
            now += Duration::from_millis(if at < 5_000 { 10 } else { 1 });
            depth.landed(MIB, false, now);
        }
        assert_eq!(depth.limit(), FIRST);
    }

    #[test]
    fn a_step_deeper_that_has_helped_is_not_taken_back_where_the_readers_ask_for_no_more() {
        let mut device = Device::new(32 * MIB);
        let far = || far(Duration::from_millis(20), 1e9);
        while device.depth.limit() < 16 * MIB {
            device.read(MIB, far());
        }
        for _ in 0..100 {
            device.now += Duration::from_millis(2);
            device.depth.landed(MIB, false, device.now);
        }
        assert_eq!(device.depth.limit(), 16 * MIB);
    }

    #[test]
    fn a_small_budget_is_the_limit() {
        let mut device = Device::new(MIB);
        assert_eq!(device.depth.limit(), MIB);
        assert_eq!(device.read(1024 * MIB, far(Duration::from_millis(20), 1e9)), MIB);
    }
}
