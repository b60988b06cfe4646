//! The journal's own structures (the kernel's `include/linux/jbd2.h`), big-endian throughout: its superblock,
//! and the descriptor, revoke and commit blocks of the log.

use bitflags::bitflags;

use super::checksum::Crc32c;
use crate::error::{Error, ErrorKind, Result};

/// The first four bytes of every block of the log that is not a copy of a file-system block.
pub const MAGIC: u32 = 0xC03B_3998;

/// The bytes of the journal superblock that have a meaning; the rest of its block is unused.
pub const SUPERBLOCK_LEN: usize = 1024;

const HEADER_LEN: usize = 12;
/// `struct jbd2_journal_block_tail`: the checksum at the end of descriptor and revoke blocks.
const TAIL_LEN: usize = 4;
const REVOKE_HEADER_LEN: usize = HEADER_LEN + 4;
const UUID_LEN: usize = 16;
const CHECKSUM_TYPE_CRC32: u8 = 1;
const CHECKSUM_TYPE_CRC32C: u8 = 4;
/// What `s_num_fc_blks` means when it is zero.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;

bitflags! {
    /// The features that decide how a log is read: `s_feature_incompat`, and the one compatible feature.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Revoke blocks may occur.
        const REVOKE = 0x01;
        /// Block numbers of 64 bits in tags and revoke records.
        const WIDE = 0x02;
        /// A commit block may have reached the disk before its transaction.
        const ASYNC_COMMIT = 0x04;
        /// CRC32C of every block, 16 bits of it in a tag.
        const CSUM_V2 = 0x08;
        /// CRC32C of every block, all of it in a tag.
        const CSUM_V3 = 0x10;
        /// Fast commits stand behind the log.
        const FAST_COMMIT = 0x20;
        /// CRC32 of a transaction in its commit block (`s_feature_compat`, bit 0).
        const CSUM_V1 = 0x8000_0000;
    }
}

impl Features {
    /// Whether descriptor, revoke and commit blocks and every copy have checksums.
    pub fn block_checksums(self) -> bool {
        self.intersects(Self::CSUM_V2 | Self::CSUM_V3)
    }
}

/// The journal superblock, validated as far as it goes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSuperblock {
    /// Bytes per log block.
    pub block_size: u32,
    /// Blocks in the log, the superblock among them (`s_maxlen`).
    pub max_len: u32,
    /// The first block of the log proper (`s_first`).
    pub first: u32,
    /// The sequence number of the first transaction in the log (`s_sequence`).
    pub sequence: u32,
    /// The block where that transaction starts; zero: the log is empty (`s_start`).
    pub start: u32,
    /// The error the kernel left when it aborted the journal (`s_errno`).
    pub errno: i32,
    /// How to read the log.
    pub features: Features,
    /// The journal's UUID.
    pub uuid: [u8; UUID_LEN],
    /// How many file systems share the log (`s_nr_users`).
    pub users: u32,
    /// Blocks at the end that belong to fast commits.
    pub fast_commit_blocks: u32,
}

impl JournalSuperblock {
    /// Parses the first [`SUPERBLOCK_LEN`] bytes of the journal.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::BadChecksum`], or [`ErrorKind::Unsupported`] with the name of the
    /// feature.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes
            .get(..SUPERBLOCK_LEN)
            .ok_or_else(|| corrupt(format!("only {} bytes long", bytes.len())))?;
        let word = |at| be32(bytes, at).expect("every field lies within the length checked above");
        if word(0) != MAGIC {
            return Err(corrupt(format!("magic {:#010x}, not {MAGIC:#010x}", word(0))));
        }
        let version = match word(4) {
            3 => 1,
            4 => 2,
            other => return Err(corrupt(format!("block type {other}, not 3 or 4"))),
        };
        // A version 1 superblock ends at `s_errno`; what follows is not initialised.
        let features = if version == 1 { Features::default() } else { features(bytes)? };
        if features.block_checksums() {
            check_own_checksum(bytes)?;
        }
        let v2 = |at| if version == 1 { 0 } else { word(at) };
        let mut uuid = [0; UUID_LEN];
        uuid.copy_from_slice(&bytes[0x30..0x40]);
        let fast_commit_blocks = match v2(0x54) {
            _ if !features.contains(Features::FAST_COMMIT) => 0,
            0 => DEFAULT_FAST_COMMIT_BLOCKS,
            blocks => blocks,
        };
        let superblock = Self {
            block_size: word(0x0C),
            max_len: word(0x10),
            first: word(0x14),
            sequence: word(0x18),
            start: word(0x1C),
            errno: i32::from_be_bytes(word(0x20).to_be_bytes()),
            features,
            uuid,
            users: v2(0x40),
            fast_commit_blocks,
        };
        superblock.check_places()?;
        Ok(superblock)
    }

    fn check_places(&self) -> Result<()> {
        let end = self
            .max_len
            .checked_sub(self.fast_commit_blocks)
            .ok_or_else(|| corrupt("more fast commit blocks than blocks"))?;
        if self.first == 0 || self.first >= end {
            return Err(corrupt(format!("the log starts at {} and ends at {end}", self.first)));
        }
        if self.start >= end {
            return Err(corrupt(format!("its live part starts at {} of {end}", self.start)));
        }
        Ok(())
    }

    /// The block after the last one of the log proper: there it goes on at [`Self::first`].
    pub fn end(&self) -> u32 {
        self.max_len - self.fast_commit_blocks
    }

    /// What is needed to read the blocks of this log.
    pub fn format(&self) -> LogFormat {
        LogFormat { features: self.features, seed: crc32c(!0, &self.uuid) }
    }
}

