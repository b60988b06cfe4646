//! Master boot records and the chain of extended ones.
//!
//! `mbrman` parses each record. Its own walk along an extended chain adds and compares untrusted numbers without
//! care and refuses chains that are not in ascending order, so the walk is done here, by the kernel's rules
//! (block/partitions/msdos.c).

use std::collections::BTreeSet;
use std::io::Cursor;

use mbrman::{MBRHeader, MBRPartitionEntry};
use smallvec::SmallVec;

use super::Partition;
use crate::block::{self, BlockSource};
use crate::error::{ErrorKind, Result};

/// The most logical partitions that are listed; the longest chain that is followed.
const LOGICAL_MAX: u32 = 128;

/// A protective entry: the table that counts is a GPT.
const GPT_PROTECTIVE: u8 = 0xee;

/// A boot record that holds a partition table.
pub(super) struct BootRecord {
    header: MBRHeader,
}

impl BootRecord {
    /// The record in the first 512 bytes of a device of `sectors` sectors, if it makes sense as a partition table:
    /// the boot block of a file system carries the same signature.
    pub(super) fn parse(sector: &[u8], sectors: u64) -> Option<Self> {
        let header = MBRHeader::read_from(&mut Cursor::new(sector.get(..512)?)).ok()?;
        let starts: SmallVec<[u64; 4]> = header
            .iter()
            .filter(|(_, entry)| is_used(entry))
            .map(|(_, entry)| u64::from(entry.starting_lba))
            .collect();
        let sane =
            starts.iter().all(|start| *start > 0) && starts.iter().any(|start| *start < sectors);
        sane.then_some(Self { header })
    }

    /// Whether one of its entries says that there is a GPT.
    pub(super) fn is_protective(&self) -> bool {
        self.header.iter().any(|(_, entry)| entry.sys == GPT_PROTECTIVE)
    }

    /// All partitions, primary ones by their place (1 to 4), logical ones from 5 in the order of their chain.
    ///
    /// # Errors
    /// Those of reading, except for blocks that cannot be read: they end the chain with a warning.
    pub(super) async fn partitions(
        &self,
        device: &dyn BlockSource,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Partition>> {
        let sector = u64::from(device.block_size());
        let mut partitions = Vec::new();
        let mut logical = Vec::new();
        for (index, entry) in self.header.iter().filter(|(_, entry)| is_used(entry)) {
            let number = index as u32;
            if is_extended(entry) {
                let mut chain = Chain::new(device, Extent::of(entry, 0));
                chain.follow(&mut logical, warnings).await?;
            } else if entry.sys != GPT_PROTECTIVE {
                partitions.push(partition(number, Extent::of(entry, 0), entry.sys, sector));
            }
        }
        partitions.append(&mut logical);
        Ok(partitions)
    }
}

/// A run of sectors. Starts and lengths are 32 bits wide on the disk, so sums of a few fit 64.
#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    sectors: u64,
}

impl Extent {
    /// Where an entry lies that counts from `base`.
    fn of(entry: &MBRPartitionEntry, base: u64) -> Self {
        Self { start: base + u64::from(entry.starting_lba), sectors: u64::from(entry.sectors) }
    }

    fn end(self) -> u64 {
        self.start + self.sectors
    }

    fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
}

/// The linked list of boot records in one extended partition.
struct Chain<'a> {
    device: &'a dyn BlockSource,
    extended: Extent,
    visited: BTreeSet<u64>,
}

impl<'a> Chain<'a> {
    fn new(device: &'a dyn BlockSource, extended: Extent) -> Self {
        Self { device, extended, visited: BTreeSet::new() }
    }

