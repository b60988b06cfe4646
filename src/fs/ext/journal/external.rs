//! A journal on a device of its own: an ext superblock with the feature `journal_dev`, and the log behind it.

use std::sync::Arc;

use bytes::Bytes;

use super::log::Log;
use super::{LogRun, Recovery, hint, recover_from};
use crate::block::{self, BlockSource};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::ext::layout::checksum::Crc32c;

const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;
const EXT_MAGIC: u16 = 0xEF53;
const INCOMPAT_JOURNAL_DEV: u32 = 0x0008;
const RO_COMPAT_METADATA_CSUM: u32 = 0x0400;

/// As [`super::recover`], with the log on `device`, which must be the journal called `uuid`.
///
/// # Errors
/// As [`super::recover`]; [`ErrorKind::InvalidInput`] where the device is no journal, or that of another file system.
pub async fn recover_external(
    source: Arc<dyn BlockSource>,
    device: Arc<dyn BlockSource>,
    uuid: [u8; 16],
    block_size: u32,
) -> Result<Recovery> {
    let blocks = blocks_of(device.as_ref(), uuid, block_size).await?;
    // Log blocks are counted from the start of the device; the log begins after the ext superblock's block.
    let runs = vec![LogRun { log_block: 0, fs_block: 0, length: blocks }];
    let superblock_at = if block_size == 1024 { 2 } else { 1 };
    let log = Log::new(device, runs, block_size)?;
    recover_from(source, log, superblock_at, block_size).await.map_err(hint)
}

async fn blocks_of(device: &dyn BlockSource, uuid: [u8; 16], block_size: u32) -> Result<u32> {
    let refuse = |kind, what: String| {
        Err(Error::new(kind, format!("journal device: {what}")).with_hint(
            "`--journal-device` takes the device that the file system's journal lies on",
        ))
    };
    if device.len() < SUPERBLOCK + SUPERBLOCK_LEN as u64 {
        return refuse(ErrorKind::InvalidInput, format!("only {} bytes long", device.len()));
    }
    let bytes = block::read(device, SUPERBLOCK, SUPERBLOCK_LEN).await?.into_bytes();
    let magic = u16::from_le_bytes([bytes[0x38], bytes[0x39]]);
    if magic != EXT_MAGIC || le32(&bytes, 0x60) & INCOMPAT_JOURNAL_DEV == 0 {
        return refuse(ErrorKind::InvalidInput, "this is not an external journal".into());
    }
    let found: [u8; 16] = bytes[0x68..0x78].try_into().expect("16 bytes");
    if found != uuid {
        let (found, wanted) = (uuid::Uuid::from_bytes(found), uuid::Uuid::from_bytes(uuid));
        return refuse(
            ErrorKind::InvalidInput,
            format!("this is journal {found}, and the file system uses {wanted}"),
        );
    }
    let checksum = Crc32c::START.over(&bytes[..0x3FC]).0;
    if le32(&bytes, 0x64) & RO_COMPAT_METADATA_CSUM != 0 && checksum != le32(&bytes, 0x3FC) {
        return refuse(ErrorKind::BadChecksum, "its superblock does not match its checksum".into());
    }
    let log_block_size = le32(&bytes, 0x18);
    if 1024_u32.checked_shl(log_block_size) != Some(block_size) {
        return refuse(
            ErrorKind::Corrupt,
            format!("blocks of 2^{log_block_size} KiB in a file system of {block_size} bytes"),
        );
    }
    let on_device = device.len() / u64::from(block_size);
    // The upper half of the count is of no interest: the log counts its blocks in 32 bits.
    Ok(le32(&bytes, 0x04).min(u32::try_from(on_device).unwrap_or(u32::MAX)))
}

/// `at` lies within the superblock, by its being a constant.
fn le32(bytes: &Bytes, at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
