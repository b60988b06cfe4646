//! Partition tables: a device becomes named volumes, each a [`BlockSource`] of its own.

use std::ops::Range;
use std::sync::Arc;

use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};

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
    /// Recognised by its signature, but not read here; the name is for people ("XFS", "LVM2 physical volume").
    Other(&'static str),
    /// No known signature.
    Unknown,
}

/// A named part of a device.
#[derive(Clone)]
pub struct Volume {
    /// `p1`, `p2`, ... as the kernel numbers partitions; `whole` without a table.
    pub name: String,
    /// Where it lies on the device, in bytes.
    pub range: Range<u64>,
    /// Its bytes.
    pub source: Arc<dyn BlockSource>,
    /// What it holds.
    pub content: Content,
    /// The partition's type in words (`Linux filesystem`, `0x83 Linux`), empty without a table.
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

/// Finds the partition table and what each volume holds.
///
/// # Errors
/// Only where the device cannot be read; a damaged table is a warning, or no table.
pub async fn scan(_device: &Arc<dyn BlockSource>) -> Result<Scan> {
    Err(Error::new(ErrorKind::Unsupported, "partition tables are not there yet"))
}
