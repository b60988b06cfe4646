//! The cache against a source that counts, waits and fails as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::{Semaphore, watch};

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes that tell their position.
struct Source {
    len: u64,
    block_size: u32,
    reads: watch::Sender<Vec<(u64, usize)>>,
    /// A read ends when it gets a permit; plenty unless a test takes them away.
    permits: Semaphore,
    failing: AtomicBool,
    fresh: AtomicUsize,
}

fn byte_at(offset: u64) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 16)) as u8
}

fn expected(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(byte_at).collect()
}

impl Source {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self {
            len: len as u64,
            block_size: 512,
            reads: watch::Sender::new(Vec::new()),
            permits: Semaphore::new(Semaphore::MAX_PERMITS),
            failing: AtomicBool::new(false),
            fresh: AtomicUsize::new(0),
        })
    }

    /// Every read waits for [`Source::release`] from now on.
    fn hold(&self) {
        self.permits.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn release(&self, reads: usize) {
        self.permits.add_permits(reads);
    }

    fn reads(&self) -> Vec<(u64, usize)> {
        self.reads.borrow().clone()
    }

    /// Waits until `count` reads have begun.
    async fn begun(&self, count: usize) {
        self.reads.subscribe().wait_for(|reads| reads.len() >= count).await.unwrap();
    }
}

impl BlockSource for Source {
    fn len(&self) -> u64 {
        self.len
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        Box::pin(async move {
            check_range(self.len, offset, len)?;
            self.reads.send_modify(|reads| reads.push((offset, len)));
            self.permits.acquire().await.unwrap().forget();
            if self.failing.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Medium, format!("unreadable at {offset}")));
            }
            let mut answer = Segments::new();
            // In pieces, as Data-In PDUs would make them.
            for start in (offset..offset + len as u64).step_by(300 * KIB) {
                let len = (offset + len as u64 - start).min(300 * KIB as u64);
                answer.push(expected(start, len as usize).into());
            }
            Ok(answer)
        })
    }

    fn read_fresh(&self, offset: u64, len: usize) -> ReadFuture<'_> {
        self.fresh.fetch_add(1, Ordering::Relaxed);
        self.read_at(offset, len)
    }
}

fn cache(source: &Arc<Source>, budget: usize) -> (CachePool, Cache) {
    let pool = CachePool::new(budget);
    let cache = pool.cache(Arc::clone(source) as Arc<dyn BlockSource>);
    (pool, cache)
}

async fn read(cache: &Cache, offset: usize, len: usize) -> Result<()> {
    let answer = crate::block::read(cache, offset as u64, len).await?;
    assert_eq!(answer.into_bytes(), expected(offset as u64, len), "{len} at {offset}");
    Ok(())
}

/// Lets all tasks that can run do so. Tests run in one thread, so nothing is left to chance.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_second_read_needs_no_waiting_and_no_source() {
    let source = Source::new(10 * MIB);
    let (pool, cache) = cache(&source, 4 * MIB);
    assert!(cache.try_read_at(1000, 100).is_none());
    read(&cache, 1000, 100).await.unwrap();
    assert_eq!(source.reads(), [(0, 4096)], "one page, not a megabyte");
    let hit = cache.try_read_at(0, 4096).unwrap().unwrap();
    assert_eq!(hit.into_bytes(), expected(0, 4096));
    let stats = pool.stats();
    assert_eq!((stats.hits, stats.misses, stats.fetches, stats.fetched_bytes), (1, 1, 1, 4096));
}

#[tokio::test]
async fn concurrent_misses_of_one_block_are_one_read() {
    let source = Source::new(MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 4 * MIB);
    let readers: Vec<_> = (0..10)
        .map(|i| {
            let cache = cache.clone();
            tokio::spawn(async move { read(&cache, 5000 + i, 100).await })
        })
        .collect();
    source.begun(1).await;
    settle().await;
    source.release(1);
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    assert_eq!(source.reads(), [(4096, 4096)]);
}

