//! Partition tables and LVM: a device becomes named volumes, each a [`BlockSource`] of its own.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gpt;
mod lvm;
mod mbr;
mod signature;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::block::{self, BlockSource, Slice};
use crate::error::{ErrorKind, Result};
use mbr::BootRecord;

/// How a device is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// A GUID partition table.
    Gpt,
    /// A master boot record, with logical partitions where there is an extended one.
    Mbr,
    /// No table: the whole device is one volume.
    None,
}

/// What a volume's first blocks say that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// ext2, ext3 or ext4.
    Ext,
    /// A physical volume of LVM2: its logical volumes are listed beside it.
    PhysicalVolume,
    /// Recognised by its signature, but not read here; the name is for people ("XFS", "NTFS").
    Other(&'static str),
    /// No known signature.
    Unknown,
}

/// A named part of a device.
#[derive(Clone)]
pub struct Volume {
    /// `p1`, `p2`, ... as the kernel numbers partitions; `whole` without a table; `vg/lv` for a logical volume, `vg~2/lv`
    /// where a partition or another group has the group's name. No two have the same, nor one that begins another's path.
    pub name: String,
    /// Where it lies on the device, in bytes; `None` for a logical volume, which lies in pieces.
    pub range: Option<Range<u64>>,
    /// How long it claims to be, in bytes: more than its source has where it runs past the end of the device.
    pub size: u64,
    /// Its bytes.
    pub source: Arc<dyn BlockSource>,
    /// What it holds.
    pub content: Content,
    /// The partition's type in words (`Linux filesystem`, `0x83 Linux`), empty where it is no partition.
    pub partition_type: String,
    /// The partition's own name (GPT), empty where it has none.
    pub label: String,
}

/// What was found on a device.
#[derive(Clone)]
pub struct Scan {
    /// The partition table.
    pub table: Table,
    /// All volumes in the order of their numbers.
    pub volumes: Vec<Volume>,
    /// What a person should know: "the primary GPT is damaged, the backup was used".
    pub warnings: Vec<String>,
}

/// A partition as its table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Partition {
    /// As the kernel numbers it.
    number: u32,
    /// In bytes; not checked against the device.
    range: Range<u64>,
    /// Its type in words.
    kind: String,
    /// Its own name.
    label: String,
}

/// The most partitions that are listed (the kernel's limit).
const PARTITIONS_MAX: usize = 256;

/// Finds the partition table and what each volume holds.
///
/// # Errors
/// Only where the device cannot be read; a damaged table is a warning, or no table.
pub async fn scan(device: &Arc<dyn BlockSource>) -> Result<Scan> {
    let mut warnings = Vec::new();
    let (table, mut partitions) = table(device.as_ref(), &mut warnings).await?;
    if table == Table::None {
        let source = Arc::clone(device);
        let content = signature::probe(device.as_ref()).await?;
        let whole = Volume {
            name: "whole".to_owned(),
            range: Some(0..device.len()),
            size: device.len(),
            source,
            content,
            partition_type: String::new(),
            label: String::new(),
        };
        return with_logical_volumes(Scan { table, volumes: vec![whole], warnings }).await;
    }
    partitions.sort_by_key(|partition| partition.number);
    if partitions.len() > PARTITIONS_MAX {
        warnings.push(format!("only the first {PARTITIONS_MAX} partitions are listed"));
        partitions.truncate(PARTITIONS_MAX);
    }
    warn_of_overlaps(&partitions, &mut warnings);
    let heads: Vec<_> = partitions
        .iter()
        .map(|partition| {
            partition.range.start
                ..partition.range.end.min(partition.range.start.saturating_add(signature::HEAD))
        })
        .collect();
    device.prefetch(&heads);
    let mut volumes = Vec::new();
    for partition in partitions {
        volumes.push(volume(device, partition, &mut warnings).await?);
    }
    with_logical_volumes(Scan { table, volumes, warnings }).await
}

