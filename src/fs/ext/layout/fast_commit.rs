//! Fast commits (kernel: `fs/ext4/fast_commit.h`), little-endian: what changed since the last full transaction, told
//! tag by tag.

use super::checksum::Crc32c;
use super::{FsBlock, le16, le32};
use crate::error::{Error, ErrorKind, Result};

const TAG_HEADER_LEN: usize = 4;
/// `EXT4_GOOD_OLD_INODE_SIZE`: no inode is shorter.
const MIN_INODE_LEN: usize = 128;
const NAME_MAX: usize = 255;
/// `EXT_INIT_MAX_LEN`: a longer extent is allocated but not written.
const INIT_MAX_LEN: u16 = 0x8000;

/// The kinds of tags (`EXT4_FC_TAG_*`).
mod tag {
    pub(super) const ADD_RANGE: u16 = 1;
    pub(super) const DEL_RANGE: u16 = 2;
    pub(super) const CREAT: u16 = 3;
    pub(super) const LINK: u16 = 4;
    pub(super) const UNLINK: u16 = 5;
    pub(super) const INODE: u16 = 6;
    pub(super) const PAD: u16 = 7;
    pub(super) const TAIL: u16 = 8;
    pub(super) const HEAD: u16 = 9;
}

/// One change. Numbers are as they stand on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// File blocks lie in these blocks now.
    AddRange {
        /// The inode.
        ino: u32,
        /// The first file block.
        first: u32,
        /// How many, never 0.
        len: u32,
        /// Where the first one lies; `None`: allocated but not written, which reads as zeros.
        place: Option<FsBlock>,
    },
    /// File blocks lie nowhere now.
    DelRange {
        /// The inode.
        ino: u32,
        /// The first file block.
        first: u32,
        /// How many, never 0.
        len: u32,
    },
    /// A name for a new inode.
    Create(Dentry),
    /// One more name for an inode.
    Link(Dentry),
    /// A name taken away.
    Unlink(Dentry),
    /// The fields of an inode.
    Inode {
        /// The inode.
        ino: u32,
        /// Its first bytes, at least 128: all but the extended attributes, and those too where it has inline data.
        raw: Box<[u8]>,
    },
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dentry {
    /// The directory.
    pub parent: u32,
    /// What the name stands for.
    pub ino: u32,
    /// The name, 1 to 255 bytes.
    pub name: Box<[u8]>,
}

/// Takes the blocks of the fast-commit area one after the other and keeps what is complete (kernel:
/// `ext4_fc_replay_scan`).
#[derive(Debug)]
pub struct Scanner {
    /// The number of the transaction that the changes belong to.
    sequence: u32,
    begun: bool,
    crc: Crc32c,
    pending: Vec<Change>,
    found: Scanned,
}

/// What the area holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The changes of all complete fast commits, in order.
    pub changes: Vec<Change>,
    /// How many fast commits are complete.
    pub commits: u32,
    /// Whether one more was begun, or one does not match its checksum. A fast commit that was being written looks like that
    /// as well.
    pub torn: bool,
}

/// Why the scan stopped at a tag: nothing that follows counts.
struct End;

impl Scanner {
    /// A scanner for changes after the last full transaction; `sequence` is the number that the next one would have.
    pub fn new(sequence: u32) -> Self {
        Self {
            sequence,
            begun: false,
            crc: Crc32c(0),
            pending: Vec::new(),
            found: Scanned::default(),
        }
    }

    /// Fast commits complete so far.
    pub fn commits(&self) -> u32 {
        self.found.commits
    }

    /// What was found.
    pub fn finish(self) -> Scanned {
        let Self { begun, mut found, .. } = self;
        found.torn |= begun && found.commits == 0;
        found
    }

