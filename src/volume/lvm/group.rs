//! A volume group's metadata: which extents of which physical volume make up which logical volume.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};

use super::label::sectors;
use super::logical::{Segment, Stripe};
use super::text::{Section, Value, bad};

/// Physical volumes by UUID without dashes.
pub(super) type PhysicalVolumes = BTreeMap<String, Arc<dyn BlockSource>>;

/// One parsed metadata text.
pub(super) struct VolumeGroup {
    name: String,
    uuid: String,
    seqno: u64,
    /// Bytes per extent.
    extent_size: u64,
    section: Section,
}

impl VolumeGroup {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let whole = Section::parse(text)?;
        // The one section of the text is the group; values beside it tell who wrote it.
        let (name, section) =
            whole.sections().next().ok_or_else(|| bad("no volume group in the text"))?;
        check_name(name)?;
        let extent_size = sectors(section.integer("extent_size")?)?;
        if extent_size == 0 {
            return Err(bad("extent_size = 0"));
        }
        Ok(Self {
            name: name.to_owned(),
            uuid: section.text("id")?.to_owned(),
            seqno: section.integer("seqno")?,
            extent_size,
            section: section.clone(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(super) fn seqno(&self) -> u64 {
        self.seqno
    }

    /// The visible logical volumes, each with its mapping or why it cannot be read.
    pub(super) fn logical_volumes<'a>(
        &'a self,
        physical: &'a PhysicalVolumes,
    ) -> impl Iterator<Item = (&'a str, Result<Vec<Segment>>)> {
        let merging = self.merging();
        self.all_volumes().filter_map(move |(name, volume)| {
            // Hidden volumes are the insides of mirrors, pools and snapshots.
            let visible = Value::Text("VISIBLE".to_owned());
            match volume.list("status") {
                Ok(status) if !status.contains(&visible) => None,
                Ok(_) if merging.contains(name) => Some((name, Err(is_merging()))),
                Ok(_) => Some((name, self.map_volume(name, volume, physical))),
                Err(error) => Some((name, Err(error))),
            }
        })
    }

    fn map_volume(
        &self,
        name: &str,
        volume: &Section,
        physical: &PhysicalVolumes,
    ) -> Result<Vec<Segment>> {
        check_name(name)?;
        let mut segments = segments(volume)
            .map(|segment| self.map_segment(segment, physical))
            .collect::<Result<Vec<_>>>()?;
        segments.sort_by_key(|segment| segment.range.start);
        let mut end = 0;
        for segment in &segments {
            if segment.range.start != end {
                return Err(bad(&format!("its segments leave a gap or overlap at byte {end}")));
            }
            end = segment.range.end;
        }
        match end {
            0 => Err(bad("it has no segments")),
            _ => Ok(segments),
        }
    }

    /// All logical volumes, the hidden ones too. A group without any has no such section.
    fn all_volumes(&self) -> impl Iterator<Item = (&str, &Section)> {
        let volumes = self.section.section("logical_volumes").ok();
        volumes.into_iter().flat_map(Section::sections)
    }

    /// The volumes on their way back to what a snapshot of them holds: the store is read in place of their own blocks then.
    fn merging(&self) -> HashSet<&str> {
        let segments = self.all_volumes().flat_map(|(_, volume)| segments(volume));
        let merging = segments.filter(|segment| segment.text("merging_store").is_ok());
        merging.filter_map(|segment| segment.text("origin").ok()).collect()
    }

    fn map_segment(&self, segment: &Section, physical: &PhysicalVolumes) -> Result<Segment> {
        let kind = segment.text("type")?;
        if kind != "striped" && kind != "linear" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("logical volumes of type {kind} are not supported"),
            ));
        }
        let start = self.extents(segment.integer("start_extent")?)?;
        let len = self.extents(segment.integer("extent_count")?)?;
        let end = start.checked_add(len).ok_or_else(|| bad("a segment's end overflows"))?;
        let places = segment.list("stripes")?;
        let count = places.len() as u64 / 2;
        if len == 0 || count == 0 || places.len() % 2 != 0 || len % count != 0 {
            return Err(bad(&format!("a segment of {len} bytes on {count} stripes")));
        }
        let stripe_size = if count == 1 { len } else { sectors(segment.integer("stripe_size")?)? };
        // Every stripe holds a whole number of turns, so no turn crosses the end of the segment.
        if stripe_size == 0 || (len / count) % stripe_size != 0 {
            return Err(bad(&format!("stripes of {stripe_size} bytes in a segment of {len}")));
        }
        let stripes = places
            .chunks_exact(2)
            .map(|place| self.map_stripe(place, len / count, physical))
            .collect::<Result<_>>()?;
        Ok(Segment { range: start..end, stripes, stripe_size })
    }

    fn map_stripe(&self, place: &[Value], len: u64, physical: &PhysicalVolumes) -> Result<Stripe> {
        let [Value::Text(name), Value::Integer(extent)] = place else {
            return Err(bad("a stripe is not a physical volume and an extent"));
        };
        let pv = self.section.section("physical_volumes")?.section(name)?;
        let uuid = pv.text("id")?;
        // As lvm2: it was away while others were written, and is out of date until `vgextend --restoremissing`.
        if pv.list("flags").is_ok_and(|flags| flags.contains(&Value::Text("MISSING".to_owned()))) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "its physical volume {name} ({uuid}) is marked as missing: what it holds may be out of date"
                ),
            ));
        }
        let source = physical.get(&uuid.replace('-', "")).ok_or_else(|| {
            Error::new(
                ErrorKind::VolumeNotFound,
                format!("its physical volume {name} ({uuid}) is not on this device"),
            )
        })?;
        let extent = u64::try_from(*extent).map_err(|_| bad("a negative extent"))?;
        let start = sectors(pv.integer("pe_start")?)?
            .checked_add(self.extents(extent)?)
            .ok_or_else(|| bad("an extent's place overflows"))?;
        match start.checked_add(len) {
            Some(end) if end <= source.len() => Ok(Stripe { source: source.clone(), start }),
            _ => Err(bad(&format!("{len} bytes at {start} pass the end of {name}"))),
        }
    }

    fn extents(&self, count: u64) -> Result<u64> {
        count.checked_mul(self.extent_size).ok_or_else(|| bad("a number of extents overflows"))
    }
}

fn segments(volume: &Section) -> impl Iterator<Item = &Section> {
    let sections = volume.sections().filter(|(name, _)| name.starts_with("segment"));
    sections.map(|(_, segment)| segment)
}

fn is_merging() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a snapshot is being merged into it, so that its blocks lie in both: not supported",
    )
}

/// The characters that lvm2 allows: such names are safe in paths and on a terminal.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    if name.is_empty() || name.len() > 127 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(bad(&format!("{name:?} is no name of a group or volume")));
    }
    Ok(())
}
