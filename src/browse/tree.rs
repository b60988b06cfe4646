//! The directories above the file systems: targets, their volumes, aliases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::fs::Ino;

use super::target::Target;

/// The number of a node of ours; below 2^32, where volumes have theirs above.
pub(super) type NodeId = u32;

/// The root of the tree.
pub(super) const ROOT: NodeId = 1;

/// What a node is.
#[derive(Clone)]
pub(super) enum Kind {
    /// A directory of nodes.
    Dir,
    /// A symbolic link.
    Link(String),
    /// The status file, as text or as JSON.
    Status { json: bool },
    /// A target: its only file system, or a directory of its volumes.
    Target(Arc<Target>),
    /// One of a target's volumes: its root directory, under the slot's number.
    Volume(Arc<Target>, u32),
}

/// A node with its place.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) parent: NodeId,
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// All nodes. Numbers grow and are never used again, so they also give a listing its stable order.
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    names: HashMap<(NodeId, String), NodeId>,
    /// Each node behind its parent: a listing of one directory of a thousand must not look at all the others.
    places: BTreeSet<(NodeId, NodeId)>,
    next: NodeId,
    /// The target behind each slot that is in use, and the node that shows the volume's root.
    slots: HashMap<u32, (Arc<Target>, Option<NodeId>)>,
    next_slot: u32,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node { parent: ROOT, name: String::new(), kind: Kind::Dir };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            names: HashMap::new(),
            places: BTreeSet::new(),
            next: ROOT + 1,
            slots: HashMap::new(),
            next_slot: 1,
        }
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub(super) fn find(&self, parent: NodeId, name: &str) -> Option<NodeId> {
        self.names.get(&(parent, name.to_owned())).copied()
    }

    /// The children of a directory with numbers above `after`, in order.
    pub(super) fn children(
        &self,
        parent: NodeId,
        after: NodeId,
    ) -> impl Iterator<Item = (NodeId, &Node)> {
        let places = self.places.range((parent, after.saturating_add(1))..=(parent, NodeId::MAX));
        places.filter_map(|(_, id)| Some((*id, self.nodes.get(id)?)))
    }

    /// How many directories a directory holds.
    pub(super) fn subdirectories(&self, parent: NodeId) -> u32 {
        let is_dir =
            |(_, node): &(NodeId, &Node)| !matches!(node.kind, Kind::Link(_) | Kind::Status { .. });
        u32::try_from(self.children(parent, 0).filter(is_dir).count()).unwrap_or(u32::MAX)
    }

    /// Adds a node, or gives the number of the one that has this name already.
    pub(super) fn add(&mut self, parent: NodeId, name: &str, kind: Kind) -> NodeId {
        if let Some(known) = self.find(parent, name) {
            return known;
        }
        let id = self.next;
        self.next = self.next.checked_add(1).expect("2^32 nodes do not fit into memory");
        self.names.insert((parent, name.to_owned()), id);
        self.places.insert((parent, id));
        self.nodes.insert(id, Node { parent, name: name.to_owned(), kind });
        id
    }

    /// Removes a node and everything below it.
    pub(super) fn remove(&mut self, id: NodeId) {
        self.clear(id);
        if let Some(node) = self.nodes.remove(&id) {
            self.places.remove(&(node.parent, id));
            self.names.remove(&(node.parent, node.name));
        }
    }

    /// Removes everything below a node.
    pub(super) fn clear(&mut self, id: NodeId) {
        let children: Vec<NodeId> = self.children(id, 0).map(|(child, _)| child).collect();
        for child in children {
            self.remove(child);
        }
    }

    /// Numbers for `count` volumes of `target`, never used before. Those of a target that is gone lead nowhere.
    pub(super) fn new_slots(&mut self, target: &Arc<Target>, count: usize) -> Vec<u32> {
        let slots: Vec<u32> = (self.next_slot..).take(count).collect();
        self.next_slot += u32::try_from(count).expect("a target has fewer than 2^32 volumes");
        self.drop_slots(target);
        if !target.is_gone() {
            self.slots.extend(slots.iter().map(|slot| (*slot, (Arc::clone(target), None))));
        }
        slots
    }

    /// The target that a slot belongs to.
    pub(super) fn slot(&self, slot: u32) -> Option<Arc<Target>> {
        self.slots.get(&slot).map(|(target, _)| Arc::clone(target))
    }

    /// The node that stands for the root directory of the volume in a slot.
    pub(super) fn shown(&self, slot: u32) -> Option<NodeId> {
        self.slots.get(&slot)?.1
    }

    /// Notes which node stands for the root directory of the volume in a slot.
    pub(super) fn show(&mut self, slot: u32, node: NodeId) {
        if let Some((_, shown)) = self.slots.get_mut(&slot) {
            *shown = Some(node);
        }
    }

    /// Forgets the slots of a target.
    pub(super) fn drop_slots(&mut self, target: &Arc<Target>) {
        self.slots.retain(|_, (known, _)| !Arc::ptr_eq(known, target));
    }
}

/// An inode number of the tree, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A node of ours.
    Node(NodeId),
    /// An inode of the volume in a slot.
    Inode(u32, Ino),
}

impl Place {
    pub(super) fn of(ino: Ino) -> Self {
        // Both halves fit by construction.
        let (high, low) = ((ino.0 >> 32) as u32, ino.0 as u32);
        if high == 0 { Self::Node(low) } else { Self::Inode(high, Ino(low.into())) }
    }
}

/// The number of a node of ours.
pub(super) fn node_ino(id: NodeId) -> Ino {
    Ino(id.into())
}

/// The number of a volume's inode; `None` for an inode past 2^32, which no ext file system has.
pub(super) fn volume_ino(slot: u32, ino: Ino) -> Option<Ino> {
    let low = u32::try_from(ino.0).ok()?;
    Some(Ino(u64::from(slot) << 32 | u64::from(low)))
}
