//! Directory blocks (kernel: `struct ext4_dir_entry_2`).

use super::checksum::Crc32c;
use super::superblock::Superblock;
use super::{corrupt, htree, le16, le32};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Ino};

const HEADER_LEN: usize = 8;
/// A checksum poses as an entry at the end of a block (`struct ext4_dir_entry_tail`).
const TAIL_LEN: usize = 12;
const TAIL_TYPE: u8 = 0xDE;

/// An entry in use, within its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// The inode.
    pub ino: Ino,
    /// The name as it is stored, not empty. Encrypted names may hold any bytes.
    pub name: &'a [u8],
    /// What lies between the name and the next entry.
    pub rest: &'a [u8],
    /// The type, where the file system stores it and it is known.
    pub file_type: Option<FileType>,
    /// Where the next entry begins in the block.
    pub next: usize,
}

/// What a directory block is, which decides where its checksum stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Entries.
    Leaf,
    /// A node of the hash index, which poses as a block of unused entries.
    Index,
}

/// Tells an index node from a leaf as the kernel does (`__ext4_read_dirblock`); `indexed` says whether the directory
/// has an index, `first` whether this is its first block.
pub fn kind(block: &[u8], indexed: bool, first: bool) -> BlockKind {
    let whole_block_unused =
        le32(block, 0) == Some(0) && rec_len(block, 0).is_some_and(|len| len == block.len());
    match indexed && (first || whole_block_unused) {
        true => BlockKind::Index,
        false => BlockKind::Leaf,
    }
}

/// Verifies the checksum of a directory block, `seed` being that of the directory's inode.
///
/// # Errors
/// [`ErrorKind::BadChecksum`], also where there is no room for one.
pub fn verify(block: &[u8], kind: BlockKind, seed: Crc32c) -> Result<()> {
    if kind == BlockKind::Index {
        return htree::verify(block, seed);
    }
    let no_tail = || Error::new(ErrorKind::BadChecksum, "no checksum in the directory block");
    let at = block.len().checked_sub(TAIL_LEN).ok_or_else(no_tail)?;
    let tail = &block[at..];
    if tail[..8] != [0, 0, 0, 0, TAIL_LEN as u8, 0, 0, TAIL_TYPE] {
        return Err(no_tail());
    }
    seed.over(&block[..at]).check(le32(tail, 8).ok_or_else(no_tail)?)
}

/// The length of the entry at `at`. Blocks of 64 KiB need 17 bits: 65535 or 0 mean the whole block, and else the
/// two lowest bits, never in use, are the highest ones (kernel: `ext4_rec_len_from_disk`).
fn rec_len(block: &[u8], at: usize) -> Option<usize> {
    let raw = usize::from(le16(block, at.checked_add(4)?)?);
    Some(match raw {
        0 | 0xFFFF if block.len() >= 1 << 16 => block.len(),
        raw if block.len() >= 1 << 16 => (raw & 0xFFFC) | ((raw & 3) << 16),
        raw => raw,
    })
}

/// The entries of a block that begin at or after byte `from`; it may lie within an entry.
///
/// The iterator ends after an error: what follows a damaged entry cannot be found.
pub fn entries<'a>(sb: &'a Superblock, block: &'a [u8], from: usize) -> Entries<'a> {
    Entries { sb, block, at: 0, from }
}

/// See [`entries`].
pub struct Entries<'a> {
    sb: &'a Superblock,
    block: &'a [u8],
    at: usize,
    from: usize,
}

