//! Finds the superblock: the primary one, or a backup where that is damaged.

use super::layout::superblock::{self, Superblock};
use crate::block::{self, BlockSource};
use crate::error::{Error, ErrorKind, Result};

/// A superblock that can be used.
pub(super) struct Found {
    pub(super) sb: Superblock,
    /// Which backup it is, and why it was needed.
    pub(super) backup: Option<String>,
}

const BLOCK_SIZES: [u64; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];
/// The first groups that have backups, with `sparse_super` and without.
const BACKUP_GROUPS: [u64; 9] = [1, 3, 5, 7, 9, 25, 27, 49, 81];

/// The primary superblock, or a backup where that is damaged, or the one in block `chosen`.
///
/// # Errors
/// Those of the primary superblock, where no backup is better.
pub(super) async fn find(source: &dyn BlockSource, chosen: Option<u64>) -> Result<Found> {
    if let Some(block) = chosen {
        return in_block(source, block).await;
    }
    let Some(bytes) = read(source, superblock::OFFSET).await? else {
        let what = format!("{} bytes are too few for an ext2/3/4 file system", source.len());
        return Err(Error::new(ErrorKind::NoFilesystem, what));
    };
    let error = match Superblock::parse(&bytes) {
        Ok(sb) if sb.checksum_ok => return Ok(Found { sb, backup: None }),
        Ok(_) => Error::new(ErrorKind::BadChecksum, "superblock: checksum mismatch"),
        Err(error) => error,
    };
    let Some((sb, block)) = any_backup(source).await? else {
        return Err(error);
    };
    // Without the magic number this may be what remains of a file system that was here once.
    if !superblock::has_magic(&bytes) {
        return Err(error.with_hint(format!(
            "there is a backup superblock in block {block}: `--sb {block}` reads with it"
        )));
    }
    let backup = format!("{error}: the backup in block {block} was used instead");
    Ok(Found { sb, backup: Some(backup) })
}

async fn in_block(source: &dyn BlockSource, block: u64) -> Result<Found> {
    for size in BLOCK_SIZES {
        // The primary one stands at byte 1024, which is a block of its own or a part of block 0.
        let offset = match block {
            0 => superblock::OFFSET,
            block => block.saturating_mul(size),
        };
        let sb = read(source, offset).await?.and_then(|bytes| Superblock::parse(&bytes).ok());
        if let Some(sb) = sb.filter(|sb| sb.checksum_ok && u64::from(sb.block_size) == size) {
            let backup = Some(format!("the superblock in block {block} was used, as asked for"));
            return Ok(Found { sb, backup });
        }
    }
    Err(Error::new(ErrorKind::NoFilesystem, format!("no superblock in block {block}")))
}

/// The first sound backup where mke2fs puts them, and its block.
async fn any_backup(source: &dyn BlockSource) -> Result<Option<(Superblock, u64)>> {
    for size in BLOCK_SIZES {
        for group in BACKUP_GROUPS {
            // A bitmap of one block counts the blocks of a group.
            let block = group * size * 8 + u64::from(size == 1 << 10);
            let Some(bytes) = read(source, block * size).await? else { break };
            let fits = |sb: &Superblock| {
                sb.checksum_ok
                    && u64::from(sb.block_size) == size
                    && u64::from(sb.group_of_copy) == group
            };
            if let Some(sb) = Superblock::parse(&bytes).ok().filter(fits) {
                return Ok(Some((sb, block)));
            }
        }
    }
    Ok(None)
}

/// The bytes of a superblock, where the device reaches that far.
pub(super) async fn read(source: &dyn BlockSource, offset: u64) -> Result<Option<bytes::Bytes>> {
    if block::check_range(source.len(), offset, superblock::SIZE).is_err() {
        return Ok(None);
    }
    Ok(Some(block::read(source, offset, superblock::SIZE).await?.into_bytes()))
}
