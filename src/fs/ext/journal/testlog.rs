//! Builds logs block by block, so that each rule of recovery can be tested by one that turns on it.

use super::LogRun;
use crate::fs::ext::layout::jbd2::{Features, MAGIC, crc32_be};

pub(super) const BLOCK: usize = 1024;
/// File-system blocks in front of the log.
pub(super) const HOME: u64 = 40;

/// A log under construction. Transactions are written one after the other from `start` on.
pub(super) struct TestLog {
    pub(super) features: Features,
    pub(super) version: u32,
    pub(super) first: u32,
    pub(super) start: u32,
    pub(super) sequence: u32,
    /// The sequence number of the transaction being written.
    pub(super) tid: u32,
    pub(super) at: u32,
    pub(super) commit_seconds: u64,
    pub(super) blocks: Vec<Vec<u8>>,
    crc32: u32,
    uuid: [u8; 16],
}

impl TestLog {
    /// `len` blocks, the first transaction `sequence` at block `start`.
    pub(super) fn sized(features: Features, len: usize, start: u32, sequence: u32) -> Self {
        Self {
            features,
            version: 4,
            first: 1,
            start,
            sequence,
            tid: sequence,
            at: start,
            commit_seconds: 1000,
            blocks: vec![vec![0; BLOCK]; len],
            crc32: !0,
            uuid: *b"0123456789abcdef",
        }
    }

    fn seed(&self) -> u32 {
        chain(!0, &self.uuid)
    }

    /// Puts a block at the head of the log, wherever that is.
    pub(super) fn push(&mut self, block: Vec<u8>) -> u32 {
        let place = self.at;
        self.blocks[place as usize] = block;
        self.at += 1;
        if self.at as usize == self.blocks.len() {
            self.at = self.first;
        }
        place
    }