impl<'a> Entries<'a> {
    /// The entry at `at`, or `None` for one that is not in use, and where the next one begins.
    fn entry(&self, at: usize) -> Result<(Option<Dirent<'a>>, usize)> {
        let bad = |what: String| corrupt(format!("directory entry at byte {at}: {what}"));
        let block = self.block;
        let header = block
            .get(at..)
            .filter(|rest| rest.len() >= HEADER_LEN)
            .ok_or_else(|| bad("no room for it in its block".into()))?;
        let len = rec_len(block, at).expect("the header is there");
        let name_len = usize::from(header[6]);
        let next = at + len;
        if len < HEADER_LEN + 4 || len % 4 != 0 || next > block.len() || len < HEADER_LEN + name_len
        {
            return Err(bad(format!("length {len}, its name having {name_len} bytes")));
        }
        let ino = le32(header, 0).expect("the header is there");
        if ino == 0 {
            return Ok((None, next));
        }
        if ino > self.sb.inodes_count {
            return Err(bad(format!("inode {ino}, of {}", self.sb.inodes_count)));
        }
        let (name, rest) = header[HEADER_LEN..len].split_at(name_len);
        if name.is_empty() {
            return Err(bad("no name".into()));
        }
        let file_type = file_type(self.sb, header[7]);
        Ok((Some(Dirent { ino: Ino(u64::from(ino)), name, rest, file_type, next }), next))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Dirent<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.block.len() {
            let at = self.at;
            match self.entry(at) {
                Ok((entry, next)) => {
                    self.at = next;
                    match entry {
                        Some(entry) if at >= self.from => return Some(Ok(entry)),
                        _ => {}
                    }
                }
                Err(error) => {
                    self.at = self.block.len();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

fn file_type(sb: &Superblock, raw: u8) -> Option<FileType> {
    use super::features::Incompat;
    if !sb.features.incompat.contains(Incompat::FILETYPE) {
        return None;
    }
    Some(match raw {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => return None,
    })
}

/// The contents of a directory that lie in its inode, as a block like others: the parent's number, where a block has two
/// entries, then entries.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub fn inline_block(ino: Ino, data: &[u8]) -> Result<Vec<u8>> {
    let (parent, entries) =
        data.split_at_checked(4).ok_or_else(|| corrupt("a directory without a parent"))?;
    const DIRECTORY: u8 = 2;
    let mut block = Vec::with_capacity(24 + entries.len());
    // Inode numbers have 32 bits on the disk.
    block.extend_from_slice(&(ino.0 as u32).to_le_bytes());
    block.extend_from_slice(&[12, 0, 1, DIRECTORY, b'.', 0, 0, 0]);
    block.extend_from_slice(parent);
    block.extend_from_slice(&[12, 0, 2, DIRECTORY, b'.', b'.', 0, 0]);
    block.extend_from_slice(entries);
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::super::sample::superblock;
    use super::*;

    fn entry(ino: u32, len: u16, name: &[u8]) -> Vec<u8> {
        let mut entry = ino.to_le_bytes().to_vec();
        entry.extend_from_slice(&len.to_le_bytes());
        entry.extend_from_slice(&[name.len() as u8, 1]);
        entry.extend_from_slice(name);
        entry.resize(usize::from(len), 0);
        entry
    }

    fn names(block: &[u8], from: usize) -> Vec<Result<Vec<u8>, String>> {
        entries(&superblock(), block, from)
            .map(|entry| entry.map(|e| e.name.to_vec()).map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn unused_entries_are_passed_over_and_a_listing_goes_on_in_the_middle() {
        let block =
            [entry(12, 16, b"first"), entry(0, 12, b"x"), entry(13, 20, b"second")].concat();
        assert_eq!(names(&block, 0), [Ok(b"first".to_vec()), Ok(b"second".to_vec())]);
        assert_eq!(names(&block, 1), [Ok(b"second".to_vec())]);
        assert_eq!(names(&block, 16), [Ok(b"second".to_vec())]);
    }

    #[test]
    fn a_damaged_entry_ends_its_block() {
        let good = entry(12, 16, b"first");
        for (at, value, says) in [
            (4, 0, "length 0"),
            (4, 10, "length 10"),
            (4, 8, "length 8"),
            (4, 24, "length 24"),
            (6, 9, "its name having 9 bytes"),
            (6, 0, "no name"),
            (3, 1, "inode 16777228"),
        ] {
            let mut block = [good.clone(), good.clone()].concat();
            block.truncate(32);
            block[16 + at] = value;
            let found = names(&block, 0);
            assert_eq!(found.len(), 2, "{says}");
            assert!(found[1].as_ref().unwrap_err().contains(says), "{found:?}");
        }
    }

    #[test]
    fn entries_of_64_kib_blocks_have_longer_lengths() {
        let mut block = vec![0; 1 << 16];
        block[4..6].copy_from_slice(&0xFFFF_u16.to_le_bytes());
        assert_eq!(rec_len(&block, 0), Some(1 << 16));
        block[4..6].copy_from_slice(&0_u16.to_le_bytes());
        assert_eq!(rec_len(&block, 0), Some(1 << 16));
        block[4..6].copy_from_slice(&0xFFF4_u16.to_le_bytes());
        assert_eq!(rec_len(&block, 0), Some(0xFFF4));
        assert_eq!(rec_len(&block[..4096], 0), Some(0xFFF4));
    }
}
