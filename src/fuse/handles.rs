//! What is open, under the numbers that the kernel hands back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fuser::FileHandle;

/// Open objects by handle. A handle is never used twice.
#[derive(Debug)]
pub(super) struct Handles<T: ?Sized> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T: ?Sized> Default for Handles<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::default() }
    }
}

impl<T: ?Sized> Handles<T> {
    pub(super) fn insert(&self, object: Arc<T>) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(handle, object);
        FileHandle(handle)
    }

    pub(super) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&handle.0).cloned()
    }

    pub(super) fn remove(&self, handle: FileHandle) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_handle_is_gone_and_never_comes_back() {
        let handles = Handles::<str>::default();
        let first = handles.insert(Arc::from("a"));
        handles.remove(first);
        assert!(handles.get(first).is_none());
        let second = handles.insert(Arc::from("b"));
        assert_ne!(first, second);
        assert_eq!(handles.get(second).as_deref(), Some("b"));
    }
}