/// Adds the logical volumes that the physical ones hold.
async fn with_logical_volumes(mut scan: Scan) -> Result<Scan> {
    let physical = scan
        .volumes
        .iter()
        .filter(|volume| volume.content == Content::PhysicalVolume)
        .map(|volume| (volume.name.clone(), Arc::clone(&volume.source)))
        .collect();
    let taken = scan.volumes.iter().map(|volume| volume.name.clone());
    let found = lvm::assemble(physical, taken).await;
    scan.warnings.extend(found.warnings);
    for (name, source) in found.volumes {
        scan.volumes.push(Volume {
            name,
            range: None,
            size: source.len(),
            content: signature::probe(source.as_ref()).await?,
            source,
            partition_type: String::new(),
            label: String::new(),
        });
    }
    Ok(scan)
}

/// Reads the partition table, if there is one.
async fn table(
    device: &dyn BlockSource,
    warnings: &mut Vec<String>,
) -> Result<(Table, Vec<Partition>)> {
    let head =
        block::read(device, 0, device.len().min(signature::HEAD) as usize).await?.into_bytes();
    let own = device.block_size();
    let record = BootRecord::parse(&head, device.len() / u64::from(own));
    let protective = record.as_ref().is_some_and(BootRecord::is_protective);
    // An image may come from a disk of the other sector size; a GPT tells, a boot record does not.
    for sector in [own, if own == 512 { 4096 } else { 512 }] {
        let Some(partitions) = gpt::read(device, sector, protective, warnings).await? else {
            continue;
        };
        if sector != own {
            warnings
                .push(format!("the GPT counts in sectors of {sector} bytes, the device has {own}"));
        }
        if protective {
            return Ok((Table::Gpt, partitions));
        }
        if record.is_none() {
            warnings
                .push("the GPT has no protective boot record; it was used all the same".to_owned());
            return Ok((Table::Gpt, partitions));
        }
        warnings.push(
            "a GPT that the boot record does not speak of was ignored as a leftover".to_owned(),
        );
        break;
    }
    if let Some(record) = record {
        let partitions = record.partitions(device, warnings).await?;
        if !partitions.is_empty() {
            if signature::near(&head) == Content::Ext {
                warnings.push(
                    "an ext superblock stands before the first partition; it was taken for a leftover".to_owned(),
                );
            }
            return Ok((Table::Mbr, partitions));
        }
        if protective {
            warnings.push("the boot record speaks of a GPT, but none was found".to_owned());
        }
    } else if signature::near(&head) == Content::Unknown {
        for sector in [own, if own == 512 { 4096 } else { 512 }] {
            if let Some(partitions) = gpt::read_backup(device, sector).await? {
                warnings.push(
                    "the start of the device is blank: the backup GPT at its end was used"
                        .to_owned(),
                );
                return Ok((Table::Gpt, partitions));
            }
        }
    }
    Ok((Table::None, Vec::new()))
}

/// Makes a volume of a partition, as far as the device reaches.
async fn volume(
    device: &Arc<dyn BlockSource>,
    partition: Partition,
    warnings: &mut Vec<String>,
) -> Result<Volume> {
    let name = format!("p{}", partition.number);
    let (start, end) = (partition.range.start, partition.range.end);
    let len = device.len();
    if end > len {
        warnings.push(format!(
            "{name} ends at byte {end}, but the device has {len}: what would lie there cannot be read"
        ));
    }
    let source = Slice::new(Arc::clone(device), start.min(len)..end.min(len), name.as_str())?;
    let content = match signature::probe(&source).await {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::Medium => {
            warnings.push(error.to_string());
            Content::Unknown
        }
        Err(error) => return Err(error),
    };
    Ok(Volume {
        name,
        size: end.saturating_sub(start),
        range: Some(partition.range),
        source: Arc::new(source),
        content,
        partition_type: partition.kind,
        label: partition.label,
    })
}

fn warn_of_overlaps(partitions: &[Partition], warnings: &mut Vec<String>) {
    let mut by_start: Vec<_> =
        partitions.iter().filter(|partition| !partition.range.is_empty()).collect();
    by_start.sort_by_key(|partition| partition.range.start);
    for pair in by_start.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            warnings.push(format!("p{} and p{} overlap", pair[0].number, pair[1].number));
        }
    }
}
