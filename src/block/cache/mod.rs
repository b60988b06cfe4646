//! The cache directly above a LUN: bounded in bytes, one read for all who want the same block.
//!
//! [`lines`] holds what has been read, [`flights`] what is being read; here the two meet under one lock, which
//! is never held while anything waits. A read of the source runs in a task of its own and belongs to the cache:
//! whoever stops waiting for it cancels nothing, and its result is kept unless it is an error.

mod depth;
mod flights;
mod lines;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::time::Instant;

use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::{BlockSource, ReadFuture, Segments, check_range};
use crate::error::{Error, ErrorKind, Result};
use flights::{Flight, Flights, Wanted, coalesce};
use lines::{Class, Lines};

/// The unit in which sources are read, unless their blocks are larger: an ext block, a page of memory, and the
/// least that a round trip is worth.
const PAGE: u64 = 4096;

/// The most that is read ahead at a time, of all devices: bandwidth x delay of 1 GB/s and 32 ms. How much of it one gets
/// is what [`depth`] finds out.
const AHEAD_MAX: usize = 32 << 20;

/// The memory that all caches of the process share.
#[derive(Clone)]
pub struct CachePool {
    shared: Arc<Shared>,
}

/// What a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads answered from memory.
    pub hits: u64,
    /// Reads that had to wait for a source.
    pub misses: u64,
    /// Reads of the sources.
    pub fetches: u64,
    /// Bytes asked of the sources.
    pub fetched_bytes: u64,
    /// Memory in use for what was read, in bytes.
    pub used: usize,
}

/// A [`BlockSource`] that remembers what it has read of another. Clones are the same cache.
#[derive(Clone)]
pub struct Cache {
    device: Arc<Device>,
}

struct Shared {
    /// Memory for lines and reads under way together, in bytes.
    budget: usize,
    state: Mutex<State>,
}

struct State {
    lines: Lines,
    flights: Flights,
    /// Never reused: a line of a device that is gone can never be taken for one of another.
    devices: u32,
    stats: CacheStats,
}

/// One source and its number in the pool.
struct Device {
    number: u32,
    source: Arc<dyn BlockSource>,
    page: u64,
    shared: Arc<Shared>,
    runtime: Handle,
}

/// What is to be done once the lock is released: both may take it. (A runtime that is shutting down drops a new
/// task on the spot, and the last reference to a device clears away its lines.)
#[derive(Default)]
struct Departures {
    flights: SmallVec<[Landing; 4]>,
    devices: SmallVec<[Arc<Device>; 1]>,
}

/// A part of an answer.
enum Part {
    Here(Segments),
    Coming(Arc<Flight>, Range<u64>),
}

impl CachePool {
    /// Memory of `budget` bytes, for everything that is read and being read ahead.
    pub fn new(budget: usize) -> Self {
        let state = State {
            lines: Lines::new(),
            flights: Flights::new(AHEAD_MAX.min(budget / 4)),
            devices: 0,
            stats: CacheStats::default(),
        };
        Self { shared: Arc::new(Shared { budget, state: Mutex::new(state) }) }
    }

    /// A cache above `source`; call it within a tokio runtime, which then runs the reads.
    pub fn cache(&self, source: Arc<dyn BlockSource>) -> Cache {
        let number = {
            let mut state = self.shared.lock();
            state.devices += 1;
            state.devices
        };
        let page = PAGE.max(u64::from(source.block_size()));
        let (shared, runtime) = (Arc::clone(&self.shared), Handle::current());
        Cache { device: Arc::new(Device { number, source, page, shared, runtime }) }
    }

