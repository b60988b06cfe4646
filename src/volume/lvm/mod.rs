//! LVM2: physical volumes found on a device become logical volumes, linear and striped.
//!
//! Everything that maps in another way (mirrors, RAID, thin pools, caches, old-style snapshots) is refused by name.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod group;
mod label;
mod logical;
mod text;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::block::BlockSource;

use group::VolumeGroup;
use label::PhysicalVolume;

/// What the physical volumes of a device hold.
#[derive(Default)]
pub(super) struct Found {
    /// `vg/lv` and its bytes.
    pub(super) volumes: Vec<(String, Arc<dyn BlockSource>)>,
    /// Logical volumes that cannot be read, and damage that was passed over.
    pub(super) warnings: Vec<String>,
}

/// Reads the metadata of all physical volumes (name and bytes) and puts their logical volumes together.
///
/// A damaged physical volume is a warning: the others may still hold whole logical volumes. `taken` are the names of the
/// device's partitions: no volume group goes by one of them.
pub(super) async fn assemble(
    physical: Vec<(String, Arc<dyn BlockSource>)>,
    taken: impl IntoIterator<Item = String>,
) -> Found {
    let mut found = Found::default();
    let mut by_uuid = BTreeMap::new();
    let mut groups: BTreeMap<String, VolumeGroup> = BTreeMap::new();
    for (name, source) in physical {
        let pv = match PhysicalVolume::open(&name, source).await {
            Ok(pv) => pv,
            Err(error) => {
                found.warnings.push(format!("{name}: {error}"));
                continue;
            }
        };
        found.warnings.extend(pv.warnings);
        for text in &pv.texts {
            match VolumeGroup::parse(text) {
                Ok(group) => newest(&mut groups, group),
                Err(error) => found.warnings.push(format!("{name}: {error}")),
            }
        }
        by_uuid.insert(pv.uuid, pv.source);
    }
    let mut taken: HashSet<String> = taken.into_iter().collect();
    for group in groups.values() {
        let shown = free_name(group.name(), &mut taken);
        if shown != group.name() {
            let what = format!("the volume group {} is shown as {shown}: ", group.name());
            found.warnings.push(what + "a partition or another group has its name");
        }
        for (name, volume) in group.logical_volumes(&by_uuid) {
            let name = format!("{shown}/{name}");
            match volume {
                Ok(segments) => {
                    let volume = logical::LogicalVolume::new(name.clone(), segments);
                    found.volumes.push((name, Arc::new(volume)));
                }
                Err(error) => found.warnings.push(format!("{name}: {error}")),
            }
        }
    }
    found
}

/// A name that nothing else has: that of the group itself, else with a number behind a tilde, which is in no group's name.
fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number: u32| format!("{name}~{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let free = names.find(|name| !taken.contains(name)).expect("numbers do not come to an end");
    taken.insert(free.clone());
    free
}

/// Every metadata area holds a copy of the text; the highest `seqno` is the newest.
fn newest(groups: &mut BTreeMap<String, VolumeGroup>, group: VolumeGroup) {
    match groups.get(group.uuid()) {
        Some(known) if known.seqno() >= group.seqno() => {}
        _ => {
            groups.insert(group.uuid().to_owned(), group);
        }
    }
}
