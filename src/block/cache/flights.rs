//! Reads under way, and the hints that wait for their turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::sync::{Arc, Weak};
use std::time::Instant;

use smallvec::SmallVec;
use tokio::sync::SetOnce;

use super::Device;
use super::depth::Depth;
use super::lines::Class;
use crate::block::Segments;
use crate::error::Result;

/// The longest single read of the source. Longer ones are several at a time, so that their first part can be
/// used while the last is still on the wire.
pub(super) const READ_MAX: u64 = 1 << 20;

/// Ranges with at most this much between them are read as one: that costs no more time on the wire than a
/// second command does at the target.
const GAP_MAX: u64 = 32 << 10;

/// So many times as much as may be under way may wait in each queue: the windows of a few streams.
const WAITING: usize = 3;

/// A range that has to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) range: Range<u64>,
    pub(super) class: Class,
}

impl Wanted {
    pub(super) fn len(&self) -> usize {
        // At most READ_MAX, which `coalesce` sees to.
        (self.range.end - self.range.start) as usize
    }
}

/// Joins ranges that touch or nearly touch and cuts them into reads of [`READ_MAX`] at most.
pub(super) fn coalesce(mut ranges: SmallVec<[Wanted; 4]>) -> SmallVec<[Wanted; 4]> {
    ranges.sort_unstable_by_key(|wanted| wanted.range.start);
    let mut joined: SmallVec<[Wanted; 4]> = SmallVec::new();
    for wanted in ranges {
        match joined.last_mut() {
            Some(last) if wanted.range.start <= last.range.end.saturating_add(GAP_MAX) => {
                last.range.end = last.range.end.max(wanted.range.end);
                // A few blocks of metadata among data: what is really needed of them becomes small by its use.
                if wanted.class == Class::Large {
                    last.class = Class::Large;
                }
            }
            _ => joined.push(wanted),
        }
    }
    let mut reads = SmallVec::new();
    for Wanted { range, class } in joined {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start.saturating_add(READ_MAX));
            reads.push(Wanted { range: start..end, class });
            start = end;
        }
    }
    reads
}

/// One read of the source, with everybody who waits for it.
pub(super) struct Flight {
    pub(super) device: Arc<Device>,
    pub(super) wanted: Wanted,
    /// Where it waited for its turn, if nobody had asked for it when it was begun.
    ahead: Option<Class>,
    pub(super) answer: SetOnce<Result<Segments>>,
}

impl Flight {
    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }
}

/// All reads under way, none overlapping another of the same device, and the hints that wait.
pub(super) struct Flights {
    flying: BTreeMap<(u32, u64), Arc<Flight>>,
    bytes: usize,
    ahead_bytes: usize,
    ahead_max: usize,
    /// The devices that hints were given for.
    lanes: BTreeMap<u32, Lane>,
    /// Whose hint was begun last: the others have their turn first.
    last: u32,
}

/// What nobody has asked for yet of one device.
struct Lane {
    /// A hint keeps no device alive.
    device: Weak<Device>,
    /// Metadata and scattered data go before the data of streams, which would fill the queue for long.
    small: Queue,
    large: Queue,
    /// Bytes of streams under way.
    streaming: usize,
    depth: Depth,
}

/// Hints that wait.
#[derive(Default)]
struct Queue {
    hints: VecDeque<Wanted>,
    bytes: usize,
}

impl Queue {
    /// Puts a hint behind the others, unless there are `most` bytes then.
    fn push(&mut self, wanted: Wanted, most: usize) {
        if self.bytes + wanted.len() <= most {
            self.bytes += wanted.len();
            self.hints.push_back(wanted);
        }
    }

    /// The first hint, if it is no longer than `room`.
    fn pop(&mut self, room: usize) -> Option<Wanted> {
        if self.hints.front()?.len() > room {
            return None;
        }
        let wanted = self.hints.pop_front()?;
        self.bytes -= wanted.len();
        Some(wanted)
    }

    fn is_empty(&self) -> bool {
        self.hints.is_empty()
    }
}

impl Lane {
    fn new(device: &Arc<Device>, most: usize) -> Self {
        Self {
            device: Arc::downgrade(device),
            small: Queue::default(),
            large: Queue::default(),
            streaming: 0,
            depth: Depth::new(most),
        }
    }

    /// The next hint, if it is no longer than `room`.
    fn next(&mut self, room: usize) -> Option<(Class, Wanted)> {
        if !self.small.is_empty() {
            return self.small.pop(room).map(|wanted| (Class::Small, wanted));
        }
        let room = room.min(self.depth.limit().saturating_sub(self.streaming));
        self.large.pop(room).map(|wanted| (Class::Large, wanted))
    }
}

impl Flights {
    /// With at most `ahead_max` bytes under way that nobody has asked for yet, and some times as many waiting.
    pub(super) fn new(ahead_max: usize) -> Self {
        Self {
            flying: BTreeMap::new(),
            bytes: 0,
            ahead_bytes: 0,
            ahead_max,
            lanes: BTreeMap::new(),
            last: 0,
        }
    }

    /// Bytes under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The reads under way that touch `range`, in order.
    pub(super) fn over(&self, device: u32, range: &Range<u64>) -> SmallVec<[Arc<Flight>; 4]> {
        // They do not overlap, so only the last one that begins before the range can reach into it.
        let before = self.flying.range((device, 0)..(device, range.start)).next_back();
        let within = self.flying.range((device, range.start)..(device, range.end));
        before
            .into_iter()
            .filter(|(_, flight)| flight.wanted.range.end > range.start)
            .chain(within)
            .map(|(_, flight)| Arc::clone(flight))
            .collect()
    }