    /// What has been done so far.
    pub fn stats(&self) -> CacheStats {
        let state = self.shared.lock();
        CacheStats { used: state.lines.used(), ..state.stats }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

impl State {
    /// Enters a read; it departs when the lock is released.
    fn begin(
        &mut self,
        device: &Arc<Device>,
        wanted: Wanted,
        ahead: Option<Class>,
        departures: &mut Departures,
    ) {
        self.stats.fetches += 1;
        self.stats.fetched_bytes += wanted.range.end - wanted.range.start;
        let flight = self.flights.begin(device, wanted, ahead);
        departures.flights.push(Landing { flight: Some(flight) });
        self.make_room(device.shared.budget);
    }

    fn make_room(&mut self, budget: usize) {
        self.lines.shrink_to(budget.saturating_sub(self.flights.bytes()));
    }

    /// What neither is here nor coming, as reads to be begun.
    fn to_read(
        &self,
        device: &Device,
        ranges: impl Iterator<Item = Range<u64>>,
    ) -> SmallVec<[Wanted; 4]> {
        let mut wanted = SmallVec::new();
        for range in ranges {
            let class = Class::of(range.end - range.start);
            for missing in self.lines.missing(device.number, device.pages(range)) {
                wanted.push(Wanted { range: missing, class });
            }
        }
        self.not_coming(device, wanted)
    }

    /// What of the missing ranges is not coming, as reads to be begun.
    fn not_coming(&self, device: &Device, missing: SmallVec<[Wanted; 4]>) -> SmallVec<[Wanted; 4]> {
        let not_flying = |wanted: SmallVec<[Wanted; 4]>| -> SmallVec<[Wanted; 4]> {
            let parts = wanted.into_iter().flat_map(|Wanted { range, class }| {
                let parts = self.flights.not_flying(device.number, range);
                parts.into_iter().map(move |range| Wanted { range, class })
            });
            parts.collect()
        };
        let wanted = not_flying(missing);
        let several = wanted.len() > 1;
        let reads = coalesce(wanted);
        // Coalescing may close a gap over a read under way: then leave that one out again.
        if several { not_flying(reads) } else { reads }
    }

    /// Begins hints that have waited, as far as there is room.
    fn next_ahead(&mut self, departures: &mut Departures) {
        while let Some((device, queue, wanted)) = self.flights.next_ahead() {
            let Some(device) = device.upgrade() else { continue };
            // Meanwhile somebody may have asked for it, or for a part.
            for wanted in self.to_read(&device, std::iter::once(wanted.range)) {
                self.begin(&device, wanted, Some(queue), departures);
            }
            departures.devices.push(device);
        }
    }
}

impl Device {
    /// `range` extended to whole pages, within the device.
    fn pages(&self, range: Range<u64>) -> Range<u64> {
        let start = range.start / self.page * self.page;
        let end = range.end.checked_next_multiple_of(self.page).unwrap_or(u64::MAX);
        start..end.min(self.source.len())
    }

    /// The parts that make up `range`, each here or on its way, with where they begin.
    fn gather(self: &Arc<Self>, range: Range<u64>) -> SmallVec<[(u64, Part); 4]> {
        let mut departures = Departures::default();
        let mut parts = SmallVec::new();
        let class = Class::of(range.end - range.start);
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        state.stats.misses += 1;
        let missing = state.lines.missing(self.number, self.pages(range.clone()));
        let gaps = missing.iter().map(|gap| gap.start.max(range.start)..gap.end.min(range.end));
        let gaps: SmallVec<[Range<u64>; 4]> = gaps.filter(|gap| gap.start < gap.end).collect();
        // First what is here, because making room for a read may evict it.
        let mut at = range.start;
        for gap in gaps.iter().cloned().chain([range.end..range.end]) {
            if at < gap.start {
                let here = state.lines.get(self.number, at..gap.start);
                parts.extend(here.map(|here| (at, Part::Here(here))));
            }
            at = gap.end;
        }
        let wanted = missing.into_iter().map(|range| Wanted { range, class }).collect();
        for wanted in state.not_coming(self, wanted) {
            state.begin(self, wanted, None, &mut departures);
        }
        for gap in gaps {
            for flight in state.flights.over(self.number, &gap) {
                let part =
                    flight.wanted.range.start.max(gap.start)..flight.wanted.range.end.min(gap.end);
                parts.push((part.start, Part::Coming(flight, part)));
            }
        }
        state.make_room(self.shared.budget);
        drop(guard);
        departures.depart();
        parts.sort_unstable_by_key(|(start, _)| *start);
        parts
    }

    /// The bytes `part` of a read under way.
    ///
    /// A read is longer than what was asked for: whole pages, small gaps closed, hints. Where its blocks cannot all
    /// be read, that is no reason to refuse those that can: exactly the part is asked for then.
    async fn land_part(&self, flight: &Flight, part: Range<u64>) -> Result<Segments> {
        let whole = &flight.wanted.range;
        let len = (part.end - part.start) as usize;
        match flight.answer.wait().await {
            Ok(answer) => {
                let from = (part.start - whole.start) as usize;
                Ok(answer.slice(from..from + len))
            }
            Err(error) if error.kind() == ErrorKind::Medium && part != *whole => {
                self.source.read_at(part.start, len).await
            }
            Err(error) => Err(error.clone()),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.lines.forget(self.number);
        state.flights.forget(self.number);
    }
}

impl Departures {
    /// Begins each read here and now, so that its command is on its way without a switch to another thread, and
    /// gives the rest of it a task of its own.
    fn depart(self) {
        for flight in self.flights {
            let Some(runtime) = flight.runtime() else { continue };
            let _context = runtime.enter();
            let mut read = Box::pin(fly(flight));
            let mut nobody = Context::from_waker(Waker::noop());
            if read.as_mut().poll(&mut nobody).is_pending() {
                runtime.spawn(read);
            }
        }
    }
}

async fn fly(landing: Landing) {
    let Some(flight) = &landing.flight else { return };
    let (start, len) = (flight.wanted.range.start, flight.len());
    let answer = match flight.device.source.read_at(start, len).await {
        Ok(answer) if answer.len() != len => Err(Error::new(
            ErrorKind::Protocol,
            format!("read of {len} bytes at {start} gave {} bytes", answer.len()),
        )),
        answer => answer,
    };
    landing.over(answer);
}

/// The end of a read, whichever way it comes: a task that is dropped or panics leaves nobody waiting.
struct Landing {
    /// Taken when it is over.
    flight: Option<Arc<Flight>>,
}

impl Landing {
    fn runtime(&self) -> Option<Handle> {
        self.flight.as_ref().map(|flight| flight.device.runtime.clone())
    }

    fn over(mut self, answer: Result<Segments>) {
        if let Some(flight) = self.flight.take() {
            land(&flight, answer);
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            land(&flight, Err(Error::new(ErrorKind::Interrupted, "the read was given up")));
        }
    }
}

fn land(flight: &Arc<Flight>, answer: Result<Segments>) {
    let device = &flight.device;
    let mut departures = Departures::default();
    let now = Instant::now();
    let mut state = device.shared.lock();
    state.flights.end(flight, now);
    if let Ok(answer) = &answer {
        let Wanted { range, class } = &flight.wanted;
        state.lines.insert(device.number, range.start, answer, *class);
        state.make_room(device.shared.budget);
    }
    state.next_ahead(&mut departures);
    drop(state);
    // It was empty: a flight lands once.
    let _ = flight.answer.set(answer);
    departures.depart();
}

impl BlockSource for Cache {
    fn len(&self) -> u64 {
        self.device.source.len()
    }

    fn block_size(&self) -> u32 {
        self.device.source.block_size()
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            check_range(self.len(), offset, len)?;
            let range = offset..offset + len as u64;
            let mut answer = Segments::new();
            for (_, part) in self.device.gather(range.clone()) {
                match part {
                    Part::Here(here) => answer.append(here),
                    Part::Coming(flight, range) => {
                        answer.append(self.device.land_part(&flight, range).await?);
                    }
                }
            }
            if Class::of(len as u64) == Class::Large {
                let mut state = self.device.shared.lock();
                state.lines.stream_past(self.device.number, range);
                state.make_room(self.device.shared.budget);
            }
            if answer.len() != len {
                let have = answer.len();
                return Err(Error::new(
                    ErrorKind::Protocol,
                    format!("cache: {have} of {len} bytes at {offset} (a defect of this program)"),
                ));
            }
            Ok(answer)
        })
    }

    fn try_read_at(&self, offset: u64, len: usize) -> Option<Result<Segments>> {
        if let Err(error) = check_range(self.len(), offset, len) {
            return Some(Err(error));
        }
        let mut state = self.device.shared.lock();
        let answer = state.lines.get(self.device.number, offset..offset + len as u64)?;
        state.stats.hits += 1;
        // A small read may have copied a line out of a large buffer.
        state.make_room(self.device.shared.budget);
        Some(Ok(answer))
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        self.device.source.read_fresh(offset, len)
    }

    fn prefetch(&self, ranges: &[Range<u64>]) {
        let mut departures = Departures::default();
        let mut guard = self.device.shared.lock();
        let state = &mut *guard;
        let len = self.len();
        let ranges = ranges
            .iter()
            .map(|range| range.start..range.end.min(len))
            .filter(|range| range.start < range.end);
        for wanted in state.to_read(&self.device, ranges) {
            state.flights.wait(&self.device, wanted);
            state.next_ahead(&mut departures);
        }
        drop(guard);
        departures.depart();
    }
}