    fn header(&self, block_type: u32) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        for word in [MAGIC, block_type, self.tid] {
            block.extend(word.to_be_bytes());
        }
        block
    }

    /// A descriptor and the copies it announces; copies that begin with the magic are escaped.
    pub(super) fn copies(&mut self, copies: &[(u64, Vec<u8>)]) -> u32 {
        let mut descriptor = self.header(1);
        let mut data = Vec::new();
        for (index, (fs_block, copy)) in copies.iter().enumerate() {
            let mut copy = copy.clone();
            let mut flags = if index == 0 { 0_u16 } else { 2 };
            if index + 1 == copies.len() {
                flags |= 8;
            }
            if copy.starts_with(&MAGIC.to_be_bytes()) {
                flags |= 1;
                copy[..4].fill(0);
            }
            let checksum = match self.features.block_checksums() {
                true => chain(chain(self.seed(), &self.tid.to_be_bytes()), &copy),
                false => 0,
            };
            let high = (fs_block >> 32) as u32;
            descriptor.extend((*fs_block as u32).to_be_bytes());
            if self.features.contains(Features::CSUM_V3) {
                descriptor.extend(u32::from(flags).to_be_bytes());
                descriptor.extend(high.to_be_bytes());
                descriptor.extend(checksum.to_be_bytes());
            } else {
                let v2 = self.features.contains(Features::CSUM_V2);
                descriptor.extend(if v2 { checksum as u16 } else { 0 }.to_be_bytes());
                descriptor.extend(flags.to_be_bytes());
                if self.features.contains(Features::WIDE) {
                    descriptor.extend(high.to_be_bytes());
                }
                if v2 {
                    descriptor.extend([0; 2]);
                }
            }
            if index == 0 {
                descriptor.extend(self.uuid);
            }
            data.push(copy);
        }
        let descriptor = self.with_tail(descriptor);
        self.note_for_v1(&descriptor);
        let place = self.push(descriptor);
        for copy in data {
            self.note_for_v1(&copy);
            self.push(copy);
        }
        place
    }

    fn note_for_v1(&mut self, block: &[u8]) {
        if self.features.contains(Features::CSUM_V1) {
            self.crc32 = crc32_be(self.crc32, block);
        }
    }

    pub(super) fn revoke(&mut self, fs_blocks: &[u64]) -> u32 {
        let wide = self.features.contains(Features::WIDE);
        let mut block = self.header(5);
        let len = 16 + fs_blocks.len() * if wide { 8 } else { 4 };
        block.extend((len as u32).to_be_bytes());
        for fs_block in fs_blocks {
            if wide {
                block.extend(fs_block.to_be_bytes());
            } else {
                block.extend((*fs_block as u32).to_be_bytes());
            }
        }
        let block = self.with_tail(block);
        self.push(block)
    }

    fn with_tail(&self, mut block: Vec<u8>) -> Vec<u8> {
        assert!(block.len() <= BLOCK - 4);
        block.resize(BLOCK, 0);
        if self.features.block_checksums() {
            let checksum = chain(self.seed(), &block);
            block[BLOCK - 4..].copy_from_slice(&checksum.to_be_bytes());
        }
        block
    }

    /// Ends the transaction and starts the next one.
    pub(super) fn commit(&mut self) -> u32 {
        let mut block = self.header(2);
        block.resize(BLOCK, 0);
        block[48..56].copy_from_slice(&self.commit_seconds.to_be_bytes());
        if self.features.contains(Features::CSUM_V1) {
            block[12..14].copy_from_slice(&[1, 4]);
            block[16..20].copy_from_slice(&self.crc32.to_be_bytes());
        }
        if self.features.block_checksums() {
            let checksum = chain(self.seed(), &block);
            block[16..20].copy_from_slice(&checksum.to_be_bytes());
        }
        self.crc32 = !0;
        self.tid = self.tid.wrapping_add(1);
        self.commit_seconds += 1;
        self.push(block)
    }

    /// The whole device: [`HOME`] blocks as [`home`] makes them, then the log.
    pub(super) fn device(&self) -> Vec<u8> {
        let mut device: Vec<u8> = (0..HOME).flat_map(home).collect();
        device.extend(self.superblock());
        device.extend(self.blocks[1..].iter().flatten());
        device
    }

    fn superblock(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        let mut put = |at: usize, word: u32| {
            block[at..at + 4].copy_from_slice(&word.to_be_bytes());
        };
        put(0, MAGIC);
        put(4, self.version);
        put(0x0C, BLOCK as u32);
        put(0x10, self.blocks.len() as u32);
        put(0x14, self.first);
        put(0x18, self.sequence);
        put(0x1C, self.start);
        put(0x24, u32::from(self.features.contains(Features::CSUM_V1)));
        put(0x28, self.features.difference(Features::CSUM_V1).bits());
        put(0x40, 1);
        block[0x30..0x40].copy_from_slice(&self.uuid);
        if self.features.block_checksums() {
            block[0x50] = 4;
            let checksum = chain(!0, &block);
            block[0xFC..0x100].copy_from_slice(&checksum.to_be_bytes());
        }
        block
    }

    /// The log in two runs, as a fragmented journal file has it.
    pub(super) fn runs(&self) -> Vec<LogRun> {
        let half = self.blocks.len() as u32 / 2;
        let rest = self.blocks.len() as u32 - half;
        let second = HOME + u64::from(half);
        vec![
            LogRun { log_block: 0, fs_block: HOME, length: half },
            LogRun { log_block: half, fs_block: second, length: rest },
        ]
    }
}

/// CRC32C without inversions, bit by bit: not the code under test.
fn chain(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 }
        })
    })
}

/// What block `fs_block` of the device holds before recovery.
pub(super) fn home(fs_block: u64) -> Vec<u8> {
    vec![fs_block as u8; BLOCK]
}

/// A new version of some block, told apart by `mark`.
pub(super) fn copy(mark: u8) -> Vec<u8> {
    (0..BLOCK).map(|index| mark ^ (index as u8) ^ 0x80).collect()
}
