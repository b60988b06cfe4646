//! Extended attributes (kernel: `fs/ext4/xattr.h`): in the inode, in a block of their own.

use super::checksum::{Crc32c, mismatch};
use super::superblock::Superblock;
use super::{FsBlock, acl, corrupt, le16, le32};
use crate::error::{Error, ErrorKind, Result};

const MAGIC: u32 = 0xEA02_0000;
const INODE_HEADER_LEN: usize = 4;
const BLOCK_HEADER_LEN: usize = 32;
const BLOCK_CHECKSUM_AT: usize = 0x10;
const ENTRY_LEN: usize = 16;

const INDEX_ACL_ACCESS: u8 = 2;
const INDEX_ACL_DEFAULT: u8 = 3;
const INDEX_SYSTEM: u8 = 7;

/// What does not fit into `i_block` of contents that lie in the inode.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub(super) fn inline_rest(tail: &[u8]) -> Result<Option<&[u8]>> {
    let mut entries = parse_inode(tail)?.into_iter();
    let Some(entry) = entries.find(|entry| entry.index == INDEX_SYSTEM && entry.name == b"data")
    else {
        return Ok(None);
    };
    match entry.value {
        Value::Here(value) => Ok(Some(value)),
        Value::Inode(..) => Err(corrupt("inline data outside of its inode")),
    }
}

/// Whether the bytes after an inode's fields begin with attributes.
pub(super) fn has_inode_magic(tail: &[u8]) -> bool {
    le32(tail, 0) == Some(MAGIC)
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Beside its name.
    Here(&'a [u8]),
    /// In an inode of its own, with this number and length.
    Inode(u32, u32),
}

/// An attribute as it stands on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The number of the name's prefix.
    pub index: u8,
    /// The name after its prefix.
    pub name: &'a [u8],
    /// The value.
    pub value: Value<'a>,
    /// The hash over name and value; 0 where none was stored.
    hash: u32,
}

impl Entry<'_> {
    /// The full name; `None` for what is not shown to users: inline data, encryption contexts, prefixes not known.
    pub fn full_name(&self) -> Option<Vec<u8>> {
        let prefix: &[u8] = match self.index {
            1 => b"user.",
            INDEX_ACL_ACCESS => return Some(b"system.posix_acl_access".to_vec()),
            INDEX_ACL_DEFAULT => return Some(b"system.posix_acl_default".to_vec()),
            4 => b"trusted.",
            6 => b"security.",
            8 => b"system.richacl",
            10 => b"gnu.",
            _ => return None,
        };
        Some([prefix, self.name].concat())
    }

    /// Compares the entry's hash with that of its name and a value beside it.
    ///
    /// # Errors
    /// [`ErrorKind::BadChecksum`].
    pub fn check_hash(&self, value: &[u8]) -> Result<()> {
        self.check_words(&value.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        }))
    }

    /// The same for a value in an inode of its own, which counts by its checksum.
    ///
    /// # Errors
    /// [`ErrorKind::BadChecksum`].
    pub fn check_hash_of_inode(&self, checksum: Crc32c) -> Result<()> {
        self.check_words(&std::iter::once(checksum.0))
    }

    /// Kernel: `ext4_xattr_hash_entry`, and `ext4_xattr_hash_entry_signed`, which older kernels used on some machines.
    fn check_words(&self, words: &(impl Iterator<Item = u32> + Clone)) -> Result<()> {
        let hash = |extend: fn(u8) -> u32| {
            let name =
                self.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ extend(*byte));
            words.clone().fold(name, |hash, word| hash.rotate_left(16) ^ word)
        };
        let calculated = hash(u32::from);
        if [0, calculated, hash(|byte| byte as i8 as u32)].contains(&self.hash) {
            return Ok(());
        }
        Err(mismatch(self.hash, calculated))
    }

    /// The value as users see it: ACLs have a form of their own on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for an ACL that is not one.
    pub fn decode(&self, value: &[u8]) -> Result<Vec<u8>> {
        match self.index {
            INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT => acl::to_xattr(value),
            _ => Ok(value.to_vec()),
        }
    }
}

/// The attributes in an inode: `tail` is what follows its fields.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub fn parse_inode(tail: &[u8]) -> Result<Vec<Entry<'_>>> {
    if !has_inode_magic(tail) {
        return Ok(Vec::new());
    }
    let area = &tail[INODE_HEADER_LEN..];
    entries(area, 0)
}