    /// Adds the chain's partitions to `logical`.
    async fn follow(
        &mut self,
        logical: &mut Vec<Partition>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let sector = u64::from(self.device.block_size());
        let mut this = self.extended;
        loop {
            if self.visited.len() >= LOGICAL_MAX as usize || !self.visited.insert(this.start) {
                warnings.push(format!(
                    "the chain of logical partitions goes on after {} records or in a circle; the rest is left out",
                    self.visited.len()
                ));
                return Ok(());
            }
            let Some(record) = self.record(this.start, warnings).await? else { return Ok(()) };
            let entries = || record.iter().filter(|(_, entry)| is_used(entry));
            for (index, entry) in entries().filter(|(_, entry)| !is_extended(entry)) {
                let extent = Extent::of(entry, this.start);
                // The third and fourth entries sometimes hold garbage.
                if index > 2 && !self.extended.contains(extent) {
                    continue;
                }
                if logical.len() >= LOGICAL_MAX as usize {
                    warnings.push(format!(
                        "only the first {LOGICAL_MAX} logical partitions are listed"
                    ));
                    return Ok(());
                }
                let number = 5 + logical.len() as u32;
                if !self.extended.contains(extent) {
                    warnings.push(format!("p{number} reaches out of its extended partition"));
                }
                logical.push(partition(number, extent, entry.sys, sector));
            }
            let Some((_, link)) = entries().find(|(_, entry)| is_extended(entry)) else {
                return Ok(());
            };
            this = Extent::of(link, self.extended.start);
        }
    }

    /// The boot record at a sector; `None`, with a warning, where there is none.
    async fn record(&self, lba: u64, warnings: &mut Vec<String>) -> Result<Option<MBRHeader>> {
        let mut end_of_chain = |why: &str| {
            warnings.push(format!(
                "the boot record of a logical partition at sector {lba} {why}; those after it are left out"
            ));
            Ok(None)
        };
        let offset = lba * u64::from(self.device.block_size());
        if offset.checked_add(512).is_none_or(|end| end > self.device.len()) {
            return end_of_chain("lies past the end of the device");
        }
        let bytes = match block::read(self.device, offset, 512).await {
            Ok(bytes) => bytes.into_bytes(),
            Err(error) if error.kind() == ErrorKind::Medium => {
                return end_of_chain("cannot be read");
            }
            Err(error) => return Err(error),
        };
        match MBRHeader::read_from(&mut Cursor::new(&bytes[..])) {
            Ok(header) => Ok(Some(header)),
            // An extended partition without any logical one need not hold a record.
            Err(_) if lba == self.extended.start && bytes.iter().all(|byte| *byte == 0) => Ok(None),
            Err(_) => end_of_chain("is damaged"),
        }
    }
}

fn is_used(entry: &MBRPartitionEntry) -> bool {
    entry.sys != 0 && entry.sectors > 0
}

/// The three types that the kernel follows.
fn is_extended(entry: &MBRPartitionEntry) -> bool {
    matches!(entry.sys, 0x05 | 0x0f | 0x85)
}

fn partition(number: u32, extent: Extent, sys: u8, sector: u64) -> Partition {
    let kind = match sys {
        0x01 | 0x04 | 0x06 | 0x0e => "FAT",
        0x07 => "NTFS/exFAT",
        0x0b | 0x0c => "FAT32",
        0x27 => "Windows recovery",
        0x82 => "Linux swap / Solaris",
        0x83 => "Linux",
        0x86 | 0x87 => "NTFS volume set",
        0x88 => "Linux plaintext",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xa6 => "OpenBSD",
        0xa8 => "Darwin UFS",
        0xa9 => "NetBSD",
        0xaf => "HFS / HFS+",
        0xbf => "Solaris",
        0xda => "non-FS data",
        0xea => "Linux extended boot",
        0xef => "EFI system",
        0xfb => "VMware VMFS",
        0xfc => "VMware swap",
        0xfd => "Linux RAID autodetect",
        _ => "unknown",
    };
    // At most 34 bits of sectors of at most 2^32 bytes: 66 bits in theory, so saturate rather than trust.
    let range = extent.start.saturating_mul(sector)..extent.end().saturating_mul(sector);
    Partition { number, range, kind: format!("{sys:#04x} {kind}"), label: String::new() }
}
