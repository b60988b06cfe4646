//! A cache of parsed structures, bounded in bytes.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// What an entry costs beyond what it says itself: key, links and hash slot.
const ENTRY_OVERHEAD: usize = 96;

/// Keeps what was used last, as far as `capacity` bytes reach. Values are cheap to clone: numbers, or an `Arc`.
pub(super) struct ByteLru<K, V> {
    capacity: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    entries: LruCache<K, (V, usize)>,
    used: usize,
}

impl<K: Hash + Eq, V: Clone> ByteLru<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::new(Inner { entries: LruCache::unbounded(), used: 0 }) }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps `value`, which occupies `weight` bytes, and drops what was not used for the longest time.
    pub(super) fn insert(&self, key: K, value: V, weight: usize) {
        let weight = weight.saturating_add(ENTRY_OVERHEAD);
        let mut inner = self.lock();
        inner.used = inner.used.saturating_add(weight);
        if let Some((_, (_, replaced))) = inner.entries.push(key, (value, weight)) {
            inner.used -= replaced;
        }
        while inner.used > self.capacity {
            match inner.entries.pop_lru() {
                Some((_, (_, dropped))) => inner.used -= dropped,
                None => break,
            }
        }
    }

    /// A panic elsewhere cannot leave a cache in a state that matters.
    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_the_bytes_are_used_up() {
        let cache = ByteLru::new(3 * (100 + ENTRY_OVERHEAD));
        for key in 0..3 {
            cache.insert(key, key * 10, 100);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.insert(3, 30, 100);
        assert_eq!(cache.get(&1), None);
        assert_eq!((cache.get(&0), cache.get(&3)), (Some(0), Some(30)));
        // A replaced value gives its bytes back.
        for _ in 0..10 {
            cache.insert(3, 31, 100);
        }
        assert_eq!(cache.get(&2), Some(20));
    }
}