/// The attributes in a block of their own.
///
/// # Errors
/// [`ErrorKind::BadChecksum`], [`ErrorKind::Corrupt`].
pub fn parse_block<'a>(
    block: &'a [u8],
    place: FsBlock,
    seed: Option<Crc32c>,
) -> Result<Vec<Entry<'a>>> {
    if le32(block, 0) != Some(MAGIC) || block.len() < BLOCK_HEADER_LEN {
        return Err(corrupt("no magic number in the attribute block"));
    }
    if le32(block, 8) != Some(1) {
        return Err(corrupt("an attribute \"block\" of several blocks"));
    }
    if let Some(seed) = seed {
        let (before, rest) = block.split_at(BLOCK_CHECKSUM_AT);
        let stored = le32(rest, 0).expect("the header is there");
        seed.over(&place.0.to_le_bytes())
            .over(before)
            .over(&[0; 4])
            .over(&rest[4..])
            .check(stored)?;
    }
    entries(block, BLOCK_HEADER_LEN)
}

/// The entries that begin at `first`; their values lie at offsets from the start of `area`.
fn entries(area: &[u8], first: usize) -> Result<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    let mut at = first;
    loop {
        let bad = |what: &str| corrupt(format!("attribute entry at byte {at}: {what}"));
        // Four zero bytes end the list.
        if le32(area, at).ok_or_else(|| bad("the list has no end"))? == 0 {
            return Ok(entries);
        }
        let header = area.get(at..at + ENTRY_LEN).ok_or_else(|| bad("no room for it"))?;
        let name_len = usize::from(header[0]);
        let name = area
            .get(at + ENTRY_LEN..at + ENTRY_LEN + name_len)
            .ok_or_else(|| bad("no room for its name"))?;
        let inode = le32(header, 4).expect("sixteen bytes");
        let size = le32(header, 8).expect("sixteen bytes");
        let value = match inode {
            0 => {
                let start = usize::from(le16(header, 2).expect("sixteen bytes"));
                usize::try_from(size)
                    .ok()
                    .and_then(|size| area.get(start..start.checked_add(size)?))
                    .map(Value::Here)
                    .ok_or_else(|| bad("its value is out of bounds"))?
            }
            inode => Value::Inode(inode, size),
        };
        let hash = le32(header, 12).expect("sixteen bytes");
        entries.push(Entry { index: header[1], name, value, hash });
        at += (ENTRY_LEN + name_len).next_multiple_of(4);
    }
}

/// Whether `block` may be an attribute block of this file system.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub fn check_place(sb: &Superblock, block: u64) -> Result<FsBlock> {
    match sb.has_blocks(FsBlock(block), 1) {
        true => Ok(FsBlock(block)),
        false => Err(Error::new(
            ErrorKind::Corrupt,
            format!("attribute block {block}, of {}", sb.blocks_count),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tail of an inode with one attribute, its value at `offset` from the first entry.
    fn tail(index: u8, name: &[u8], offset: u16, value: &[u8], hash: u32) -> Vec<u8> {
        let mut tail = MAGIC.to_le_bytes().to_vec();
        tail.extend_from_slice(&[name.len() as u8, index]);
        tail.extend_from_slice(&offset.to_le_bytes());
        tail.extend_from_slice(&[0; 4]);
        tail.extend_from_slice(&(value.len() as u32).to_le_bytes());
        tail.extend_from_slice(&hash.to_le_bytes());
        tail.extend_from_slice(name);
        tail.resize(4 + usize::from(offset), 0);
        tail.extend_from_slice(value);
        tail
    }

    #[test]
    fn an_attribute_has_its_prefix_and_value() {
        let tail = tail(1, b"colour", 40, b"blue", 0);
        let entries = parse_inode(&tail).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].full_name().unwrap(), b"user.colour");
        assert_eq!(entries[0].value, Value::Here(b"blue"));
        assert!(parse_inode(b"none").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_hash_is_noticed() {
        // 'a' is 0x61; the value's one word follows, the first having been rotated by half.
        let hash = 0x0061_0000 ^ u32::from_le_bytes(*b"blue");
        for (stored, sound) in [(hash, true), (0, true), (hash ^ 1, false)] {
            let tail = tail(1, b"a", 40, b"blue", stored);
            let entry = parse_inode(&tail).unwrap()[0];
            assert_eq!(entry.check_hash(b"blue").is_ok(), sound, "{stored:#x}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let good = tail(1, b"colour", 40, b"blue", 0);
        for (at, value, says) in [
            (4, 255, "no room for its name"),
            (6, 41, "its value is out of bounds"),
            (12, 5, "its value is out of bounds"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            let message = parse_inode(&bad).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        let message = parse_inode(&good[..26]).unwrap_err().to_string();
        assert!(message.contains("out of bounds"), "{message}");
    }
}