    /// The parts of `range` that no read under way brings.
    pub(super) fn not_flying(&self, device: u32, range: Range<u64>) -> SmallVec<[Range<u64>; 4]> {
        let mut parts = SmallVec::new();
        let mut at = range.start;
        for flight in self.over(device, &range) {
            if flight.wanted.range.start > at {
                parts.push(at..flight.wanted.range.start);
            }
            at = flight.wanted.range.end;
        }
        if at < range.end {
            parts.push(at..range.end);
        }
        parts
    }

    /// Enters a read that is about to begin.
    pub(super) fn begin(
        &mut self,
        device: &Arc<Device>,
        wanted: Wanted,
        ahead: Option<Class>,
    ) -> Arc<Flight> {
        let key = (device.number, wanted.range.start);
        let flight =
            Arc::new(Flight { device: Arc::clone(device), wanted, ahead, answer: SetOnce::new() });
        self.bytes += flight.len();
        if ahead.is_some() {
            self.ahead_bytes += flight.len();
        }
        if let (Some(Class::Large), Some(lane)) = (ahead, self.lanes.get_mut(&device.number)) {
            lane.streaming += flight.len();
        }
        let other = self.flying.insert(key, Arc::clone(&flight));
        debug_assert!(other.is_none(), "two reads of one block at a time");
        flight
    }

    /// Strikes out a read that is over.
    pub(super) fn end(&mut self, flight: &Flight, now: Instant) {
        let number = flight.device.number;
        if self.flying.remove(&(number, flight.wanted.range.start)).is_none() {
            return;
        }
        self.bytes -= flight.len();
        if flight.ahead.is_some() {
            self.ahead_bytes -= flight.len();
        }
        if let Some(lane) = self.lanes.get_mut(&number) {
            if flight.ahead == Some(Class::Large) {
                lane.streaming -= flight.len();
            }
            lane.depth.landed(flight.len(), !lane.large.is_empty(), now);
        }
    }

    /// Puts a hint in the queue; one too many is forgotten.
    pub(super) fn wait(&mut self, device: &Arc<Device>, wanted: Wanted) {
        let most = self.ahead_max;
        // What is longer would never fit, and keep all others waiting.
        if wanted.len() > most {
            return;
        }
        let lane = self.lanes.entry(device.number).or_insert_with(|| Lane::new(device, most));
        let queue = match wanted.class {
            Class::Small => &mut lane.small,
            Class::Large => &mut lane.large,
        };
        queue.push(wanted, WAITING * most);
    }

    /// The next hint and where it waited, if there is room for it among the reads under way.
    pub(super) fn next_ahead(&mut self) -> Option<(Weak<Device>, Class, Wanted)> {
        let room = self.ahead_max.saturating_sub(self.ahead_bytes);
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let turns = self.lanes.range(after).chain(self.lanes.range(..=self.last));
        let waiting = turns.filter(|(_, lane)| !lane.small.is_empty() || !lane.large.is_empty());
        let turns: SmallVec<[u32; 4]> = waiting.map(|(number, _)| *number).collect();
        for number in turns {
            let Some(lane) = self.lanes.get_mut(&number) else { continue };
            if let Some((class, wanted)) = lane.next(room) {
                self.last = number;
                return Some((lane.device.clone(), class, wanted));
            }
        }
        None
    }

    /// Forgets the hints for a device that is gone.
    pub(super) fn forget(&mut self, device: u32) {
        self.lanes.remove(&device);
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const KIB: u64 = 1 << 10;

    fn small(range: Range<u64>) -> Wanted {
        Wanted { range, class: Class::Small }
    }

    fn large(range: Range<u64>) -> Wanted {
        Wanted { range, class: Class::Large }
    }

    #[test]
    fn near_ranges_become_one_read() {
        let reads = coalesce(smallvec![
            small(100 * KIB..104 * KIB),
            small(0..4 * KIB),
            small(4 * KIB..8 * KIB),
            small(40 * KIB..44 * KIB),
        ]);
        assert_eq!(reads[..], [small(0..44 * KIB), small(100 * KIB..104 * KIB)]);
    }

    #[test]
    fn long_ranges_are_cut_into_reads_of_the_longest_length() {
        let reads =
            coalesce(smallvec![large(1000 * KIB..3 << 20), large(3 << 20..(3 << 20) + KIB),]);
        assert_eq!(
            reads[..],
            [
                large(1000 * KIB..2024 * KIB),
                large(2024 * KIB..3048 * KIB),
                large(3048 * KIB..3073 * KIB)
            ]
        );
    }

    #[test]
    fn one_large_range_makes_the_read_a_large_one() {
        let reads = coalesce(smallvec![large(0..64 * KIB), small(64 * KIB..68 * KIB)]);
        assert_eq!(reads[..], [large(0..68 * KIB)]);
    }

    #[test]
    fn nested_ranges_do_not_shorten_each_other() {
        let reads = coalesce(smallvec![large(0..2 << 20), small(4 * KIB..8 * KIB)]);
        assert_eq!(reads[..], [large(0..1 << 20), large(1 << 20..2 << 20)]);
    }
}