    /// Takes the next block; `false`: it ends the fast commits.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for features that are not known.
    pub fn block(&mut self, block: &[u8]) -> Result<bool> {
        // Remains of other transactions are of no interest.
        if !self.begun && le16(block, 0) != Some(tag::HEAD) {
            return Ok(false);
        }
        let mut at = 0;
        while let (Some(kind), Some(len)) = (le16(block, at), le16(block, at + 2)) {
            let end = at + TAG_HEADER_LEN + usize::from(len);
            let Some(whole) = block.get(at..end) else { return Ok(false) };
            if self.tag(kind, whole)?.is_err() {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Takes one tag, its header included.
    fn tag(&mut self, kind: u16, whole: &[u8]) -> Result<Result<(), End>> {
        let value = &whole[TAG_HEADER_LEN..];
        let numbers = (le32(value, 0), le32(value, 4));
        let change = match (kind, numbers) {
            (tag::PAD, _) => None,
            (tag::HEAD, (Some(features), Some(sequence))) if value.len() == 8 => {
                if features != 0 {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("journal: fast commit features {features:#x} are not supported"),
                    ));
                }
                if sequence != self.sequence {
                    return Ok(Err(End));
                }
                self.begun = true;
                None
            }
            (tag::TAIL, (Some(sequence), Some(crc))) => {
                let sum = self.crc.over(&whole[..TAG_HEADER_LEN + 4]);
                return Ok(self.tail(sequence, sum == Crc32c(crc)));
            }
            _ => match change(kind, value) {
                Some(change) => Some(change),
                None => return Ok(Err(End)),
            },
        };
        self.pending.extend(change);
        self.crc = self.crc.over(whole);
        Ok(Ok(()))
    }

    fn tail(&mut self, sequence: u32, sound: bool) -> Result<(), End> {
        if sequence != self.sequence {
            return Err(End);
        }
        if !sound {
            self.found.torn = true;
            return Err(End);
        }
        self.crc = Crc32c(0);
        self.found.changes.append(&mut self.pending);
        self.found.commits += 1;
        Ok(())
    }
}

/// The change that a tag tells; `None` for one that cannot be (kernel: `ext4_fc_value_len_isvalid`).
fn change(kind: u16, value: &[u8]) -> Option<Change> {
    let ino = le32(value, 0)?;
    Some(match kind {
        tag::ADD_RANGE if value.len() == 16 => {
            let (len, written) = match le16(value, 8)? {
                len @ 0..=INIT_MAX_LEN => (len, true),
                len => (len - INIT_MAX_LEN, false),
            };
            let block = FsBlock(u64::from(le16(value, 10)?) << 32 | u64::from(le32(value, 12)?));
            Change::AddRange {
                ino,
                first: le32(value, 4)?,
                len: Some(u32::from(len)).filter(|len| *len > 0)?,
                place: written.then_some(block),
            }
        }
        tag::DEL_RANGE if value.len() == 12 => Change::DelRange {
            ino,
            first: le32(value, 4)?,
            len: le32(value, 8).filter(|len| *len > 0)?,
        },
        tag::CREAT | tag::LINK | tag::UNLINK => {
            let name = value.get(8..).filter(|name| (1..=NAME_MAX).contains(&name.len()))?;
            let dentry = Dentry { parent: ino, ino: le32(value, 4)?, name: name.into() };
            match kind {
                tag::CREAT => Change::Create(dentry),
                tag::LINK => Change::Link(dentry),
                _ => Change::Unlink(dentry),
            }
        }
        tag::INODE => {
            let raw = value.get(4..).filter(|raw| raw.len() >= MIN_INODE_LEN)?;
            Change::Inode { ino, raw: raw.into() }
        }
        _ => return None,
    })
}

#[cfg(test)]
pub(in crate::fs::ext) mod tests {
    use super::*;

    pub(in crate::fs::ext) const SIZE: usize = 1024;

    /// Fast commits as the kernel writes them, a block each.
    pub(in crate::fs::ext) struct Writer {
        sequence: u32,
        crc: Crc32c,
        block: Vec<u8>,
        pub(in crate::fs::ext) blocks: Vec<Vec<u8>>,
    }

    impl Writer {
        pub(in crate::fs::ext) fn new(sequence: u32) -> Self {
            let mut writer =
                Self { sequence, crc: Crc32c(0), block: Vec::new(), blocks: Vec::new() };
            writer.put(tag::HEAD, &[0_u32.to_le_bytes(), sequence.to_le_bytes()].concat());
            writer
        }

        fn put(&mut self, kind: u16, value: &[u8]) {
            let tag = [&kind.to_le_bytes(), &(value.len() as u16).to_le_bytes(), value].concat();
            self.crc = self.crc.over(&tag);
            self.block.extend(tag);
        }