fn features(bytes: &[u8]) -> Result<Features> {
    const CSUM_V1_ON_DISK: u32 = 0x01;
    let word = |at| be32(bytes, at).unwrap_or(0);
    let known = Features::all().difference(Features::CSUM_V1);
    let unknown = word(0x28) & !known.bits();
    if unknown != 0 {
        return Err(unsupported(format!("feature_incompat {unknown:#x}")));
    }
    if word(0x2C) != 0 {
        return Err(unsupported(format!("feature_ro_compat {:#x}", word(0x2C))));
    }
    let mut features = Features::from_bits_truncate(word(0x28));
    features.set(Features::CSUM_V1, word(0x24) & CSUM_V1_ON_DISK != 0);
    let checksums = features & (Features::CSUM_V1 | Features::CSUM_V2 | Features::CSUM_V3);
    if checksums.bits().count_ones() > 1 {
        return Err(corrupt("more than one kind of checksums at once"));
    }
    Ok(features)
}

fn check_own_checksum(bytes: &[u8]) -> Result<()> {
    const CHECKSUM_TYPE_AT: usize = 0x50;
    const CHECKSUM_AT: usize = 0xFC;
    if bytes[CHECKSUM_TYPE_AT] != CHECKSUM_TYPE_CRC32C {
        return Err(unsupported(format!("checksum type {}", bytes[CHECKSUM_TYPE_AT])));
    }
    let found = be32(bytes, CHECKSUM_AT).unwrap_or(0);
    let expected = crc32c_without(!0, bytes, CHECKSUM_AT);
    if found == expected {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadChecksum,
        format!("journal superblock: checksum {found:#010x}, computed {expected:#010x}"),
    ))
}

/// What a block of the log says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// Names the file-system blocks whose copies follow.
    Descriptor,
    /// Ends a transaction.
    Commit,
    /// Lists file-system blocks whose older copies are void.
    Revoke,
    /// Any other number.
    Other(u32),
}

/// The start of every block of the log that is not a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the block is.
    pub block_type: BlockType,
    /// The transaction that it belongs to.
    pub sequence: u32,
}

impl Header {
    /// The header of `block`, unless it has none.
    pub fn parse(block: &[u8]) -> Option<Self> {
        if be32(block, 0)? != MAGIC {
            return None;
        }
        let block_type = match be32(block, 4)? {
            1 => BlockType::Descriptor,
            2 => BlockType::Commit,
            5 => BlockType::Revoke,
            other => BlockType::Other(other),
        };
        Some(Self { block_type, sequence: be32(block, 8)? })
    }
}

/// One copy announced by a descriptor block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The file-system block.
    pub fs_block: u64,
    /// The copy began with [`MAGIC`], which was zeroed in the log.
    pub escaped: bool,
    /// The checksum of the copy; 16 bits of it with [`Features::CSUM_V2`].
    pub checksum: u32,
}

/// How the blocks of a log are read: the features, and the start value of its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFormat {
    features: Features,
    seed: u32,
}

impl LogFormat {
    /// The features.
    pub fn features(self) -> Features {
        self.features
    }

