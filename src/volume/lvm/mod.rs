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

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::block::BlockSource;

use group::VolumeGroup;
use label::PhysicalVolume;

/// What the physical volumes of a device hold.
#[derive(Default)]
pub(super) struct Found {
    /// `vg/lv` and its bytes, in the order of names.
    pub(super) volumes: Vec<(String, Arc<dyn BlockSource>)>,
    /// Logical volumes that cannot be read, and damage that was passed over.
    pub(super) warnings: Vec<String>,
}

/// Reads the metadata of all physical volumes (name and bytes) and puts their logical volumes together.
///
/// A damaged physical volume is a warning: the others may still hold whole logical volumes.
pub(super) async fn assemble(physical: Vec<(String, Arc<dyn BlockSource>)>) -> Found {
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
    for group in groups.values() {
        for (name, volume) in group.logical_volumes(&by_uuid) {
            let name = format!("{}/{name}", group.name());
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

/// Every metadata area holds a copy of the text; the highest `seqno` is the newest.
fn newest(groups: &mut BTreeMap<String, VolumeGroup>, group: VolumeGroup) {
    match groups.get(group.uuid()) {
        Some(known) if known.seqno() >= group.seqno() => {}
        _ => {
            groups.insert(group.uuid().to_owned(), group);
        }
    }
}