        pub(in crate::fs::ext) fn unlink(&mut self, parent: u32, ino: u32, name: &[u8]) {
            let value = [&parent.to_le_bytes(), &ino.to_le_bytes(), name].concat();
            self.put(tag::UNLINK, &value);
        }

        pub(in crate::fs::ext) fn tail(&mut self) {
            let len = SIZE - self.block.len() - TAG_HEADER_LEN;
            let mut tag = [tag::TAIL.to_le_bytes(), (len as u16).to_le_bytes()].concat();
            tag.extend(self.sequence.to_le_bytes());
            let crc = self.crc.over(&tag);
            tag.extend(crc.0.to_le_bytes());
            self.block.extend(tag);
            self.block.resize(SIZE, 0);
            self.crc = Crc32c(0);
            self.blocks.push(std::mem::take(&mut self.block));
        }
    }

    /// Three fast commits of one change each.
    fn three() -> Vec<Vec<u8>> {
        let mut writer = Writer::new(7);
        for name in [b"a", b"b", b"c"] {
            writer.unlink(2, 12, name);
            writer.tail();
        }
        writer.blocks
    }

    fn scan(sequence: u32, blocks: &[Vec<u8>]) -> Scanned {
        let mut scanner = Scanner::new(sequence);
        for block in blocks {
            if !scanner.block(block).unwrap() {
                break;
            }
        }
        scanner.finish()
    }

    fn found(scanned: &Scanned) -> (u32, usize, bool) {
        (scanned.commits, scanned.changes.len(), scanned.torn)
    }

    #[test]
    fn all_that_is_complete_counts() {
        let scanned = scan(7, &three());
        assert_eq!(found(&scanned), (3, 3, false));
        let name: Box<[u8]> = b"b"[..].into();
        assert_eq!(scanned.changes[1], Change::Unlink(Dentry { parent: 2, ino: 12, name }));
    }

    #[test]
    fn of_another_transaction_nothing_counts_and_nothing_is_said() {
        assert_eq!(found(&scan(8, &three())), (0, 0, false));
        assert_eq!(found(&scan(7, &[vec![0; SIZE]])), (0, 0, false));
        assert_eq!(found(&scan(7, &[])), (0, 0, false));
        // An older and longer life of the area behind the newer one.
        let mut blocks = three();
        let mut newer = Writer::new(8);
        newer.tail();
        blocks[0] = newer.blocks.remove(0);
        assert_eq!(found(&scan(8, &blocks)), (1, 0, false));
    }

    #[test]
    fn a_torn_one_ends_them_with_a_word() {
        for (block, commits) in [(0, 0), (1, 1), (2, 2)] {
            let mut blocks = three();
            blocks[block][22] ^= 1;
            let scanned = scan(7, &blocks);
            assert_eq!(found(&scanned), (commits, commits as usize, true));
        }
        // The first one begun, and its end not written: here the kernel does not mount.
        assert_eq!(found(&scan(7, &[three()[0][..12].to_vec()])), (0, 0, true));
    }

    #[test]
    fn what_no_kernel_writes_ends_them() {
        for (at, value) in [(12, 10), (12, 0), (14, 8), (15, 255), (14, 255)] {
            let mut blocks = three();
            blocks[0][at] = value;
            assert_eq!(found(&scan(7, &blocks)), (0, 0, true), "{value} at {at}");
        }
        let mut blocks = three();
        blocks[0][4] = 1;
        let error = Scanner::new(7).block(&blocks[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn ranges_are_read_as_extents_are() {
        let range = |len: u16| {
            let mut value = [13_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat();
            value.extend([len.to_le_bytes(), 1_u16.to_le_bytes()].concat());
            value.extend(9_u32.to_le_bytes());
            change(tag::ADD_RANGE, &value)
        };
        let add = |len, place| Some(Change::AddRange { ino: 13, first: 5, len, place });
        assert_eq!(range(3), add(3, Some(FsBlock((1 << 32) + 9))));
        assert_eq!(range(0x8000), add(0x8000, Some(FsBlock((1 << 32) + 9))));
        assert_eq!(range(0x8003), add(3, None));
        assert_eq!(range(0), None);
    }
}
