//! What is under way on a connection, by initiator task tag.

use std::collections::VecDeque;

/// How many commands there may be at a time; each may also have its ABORT TASK under way.
const MAX_SLOTS: usize = 1000;
/// Bits of a tag that number the slot; the rest counts its uses, so that a tag of the past finds nothing.
const SLOT_BITS: u32 = 12;
/// How many tags of aborted commands are remembered: a target may still answer those.
const REMEMBERED: usize = 64;

/// A table of exchanges `E`.
#[derive(Debug)]
pub(crate) struct Exchanges<E> {
    slots: Vec<Slot<E>>,
    free: Vec<usize>,
    forgotten: VecDeque<u32>,
    live: usize,
}

#[derive(Debug)]
struct Slot<E> {
    itt: u32,
    exchange: Option<E>,
}

impl<E> Exchanges<E> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), forgotten: VecDeque::new(), live: 0 }
    }

    /// Whether another exchange may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.live < MAX_SLOTS
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Begins an exchange, whatever [`Exchanges::has_room`] says: control PDUs must get through.
    pub(crate) fn insert(&mut self, exchange: E) -> u32 {
        self.live += 1;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index];
            // The reserved tag, all ones, would need slot 4095, which is never reached.
            slot.itt = slot.itt.wrapping_add(1 << SLOT_BITS);
            slot.exchange = Some(exchange);
            return slot.itt;
        }
        // Never 0, which a zeroed PDU would name.
        let itt = u32::try_from(self.slots.len()).expect("few slots") | 1 << SLOT_BITS;
        self.slots.push(Slot { itt, exchange: Some(exchange) });
        itt
    }

    pub(crate) fn get_mut(&mut self, itt: u32) -> Option<&mut E> {
        let slot = self.slots.get_mut(Self::index(itt))?;
        if slot.itt == itt { slot.exchange.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, itt: u32) -> Option<E> {
        let index = Self::index(itt);
        let slot = self.slots.get_mut(index).filter(|slot| slot.itt == itt)?;
        let exchange = slot.exchange.take()?;
        self.live -= 1;
        self.free.push(index);
        Some(exchange)
    }

    /// Removes the exchange if it is of the right kind: an answer with the tag of another must not end that one.
    pub(crate) fn remove_if(&mut self, itt: u32, right: impl FnOnce(&E) -> bool) -> Option<E> {
        if self.get_mut(itt).is_some_and(|exchange| right(exchange)) {
            self.remove(itt)
        } else {
            None
        }
    }

    /// Remembers a tag that the target may still use although its exchange has ended.
    pub(crate) fn forget(&mut self, itt: u32) {
        if self.forgotten.len() == REMEMBERED {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(itt);
    }

    pub(crate) fn was_forgotten(&self, itt: u32) -> bool {
        self.forgotten.contains(&itt)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut E)> {
        self.slots.iter_mut().filter_map(|slot| Some((slot.itt, slot.exchange.as_mut()?)))
    }

    pub(crate) fn into_all(self) -> impl Iterator<Item = E> {
        self.slots.into_iter().filter_map(|slot| slot.exchange)
    }

    fn index(itt: u32) -> usize {
        // SLOT_BITS bits always fit.
        (itt & ((1 << SLOT_BITS) - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_not_used_again_soon() {
        let mut exchanges = Exchanges::new();
        let first = exchanges.insert('a');
        assert_eq!(exchanges.remove(first), Some('a'));
        let second = exchanges.insert('b');
        assert_ne!(first, second);
        assert_eq!(exchanges.get_mut(first), None);
        assert_eq!(exchanges.remove(first), None);
        assert_eq!(exchanges.get_mut(second), Some(&mut 'b'));
        assert_eq!(exchanges.len(), 1);
    }

    #[test]
    fn the_reserved_tag_finds_nothing() {
        let mut exchanges = Exchanges::new();
        for number in 0..MAX_SLOTS {
            assert!(exchanges.has_room());
            exchanges.insert(number);
        }
        assert!(!exchanges.has_room());
        assert_eq!(exchanges.get_mut(u32::MAX), None);
    }
}