#[tokio::test]
async fn only_what_is_neither_here_nor_coming_is_read() {
    let source = Source::new(4 * MIB);
    let (_pool, cache) = cache(&source, 4 * MIB);
    read(&cache, 200 * KIB, 100 * KIB).await.unwrap();
    source.hold();
    let other = cache.clone();
    let coming = tokio::spawn(async move { read(&other, 400 * KIB, 4 * KIB).await });
    source.begun(2).await;
    let whole = tokio::spawn(async move { read(&cache, 100 * KIB, 400 * KIB).await });
    settle().await;
    source.release(10);
    coming.await.unwrap().unwrap();
    whole.await.unwrap().unwrap();
    assert_eq!(
        source.reads(),
        [
            (200 * KIB as u64, 100 * KIB),
            (400 * KIB as u64, 4 * KIB),
            (100 * KIB as u64, 100 * KIB),
            (300 * KIB as u64, 100 * KIB),
            (404 * KIB as u64, 96 * KIB),
        ]
    );
}

#[tokio::test]
async fn a_long_read_is_cut_into_reads_of_a_megabyte_that_run_together() {
    let source = Source::new(10 * MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 64 * MIB);
    let reader = tokio::spawn(async move { read(&cache, MIB / 2, 4 * MIB).await });
    source.begun(4).await;
    source.release(4);
    reader.await.unwrap().unwrap();
    assert_eq!(source.reads().iter().map(|read| read.1).max(), Some(MIB));
}

#[tokio::test]
async fn a_reader_that_goes_away_cancels_nothing() {
    let source = Source::new(MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 4 * MIB);
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { read(&cache, 0, 4096).await }
    });
    source.begun(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn({
        let cache = cache.clone();
        async move { read(&cache, 0, 4096).await }
    });
    settle().await;
    source.release(1);
    second.await.unwrap().unwrap();
    assert_eq!(source.reads().len(), 1);
}

#[tokio::test]
async fn an_error_reaches_every_waiter_and_is_not_remembered() {
    let source = Source::new(MIB);
    source.hold();
    source.failing.store(true, Ordering::Relaxed);
    let (pool, cache) = cache(&source, 4 * MIB);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { read(&cache, 0, 4096).await })
        })
        .collect();
    source.begun(1).await;
    settle().await;
    source.release(1);
    for reader in readers {
        let error = reader.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Medium, "unreadable at 0"));
    }
    assert_eq!((source.reads().len(), pool.stats().used), (1, 0));
    source.failing.store(false, Ordering::Relaxed);
    source.release(1);
    read(&cache, 0, 4096).await.unwrap();
}

#[tokio::test]
async fn a_read_larger_than_the_budget_is_answered_and_not_kept() {
    let source = Source::new(10 * MIB);
    let (pool, cache) = cache(&source, 100 * KIB);
    read(&cache, 1, 5 * MIB).await.unwrap();
    assert!(pool.stats().used <= 100 * KIB);
    read(&cache, 0, 4096).await.unwrap();
}

#[tokio::test]
async fn memory_stays_within_the_budget_and_small_reads_outlive_a_stream() {
    let source = Source::new(64 * MIB);
    let (pool, cache) = cache(&source, 8 * MIB);
    read(&cache, 0, 4096).await.unwrap();
    for megabyte in 1..64 {
        read(&cache, megabyte * MIB, MIB).await.unwrap();
        assert!(pool.stats().used <= 8 * MIB);
    }
    assert!(cache.try_read_at(0, 4096).is_some());
    assert!(cache.try_read_at(63 * MIB as u64, MIB).is_some());
    assert!(cache.try_read_at(MIB as u64, MIB).is_none());
}

