//! GUID partition tables (UEFI 2.10, section 5.3).
//!
//! The crate `gpt` parses headers and entries and checks both CRCs, but it believes a header whose CRC is right:
//! so each field is checked first, and the crate sees only a copy of the sectors in question.

use std::io::Cursor;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderError, read_header_from_arbitrary_device};
use gpt::partition::file_read_partitions;

use super::Partition;
use crate::block::{self, BlockSource};
use crate::error::{ErrorKind, Result};

/// `SizeOfPartitionEntry`: the specification allows multiples, which nothing uses and the crate cannot read.
const ENTRY_SIZE: u32 = 128;

/// The most entries that are read; every tool makes 128.
const ENTRIES_MAX: u32 = 4096;

/// Why there is no table at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Nothing there says that it is a GPT.
    Absent,
    /// It is one, but it cannot be trusted; why. Names the other copy where the header itself is sound.
    Damaged { why: String, other_copy: Option<u64> },
}

impl Flaw {
    fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged { why: why.into(), other_copy: None }
    }
}

/// Reads the table, from its backup where the primary copy is damaged, or where it is absent although
/// `expected`. `None`: there is none.
///
/// # Errors
/// Those of reading, except for blocks that cannot be read.
pub(super) async fn read(
    device: &dyn BlockSource,
    sector: u32,
    expected: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<Partition>>> {
    let (why, other_copy) = match copy(device, sector, 1).await? {
        Ok(partitions) => return Ok(Some(partitions)),
        Err(Flaw::Absent) if !expected => return Ok(None),
        Err(Flaw::Absent) => (None, None),
        Err(Flaw::Damaged { why, other_copy }) => (Some(why), other_copy),
    };
    let last = (device.len() / u64::from(sector)).saturating_sub(1);
    for lba in other_copy.into_iter().chain([last]).filter(|lba| *lba > 1) {
        if let Ok(partitions) = copy(device, sector, lba).await? {
            let why = why.as_deref().unwrap_or("it is missing");
            warnings.push(format!("the primary GPT cannot be used ({why}): the backup was used"));
            return Ok(Some(partitions));
        }
    }
    if let Some(why) = why {
        warnings.push(format!("the GPT cannot be used ({why}), and no backup was found"));
    }
    Ok(None)
}

/// Reads only the backup in the last sector: for a device whose start says nothing at all.
pub(super) async fn read_backup(
    device: &dyn BlockSource,
    sector: u32,
) -> Result<Option<Vec<Partition>>> {
    let last = (device.len() / u64::from(sector)).saturating_sub(1);
    Ok(if last > 1 { copy(device, sector, last).await?.ok() } else { None })
}

/// Reads the copy of the table whose header stands at `lba`.
async fn copy(
    device: &dyn BlockSource,
    sector: u32,
    lba: u64,
) -> Result<std::result::Result<Vec<Partition>, Flaw>> {
    let sector = u64::from(sector);
    if lba >= device.len() / sector {
        return Ok(Err(Flaw::Absent));
    }
    let header = fetch(device, lba.checked_mul(sector), 512).await?;
    let header = match header.and_then(|bytes| check_header(&bytes, lba)) {
        Ok(header) => header,
        Err(flaw) => return Ok(Err(flaw)),
    };
    // At most ENTRIES_MAX x ENTRY_SIZE: 512 KiB.
    let len = (header.num_parts * header.part_size) as usize;
    let entries = fetch(device, header.part_start.checked_mul(sector), len).await?;
    Ok(entries.and_then(|entries| parse_entries(&entries, &header, sector)).map_err(|flaw| {
        let other_copy = Some(header.backup_lba);
        match flaw {
            Flaw::Damaged { why, .. } => Flaw::Damaged { why, other_copy },
            Flaw::Absent => Flaw::Absent,
        }
    }))
}

/// Reads bytes that a table speaks of; where they do not exist or cannot be read, that is a flaw of the table.
async fn fetch(
    device: &dyn BlockSource,
    offset: Option<u64>,
    len: usize,
) -> Result<std::result::Result<Vec<u8>, Flaw>> {
    let Some(offset) = offset.filter(|at| block::check_range(device.len(), *at, len).is_ok())
    else {
        return Ok(Err(Flaw::damaged("it lies past the end of the device")));
    };
    match block::read(device, offset, len).await {
        Ok(bytes) => Ok(Ok(bytes.into_bytes().to_vec())),
        Err(error) if error.kind() == ErrorKind::Medium => {
            Ok(Err(Flaw::damaged("it cannot be read")))
        }
        Err(error) => Err(error),
    }
}

/// Parses the header in `bytes`, read from `lba`, and checks what the crate takes on trust.
fn check_header(bytes: &[u8], lba: u64) -> std::result::Result<Header, Flaw> {
    // The crate looks in the second sector of what it gets.
    let mut copy = vec![0; 512];
    copy.extend_from_slice(bytes);
    let header =
        match read_header_from_arbitrary_device(&mut Cursor::new(copy), LogicalBlockSize::Lb512) {
            Ok(header) => header,
            Err(HeaderError::InvalidGptSignature) => return Err(Flaw::Absent),
            Err(HeaderError::InvalidCRC32Checksum) => {
                return Err(Flaw::damaged("the checksum of its header is wrong"));
            }
            Err(error) => return Err(Flaw::damaged(error.to_string())),
        };
    let (entries, size) = (header.num_parts, header.part_size);
    if header.current_lba != lba {
        let own = header.current_lba;
        return Err(Flaw::damaged(format!("its header at sector {lba} belongs to sector {own}")));
    }
    if size != ENTRY_SIZE {
        return Err(Flaw::damaged(format!("its entries have {size} bytes, not {ENTRY_SIZE}")));
    }
    if entries == 0 || entries > ENTRIES_MAX {
        return Err(Flaw::damaged(format!("it has {entries} entries, not 1 to {ENTRIES_MAX}")));
    }
    if header.first_usable > header.last_usable {
        return Err(Flaw::damaged("the range for its partitions runs backwards"));
    }
    Ok(header)
}

/// Parses the table of entries, checking its CRC.
fn parse_entries(
    entries: &[u8],
    header: &Header,
    sector: u64,
) -> std::result::Result<Vec<Partition>, Flaw> {
    // The crate seeks to `part_start`; here the entries are all there is.
    let header = Header { part_start: 0, ..header.clone() };
    let parsed = file_read_partitions(&mut Cursor::new(entries), &header, LogicalBlockSize::Lb512)
        .map_err(|error| Flaw::damaged(error.to_string()))?;
    let partitions = parsed.into_iter().filter(|(_, entry)| !entry.part_type_guid.guid.is_nil());
    Ok(partitions
        .map(|(number, entry)| {
            let first = entry.first_lba.saturating_mul(sector);
            let end = entry.last_lba.saturating_add(1).saturating_mul(sector);
            let kind = type_name(&entry.part_type_guid.guid.to_string());
            // A partition that runs backwards is empty.
            Partition { number, range: first..end.max(first), kind, label: entry.name }
        })
        .collect())
}

/// The name of a partition type, or the GUID itself.
fn type_name(guid: &str) -> String {
    let name = match guid {
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" => "EFI system",
        "21686148-6449-6e6f-744e-656564454649" => "BIOS boot",
        "e3c9e316-0b5c-4db8-817d-f92df00215ae" => "Microsoft reserved",
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7" => "Microsoft basic data",
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac" => "Windows recovery",
        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3" => "Windows LDM metadata",
        "af9b60a0-1431-4f62-bc68-3311714a69ad" => "Windows LDM data",
        "e75caf8f-f680-4cee-afa3-b001e56efc2d" => "Windows storage spaces",
        "0fc63daf-8483-4772-8e79-3d69d8477de4" => "Linux filesystem",
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => "Linux swap",
        "e6d6d379-f507-44c2-a23c-238f2a3df928" => "Linux LVM",
        "a19d880f-05fc-4d3b-a006-743f0f84911e" => "Linux RAID",
        "44479540-f297-41b2-9af7-d131d5f0458a" => "Linux root (x86)",
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" => "Linux root (x86-64)",
        "69dad710-2ce4-4e3c-b16c-21a1d49abed3" => "Linux root (ARM)",
        "b921b045-1df0-41c3-af44-4c6f280d3fae" => "Linux root (ARM-64)",
        "933ac7e1-2eb4-4f13-b844-0e14e2aef915" => "Linux home",
        "3b8f8425-20e0-4f3b-907f-1a25a76f98e8" => "Linux server data",
        "bc13c2ff-59e6-4262-a352-b275fd6f7172" => "Linux extended boot",
        "7ffec5c9-2d00-49b7-8941-3ea10a5586b7" => "Linux dm-crypt",
        "ca7d7ccb-63ed-4c53-861c-1742536059cc" => "Linux LUKS",
        "8da63339-0007-60c0-c436-083ac8230908" => "Linux reserved",
        "aa31e02a-400f-11db-9590-000c2911d1b8" => "VMware VMFS",
        "9d275380-40ad-11db-bf97-000c2911d1b8" => "VMware core dump",
        "9198effc-31c0-11db-8f78-000c2911d1b8" => "VMware reserved",
        "48465300-0000-11aa-aa11-00306543ecac" => "Apple HFS+",
        "7c3457ef-0000-11aa-aa11-00306543ecac" => "Apple APFS",
        "516e7cb6-6ecf-11d6-8ff8-00022d09712b" => "FreeBSD UFS",
        "516e7cba-6ecf-11d6-8ff8-00022d09712b" => "FreeBSD ZFS",
        "6a898cc3-1dd2-11b2-99a6-080020736631" => "Solaris /usr or ZFS",
        guid => guid,
    };
    name.to_owned()
}