    /// The copies that a descriptor block announces; they follow it in the log in this order.
    pub fn tags(self, block: &[u8]) -> impl Iterator<Item = Tag> + '_ {
        const ESCAPE: u16 = 1;
        const SAME_UUID: u16 = 2;
        const LAST_TAG: u16 = 8;
        let tail = if self.features.block_checksums() { TAIL_LEN } else { 0 };
        let block = &block[..block.len().saturating_sub(tail)];
        let mut at = HEADER_LEN;
        let mut last = false;
        std::iter::from_fn(move || {
            let tag = block.get(at..)?.get(..self.tag_len())?;
            if last {
                return None;
            }
            // Version 3 has 32 bits of flags here, of which the upper half is zero.
            let flags = be16(tag, 6)?;
            let v3 = self.features.contains(Features::CSUM_V3);
            let high = if self.features.contains(Features::WIDE) { be32(tag, 8)? } else { 0 };
            at += self.tag_len() + if flags & SAME_UUID == 0 { UUID_LEN } else { 0 };
            last = flags & LAST_TAG != 0;
            Some(Tag {
                fs_block: u64::from(high) << 32 | u64::from(be32(tag, 0)?),
                escaped: flags & ESCAPE != 0,
                checksum: if v3 { be32(tag, 12)? } else { u32::from(be16(tag, 4)?) },
            })
        })
    }

    /// How many tags a descriptor block of `block_len` bytes holds: the first one is followed by a UUID.
    pub fn tags_per_block(self, block_len: usize) -> usize {
        block_len.saturating_sub(HEADER_LEN + UUID_LEN + TAIL_LEN) / self.tag_len()
    }

    /// `journal_tag_bytes`: version 2 tags are two bytes longer than what they hold.
    fn tag_len(self) -> usize {
        if self.features.contains(Features::CSUM_V3) {
            return 16;
        }
        let wide = if self.features.contains(Features::WIDE) { 4 } else { 0 };
        let padding = if self.features.contains(Features::CSUM_V2) { 2 } else { 0 };
        8 + wide + padding
    }

    /// The file-system blocks that a revoke block lists; `None` where it claims more bytes than it has.
    pub fn revoked(self, block: &[u8]) -> Option<impl Iterator<Item = u64> + '_> {
        let tail = if self.features.block_checksums() { TAIL_LEN } else { 0 };
        let used = usize::try_from(be32(block, HEADER_LEN)?).ok()?;
        if used > block.len().checked_sub(tail)? {
            return None;
        }
        let wide = self.features.contains(Features::WIDE);
        let records = block.get(REVOKE_HEADER_LEN..used).unwrap_or_default();
        Some(
            records.chunks_exact(if wide { 8 } else { 4 }).map(|record| {
                record.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
            }),
        )
    }

    /// Whether a descriptor or revoke block matches its checksum, if the log has any.
    pub fn tail_ok(self, block: &[u8]) -> bool {
        if !self.features.block_checksums() {
            return true;
        }
        let Some(at) = block.len().checked_sub(TAIL_LEN) else { return false };
        be32(block, at) == Some(crc32c_without(self.seed, block, at))
    }

    /// Whether a commit block matches its own checksum, if the log has any of versions 2 and 3.
    pub fn commit_state(self, block: &[u8]) -> CommitState {
        let matches = |block: &[u8]| {
            be32(block, COMMIT_CHECKSUM_AT)
                == Some(crc32c_without(self.seed, block, COMMIT_CHECKSUM_AT))
        };
        if !self.features.block_checksums() || matches(block) {
            return CommitState::Whole;
        }
        let mut fields = block.to_vec();
        fields.iter_mut().skip(COMMIT_LEN).for_each(|byte| *byte = 0);
        if matches(&fields) { CommitState::Torn } else { CommitState::Bad }
    }

    /// Whether a copy matches the checksum in its tag; `sequence` is its transaction.
    pub fn copy_ok(self, tag_checksum: u32, sequence: u32, copy: &[u8]) -> bool {
        let computed = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), copy);
        if self.features.contains(Features::CSUM_V2) {
            return tag_checksum == computed & 0xFFFF;
        }
        tag_checksum == computed
    }
}

const COMMIT_CHECKSUM_AT: usize = 16;
/// `sizeof(struct commit_header)`, with its padding on machines of 64 bits.
const COMMIT_LEN: usize = 64;

/// What the checksum of a commit block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitState {
    /// It matches, or there is none.
    Whole,
    /// It matches the fields and zeros behind them, as they were written: what else is in the block is left from before.
    /// A power failure between two sectors does that, and all that was to be said had reached the disk (kernel:
    /// `jbd2_commit_block_csum_verify_partial`).
    Torn,
    /// It does not match.
    Bad,
}

/// What a commit block says beside its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// When it was written, in seconds since 1970.
    pub seconds: u64,
    checksum_type: u8,
    checksum_len: u8,
    checksum: u32,
}

impl Commit {
    /// Parses a commit block; `None` for one too short for its fields.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let seconds = u64::from(be32(block, 48)?) << 32 | u64::from(be32(block, 52)?);
        Some(Self {
            seconds,
            checksum_type: *block.get(HEADER_LEN)?,
            checksum_len: *block.get(HEADER_LEN + 1)?,
            checksum: be32(block, COMMIT_CHECKSUM_AT)?,
        })
    }

    /// Whether the version 1 checksum of the transaction is `computed`, or was left out.
    pub fn transaction_ok(&self, computed: u32) -> bool {
        match (self.checksum_type, self.checksum_len) {
            (CHECKSUM_TYPE_CRC32, 4) => self.checksum == computed,
            (0, 0) => self.checksum == 0,
            _ => false,
        }
    }
}

/// The version 1 checksum: CRC-32 with the most significant bit first (the kernel's `crc32_be`), over a
/// transaction's descriptor blocks and copies in the order of the log, from `!0`.
pub fn crc32_be(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0_u32; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = (index as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04C1_1DB7 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    bytes.iter().fold(crc, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 24) as u8 ^ byte)])
}

fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    Crc32c(crc).over(bytes).0
}

/// The same with the four bytes at `zeroed` taken as zeros.
fn crc32c_without(crc: u32, bytes: &[u8], zeroed: usize) -> u32 {
    let (before, rest) = bytes.split_at(zeroed.min(bytes.len()));
    crc32c(crc32c(crc32c(crc, before), &[0; 4]), rest.get(4..).unwrap_or_default())
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("journal superblock: {what}"))
}

fn unsupported(feature: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("journal {feature} is not supported"))
}