#[tokio::test]
async fn a_hint_reads_ahead_within_its_budget_and_in_turn() {
    let source = Source::new(64 * MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 16 * MIB);
    // A quarter of the budget flies, three times as much waits, the rest is forgotten.
    cache.prefetch(&[0..20 * MIB as u64]);
    settle().await;
    assert_eq!(source.reads().len(), 4);
    // What somebody asks for does not wait behind the hints.
    let reader = tokio::spawn({
        let cache = cache.clone();
        async move { read(&cache, 40 * MIB, 4096).await }
    });
    source.begun(5).await;
    source.release(100);
    reader.await.unwrap().unwrap();
    source.begun(17).await;
    settle().await;
    let ahead = source.reads().iter().filter(|(_, len)| *len == MIB).count();
    assert_eq!(ahead, 16);
}

#[tokio::test]
async fn no_more_flies_ahead_than_makes_a_device_faster_and_metadata_goes_first() {
    let source = Source::new(256 * MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 256 * MIB);
    cache.prefetch(&[0..24 * MIB as u64]);
    cache.prefetch(&[100 * MIB as u64..100 * MIB as u64 + 4096]);
    settle().await;
    let at_first: Vec<u64> = source.reads().iter().map(|(offset, _)| *offset).collect();
    let megabyte = MIB as u64;
    assert_eq!(at_first, [0, megabyte, 2 * megabyte, 3 * megabyte, 100 * megabyte]);
    source.release(100);
    source.begun(25).await;
}

#[tokio::test]
async fn scattered_hints_leave_room_for_a_stream() {
    let source = Source::new(256 * MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 256 * MIB);
    let megabyte = MIB as u64;
    let scattered: Vec<_> = (0..8 * 128).map(|n| n * 8192..n * 8192 + 4096).collect();
    cache.prefetch(&scattered);
    cache.prefetch(&[100 * megabyte..104 * megabyte]);
    settle().await;
    let streaming = source.reads().iter().filter(|(offset, _)| *offset >= 100 * megabyte).count();
    assert_eq!((source.reads().len(), streaming), (8 + 4, 4));
}

#[tokio::test]
async fn a_hint_longer_than_what_may_fly_stops_no_others() {
    let source = Source::new(64 * MIB);
    let (_pool, cache) = cache(&source, 2 * MIB);
    cache.prefetch(&[0..MIB as u64]);
    cache.prefetch(&[8 * MIB as u64..8 * MIB as u64 + 100 * KIB as u64]);
    settle().await;
    assert_eq!(source.reads(), [(8 * MIB as u64, 100 * KIB)]);
}

#[tokio::test]
async fn a_device_with_many_hints_leaves_room_for_another() {
    let (source, other) = (Source::new(256 * MIB), Source::new(MIB));
    source.hold();
    other.hold();
    let (pool, cache) = cache(&source, 256 * MIB);
    let second = pool.cache(Arc::clone(&other) as Arc<dyn BlockSource>);
    cache.prefetch(&[0..64 * MIB as u64]);
    second.prefetch(&[0..MIB as u64]);
    settle().await;
    assert_eq!((source.reads().len(), other.reads().len()), (4, 1));
    // What is waiting of a device that is gone takes no room from the others.
    drop(cache);
    source.release(100);
    settle().await;
    second.prefetch(&[0..MIB as u64]);
    other.release(100);
    read(&second, 0, MIB).await.unwrap();
}

#[tokio::test]
async fn a_demand_for_what_is_being_read_ahead_waits_for_that() {
    let source = Source::new(64 * MIB);
    source.hold();
    let (_pool, cache) = cache(&source, 16 * MIB);
    cache.prefetch(&[0..MIB as u64, 10..20]);
    cache.prefetch(&[0..MIB as u64]);
    let reader = tokio::spawn(async move { read(&cache, 100 * KIB, 128 * KIB).await });
    source.begun(1).await;
    settle().await;
    source.release(1);
    reader.await.unwrap().unwrap();
    assert_eq!(source.reads(), [(0, MIB)]);
}

