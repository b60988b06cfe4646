//! Where a fuzzer comes in: logs of any transactions, and logs damaged anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::recover;
use super::testlog::{BLOCK, HOME, TestLog, copy, home};
use crate::block::BlockSource;
use crate::fs::ext::layout::jbd2::{Features, MAGIC};
use crate::fuzz::{Device, Input, wait};

/// Blocks of the log.
const LOG: u32 = 64;

/// A log, and what the file system must read after it has been played back.
struct Played {
    log: TestLog,
    /// Blocks written so far, so that the log does not overtake itself.
    written: u32,
    committed: BTreeMap<u64, Vec<u8>>,
    /// Copies and revocations of the transaction under construction.
    copies: Vec<(u64, Vec<u8>)>,
    revoked: Vec<u64>,
}

/// Transactions of copies and revocations as the input says: what is read afterwards must be what a naive playback gives. Where
/// the input damages the log as well, every read must end, and give the same in whichever pieces it is made.
///
/// # Panics
/// Where it does not.
pub fn journal(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (Some(choices), Some(start)) = (input.byte(), input.byte()) else { return };
    let mut played = Played::new(choices, u32::from(start));
    let mut damage = Vec::new();
    while let Some(op) = input.byte() {
        let count = u32::from(op >> 2 & 7) + 1;
        if played.written + count + 3 >= LOG {
            break;
        }
        match op & 3 {
            0 => played.copies(&mut input, count),
            1 => played.revoke(&mut input, count),
            2 => played.commit(op),
            _ => {
                let (Some(at), Some(value)) = (input.half(), input.word()) else { break };
                let len = 1 + usize::from(op >> 2 & 3);
                damage.push((u64::from(at), value.to_le_bytes()[..len].to_vec()));
            }
        }
    }
    let bytes = played.log.device();
    let mut device = Device::new(bytes.len() as u64, 512);
    device.write(0, &bytes);
    let damaged = !damage.is_empty();
    for (at, bytes) in damage {
        device.write(HOME * BLOCK as u64 + at, &bytes);
    }
    let recovered = wait(recover(Arc::new(device), played.log.runs(), BLOCK as u32));
    let recovered = match recovered {
        Ok(recovered) => recovered,
        Err(error) if damaged => return drop(error.to_string()),
        Err(error) => panic!("{error}"),
    };
    let found = wait(read_in_pieces(&*recovered.source));
    if !damaged {
        for block in 0..HOME {
            let expected = played.committed.get(&block).cloned().unwrap_or_else(|| home(block));
            let at = block as usize * BLOCK;
            assert!(found[at..at + BLOCK] == expected, "block {block}");
        }
    }
}

impl Played {
    fn new(choices: u8, start: u32) -> Self {
        let mut features = match choices & 3 {
            0 => Features::empty(),
            1 => Features::CSUM_V1,
            2 => Features::CSUM_V2,
            _ => Features::CSUM_V3,
        };
        features.set(Features::REVOKE, true);
        features.set(Features::WIDE, choices & 4 != 0);
        // Sequence numbers wrap.
        let sequence = if choices & 8 == 0 { 7 } else { u32::MAX - 1 };
        Self {
            log: TestLog::sized(features, LOG as usize, 1 + start % (LOG - 1), sequence),
            written: 0,
            committed: BTreeMap::new(),
            copies: Vec::new(),
            revoked: Vec::new(),
        }
    }

    fn copies(&mut self, input: &mut Input<'_>, count: u32) {
        let copies: Vec<_> = (0..count)
            .map_while(|_| {
                let (block, mark) = (u64::from(input.byte()?) % HOME, input.byte()?);
                let mut contents = copy(mark);
                // Such copies are escaped in the log.
                if mark & 7 == 0 {
                    contents[..4].copy_from_slice(&MAGIC.to_be_bytes());
                }
                Some((block, contents))
            })
            .collect();
        if !copies.is_empty() {
            self.log.copies(&copies);
            self.written += 1 + copies.len() as u32;
            self.copies.extend(copies);
        }
    }

    fn revoke(&mut self, input: &mut Input<'_>, count: u32) {
        let blocks: Vec<_> =
            (0..count).map_while(|_| Some(u64::from(input.byte()?) % HOME)).collect();
        self.log.revoke(&blocks);
        self.written += 1;
        self.revoked.extend(blocks);
    }

    fn commit(&mut self, op: u8) {
        if op & 0x80 != 0 {
            // Time stands still.
            self.log.commit_seconds -= 1;
        }
        self.log.commit();
        self.written += 1;
        self.committed.extend(self.copies.drain(..));
        // A record voids the copies of its own and of all earlier transactions.
        self.revoked.drain(..).for_each(|block| drop(self.committed.remove(&block)));
    }
}

/// All bytes, read in several ways that must agree.
async fn read_in_pieces(source: &dyn BlockSource) -> Vec<u8> {
    let len = source.len() as usize;
    let mut by_block = Vec::with_capacity(len);
    for at in (0..len).step_by(BLOCK) {
        let block = source.read_at(at as u64, BLOCK).await.expect("it lies on the device");
        by_block.extend_from_slice(&block.into_bytes());
    }
    let whole = source.read_at(0, len).await.expect("it lies on the device");
    assert!(whole.into_bytes()[..] == by_block, "all at once");
    for at in (0..len).step_by(1500) {
        let piece = source.try_read_at(at as u64, 1500.min(len - at)).expect("it is in memory");
        let piece = piece.expect("it lies on the device").into_bytes();
        assert!(piece[..] == by_block[at..at + piece.len()], "across blocks, from byte {at}");
    }
    by_block
}