#[tokio::test]
async fn scattered_hints_are_joined_where_they_lie_close() {
    let source = Source::new(64 * MIB);
    let (_pool, cache) = cache(&source, 16 * MIB);
    let ranges: Vec<_> = (0..16_u64).rev().map(|i| i * 16_384..i * 16_384 + 256).collect();
    cache.prefetch(&ranges);
    source.begun(1).await;
    settle().await;
    assert_eq!(source.reads(), [(0, 15 * 16_384 + 4096)]);
}

#[tokio::test]
async fn hints_past_the_end_or_backwards_are_ignored() {
    let source = Source::new(MIB + 512);
    let (_pool, cache) = cache(&source, 16 * MIB);
    let backwards = Range { start: 9000, end: 100 };
    cache.prefetch(&[backwards, 2 * MIB as u64..u64::MAX, MIB as u64..u64::MAX]);
    settle().await;
    assert_eq!(source.reads(), [(MIB as u64, 512)]);
}

#[tokio::test]
async fn the_end_of_the_device_is_a_short_page_and_past_it_is_an_error() {
    let source = Source::new(10_000);
    let (_pool, cache) = cache(&source, MIB);
    read(&cache, 9_999, 1).await.unwrap();
    assert_eq!(source.reads(), [(8192, 10_000 - 8192)]);
    read(&cache, 10_000, 0).await.unwrap();
    for (offset, len) in [(10_000, 1), (0, 10_001), (u64::MAX, 1)] {
        let error = crate::block::read(&cache, offset, len).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn a_fresh_read_asks_the_source() {
    let source = Source::new(MIB);
    let (_pool, cache) = cache(&source, MIB);
    read(&cache, 0, 4096).await.unwrap();
    let fresh = cache.read_fresh(10, 20).await.unwrap();
    assert_eq!(fresh.into_bytes(), expected(10, 20));
    assert_eq!(source.fresh.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_source_that_answers_short_is_an_error() {
    struct Short;
    impl BlockSource for Short {
        fn len(&self) -> u64 {
            1 << 20
        }
        fn block_size(&self) -> u32 {
            512
        }
        fn read_at(&self, _offset: u64, len: usize) -> ReadFuture<'_> {
            Box::pin(async move { Ok(Segments::zeros(len - 1)) })
        }
    }
    let cache = CachePool::new(MIB).cache(Arc::new(Short));
    let error = crate::block::read(&cache, 0, 4096).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_bad_block_fails_alone() {
    /// The byte at 5000 cannot be read.
    struct Scratched;
    impl BlockSource for Scratched {
        fn len(&self) -> u64 {
            1 << 20
        }
        fn block_size(&self) -> u32 {
            512
        }
        fn read_at(&self, offset: u64, len: usize) -> ReadFuture<'_> {
            let bad = (offset..offset + len as u64).contains(&5000);
            Box::pin(async move {
                match bad {
                    true => Err(Error::new(ErrorKind::Medium, "unrecovered read error")),
                    false => Ok(Segments::zeros(len)),
                }
            })
        }
    }
    let cache = CachePool::new(1 << 20).cache(Arc::new(Scratched));
    // The page of both, 4096 to 8192, holds the bad byte.
    assert_eq!(cache.read_at(4096, 512).await.unwrap().len(), 512);
    assert_eq!(cache.read_at(5500, 3000).await.unwrap().len(), 3000);
    assert_eq!(cache.read_at(4608, 512).await.unwrap_err().kind(), ErrorKind::Medium);
}

#[tokio::test]
async fn a_source_that_panics_leaves_nobody_waiting() {
    struct Panics;
    impl BlockSource for Panics {
        fn len(&self) -> u64 {
            1 << 20
        }
        fn block_size(&self) -> u32 {
            512
        }
        fn read_at(&self, _offset: u64, _len: usize) -> ReadFuture<'_> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                panic!("a defect below")
            })
        }
    }
    let cache = CachePool::new(MIB).cache(Arc::new(Panics));
    let error = crate::block::read(&cache, 0, 4096).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let source = Source::new(64 * MIB);
    source.hold();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cache = runtime.block_on(async { cache(&source, 16 * MIB).1 });
    cache.prefetch(&[0..8 * MIB as u64]);
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = other.block_on(cache.read_at(0, 4096)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[tokio::test]
async fn devices_share_the_budget_and_not_their_bytes() {
    let (first, second) = (Source::new(8 * MIB), Source::new(8 * MIB));
    let (pool, cache) = cache(&first, 2 * MIB);
    let other = pool.cache(Arc::clone(&second) as Arc<dyn BlockSource>);
    for megabyte in 0..8 {
        read(&cache, megabyte * MIB, MIB).await.unwrap();
        read(&other, megabyte * MIB, MIB).await.unwrap();
        assert!(pool.stats().used <= 2 * MIB);
    }
    assert_eq!((first.reads().len(), second.reads().len()), (8, 8));
    drop(cache);
    drop(other);
    assert_eq!(pool.stats().used, 0, "a device that is gone frees its memory");
}

/// What a user of the cache may do.
#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Prefetch(Vec<(usize, usize)>),
    Fail(bool),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..600 * KIB, prop_oneof![0..9000_usize, 0..300 * KIB]);
    prop_oneof![
        8 => range().prop_map(|(offset, len)| Step::Read(offset, len)),
        3 => prop::collection::vec(range(), 0..6).prop_map(Step::Prefetch),
        1 => any::<bool>().prop_map(Step::Fail),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is read, in whatever order, over sources that fail now and then: the bytes are right, no two reads
    /// under way overlap, memory stays within its budget, and everything ends.
    #[test]
    fn any_order_of_reads_gives_the_bytes_of_the_source(
        steps in prop::collection::vec(step(), 1..40),
        budget in prop_oneof![Just(0), Just(50 * KIB), Just(400 * KIB), Just(8 * MIB)],
        odd in 0..5000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let len = 900 * KIB + odd;
            let source = Source::new(len);
            let (pool, cache) = cache(&source, budget);
            let mut readers = Vec::new();
            for step in steps {
                match step {
                    Step::Read(offset, len) => {
                        let cache = cache.clone();
                        readers.push(tokio::spawn(async move { read(&cache, offset, len).await }));
                    }
                    Step::Prefetch(ranges) => {
                        let ranges: Vec<_> = ranges
                            .into_iter()
                            .map(|(offset, len)| offset as u64..(offset + len) as u64)
                            .collect();
                        cache.prefetch(&ranges);
                    }
                    Step::Fail(failing) => source.failing.store(failing, Ordering::Relaxed),
                    Step::Settle => settle().await,
                }
                prop_assert!(pool.stats().used <= budget);
            }
            for reader in readers {
                let ended = tokio::time::timeout(Duration::from_secs(20), reader).await;
                if let Err(error) = ended.expect("every read ends").unwrap() {
                    prop_assert_eq!(error.kind(), ErrorKind::Medium);
                }
            }
            source.failing.store(false, Ordering::Relaxed);
            settle().await;
            read(&cache, 0, len).await.unwrap();
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_stream_that_always_waits_holds_little_memory() {
    let pool = CachePool::new(256 * MIB);
    let cache = pool.cache(Source::new(48 * MIB));
    for megabyte in 0..48 {
        let offset = (megabyte * MIB) as u64;
        let answer = cache.read_at(offset, MIB).await.unwrap().into_bytes();
        assert_eq!(answer[..100], expected(offset, 100));
    }
    let stats = pool.stats();
    assert_eq!((stats.hits, stats.fetches), (0, 48));
    assert!(stats.used <= 4 * MIB, "{}", stats.used);
    assert!(cache.try_read_at(47 * MIB as u64, MIB).is_some(), "the last of it is still there");
}
