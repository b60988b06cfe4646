use std::collections::BTreeMap;

use super::memory::Memory;
use super::testlog::{BLOCK, HOME, TestLog, copy, home};
use super::*;
use crate::block::read;
use crate::fs::ext::layout::fast_commit::tests::Writer;
use crate::fs::ext::layout::jbd2::{Features, MAGIC};

const PLAIN: Features = Features::REVOKE;
const V1: Features = Features::REVOKE.union(Features::CSUM_V1);
const V2: Features = Features::REVOKE.union(Features::CSUM_V2);
const V3: Features = Features::REVOKE.union(Features::CSUM_V3);
const WIDE: Features = Features::REVOKE.union(Features::WIDE);

/// Every shape of tags and checksums there is.
fn shapes() -> Vec<Features> {
    [PLAIN, V1, V2, V3].into_iter().flat_map(|shape| [shape, shape | Features::WIDE]).collect()
}

/// Recovers `log` and demands that exactly `changed` of the home blocks read differently, in every way to read.
async fn assert_replays(log: &TestLog, changed: &[(u64, Vec<u8>)]) -> Recovery {
    let recovery = log.recover().await.unwrap();
    let changed: BTreeMap<_, _> = changed.iter().cloned().collect();
    let expected: Vec<u8> = (0..HOME)
        .flat_map(|block| changed.get(&block).cloned().unwrap_or_else(|| home(block)))
        .collect();
    assert_reads(recovery.source.as_ref(), &expected).await;
    // Bad copies are known now; without the synchronous path first they are not.
    let again = log.recover().await.unwrap();
    let whole = again.source.read_at(0, expected.len()).await.unwrap();
    assert!(whole.into_bytes() == expected, "{changed:?}");
    recovery
}

async fn assert_reads(source: &dyn BlockSource, expected: &[u8]) {
    for (offset, len) in [(0, expected.len()), (1, 3), (1023, 2), (1025, 4000), (5000, 1), (3, 0)] {
        let wanted = &expected[offset..offset + len];
        let found = read(source, offset as u64, len).await.unwrap().into_bytes();
        assert!(found == wanted, "{len} bytes at {offset} by try_read_at");
        let found = source.read_at(offset as u64, len).await.unwrap().into_bytes();
        assert!(found == wanted, "{len} bytes at {offset} by read_at");
        let found = source.read_fresh(offset as u64, len).await.unwrap().into_bytes();
        assert!(found == wanted, "{len} bytes at {offset} by read_fresh");
    }
    for block in 0..expected.len() / BLOCK {
        let found = read(source, (block * BLOCK) as u64, BLOCK).await.unwrap().into_bytes();
        assert!(found == expected[block * BLOCK..][..BLOCK], "block {block}");
    }
}

#[tokio::test]
async fn committed_copies_are_seen_and_the_rest_is_not() {
    for features in shapes() {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1)), (4, copy(2)), (9, copy(3))]);
        log.commit();
        log.copies(&[(4, copy(4))]);
        log.copies(&[(20, copy(5))]);
        log.commit();
        // No commit block follows this one.
        log.copies(&[(3, copy(6)), (21, copy(7))]);
        let changed = [(3, copy(1)), (4, copy(4)), (9, copy(3)), (20, copy(5))];
        let report = assert_replays(&log, &changed).await.report;
        assert_eq!(report.transactions, 2, "{features:?}");
        assert_eq!(report.blocks, 4, "{features:?}");
        assert!(report.dirty && report.replayed && report.present);
        assert_eq!(report.warnings, [""; 0]);
    }
}

#[tokio::test]
async fn an_empty_log_leaves_the_device_alone() {
    let mut log = TestLog::new(PLAIN);
    log.copies(&[(3, copy(1))]);
    log.commit();
    log.start = 0;
    let recovery = assert_replays(&log, &[]).await;
    assert!(!recovery.report.dirty && !recovery.report.replayed && recovery.report.present);
}

#[tokio::test]
async fn copies_that_began_with_the_magic_get_it_back() {
    for features in shapes() {
        let mut escaped = copy(1);
        escaped[..4].copy_from_slice(&MAGIC.to_be_bytes());
        let mut log = TestLog::new(features);
        log.copies(&[(7, copy(2)), (8, escaped.clone()), (9, escaped.clone())]);
        log.commit();
        let changed = [(7, copy(2)), (8, escaped.clone()), (9, escaped.clone())];
        let recovery = assert_replays(&log, &changed).await;
        for (offset, len) in [(8 * BLOCK + 1, 2), (8 * BLOCK + 2, 5), (8 * BLOCK - 1, 3)] {
            let whole: Vec<u8> =
                [copy(2), escaped.clone(), escaped.clone()].into_iter().flatten().collect();
            let found = read(recovery.source.as_ref(), offset as u64, len).await.unwrap();
            assert_eq!(found.into_bytes(), whole[offset - 7 * BLOCK..][..len]);
        }
    }
}

#[tokio::test]
async fn the_log_goes_on_at_its_first_block() {
    for features in shapes() {
        // The end falls in turn behind the descriptor, inside the copies, before and behind the commit block.
        for start in 56..64 {
            let mut log = TestLog::sized(features, 64, start, 7);
            log.copies(&[(3, copy(1)), (4, copy(2)), (9, copy(3))]);
            log.revoke(&[30]);
            log.commit();
            log.copies(&[(10, copy(4)), (4, copy(5))]);
            log.commit();
            let changed = [(3, copy(1)), (4, copy(5)), (9, copy(3)), (10, copy(4))];
            let report = assert_replays(&log, &changed).await.report;
            assert_eq!(report.transactions, 2, "{features:?} from block {start}");
        }
    }
}

#[tokio::test]
async fn sequence_numbers_wrap() {
    for features in shapes() {
        let mut log = TestLog::sized(features, 64, 1, u32::MAX - 1);
        log.copies(&[(3, copy(1)), (5, copy(9))]);
        log.commit();
        log.revoke(&[3]);
        log.commit();
        log.copies(&[(4, copy(2)), (3, copy(8))]);
        log.commit();
        log.copies(&[(4, copy(3))]);
        log.commit();
        let changed = [(3, copy(8)), (4, copy(3)), (5, copy(9))];
        let report = assert_replays(&log, &changed).await.report;
        assert_eq!(report.transactions, 4, "{features:?}");
        assert_eq!(report.first_sequence, u32::MAX - 1);
    }
}

#[tokio::test]
async fn a_revoke_voids_the_copies_of_its_own_and_earlier_transactions() {
    for features in shapes() {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1)), (4, copy(2)), (5, copy(3))]);
        log.commit();
        // The same transaction: the revoke record stands before the copy in the log and voids it all the same.
        log.revoke(&[3, 5]);
        log.copies(&[(5, copy(4))]);
        log.commit();
        // A later copy counts again.
        log.copies(&[(3, copy(5))]);
        log.commit();
        let report = assert_replays(&log, &[(3, copy(5)), (4, copy(2))]).await.report;
        assert_eq!((report.revokes, report.blocks), (2, 2), "{features:?}");
    }
}

#[tokio::test]
async fn a_revoke_that_was_not_committed_voids_nothing() {
    for features in shapes() {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1))]);
        log.commit();
        log.revoke(&[3]);
        let report = assert_replays(&log, &[(3, copy(1))]).await.report;
        assert_eq!(report.revokes, 0);
    }
}

#[tokio::test]
async fn wide_tags_and_revokes_keep_their_upper_half() {
    let far = 1 << 32 | 3;
    for features in [WIDE, WIDE | V2, WIDE | V3] {
        let mut log = TestLog::new(features);
        log.copies(&[(far, copy(1)), (3, copy(2))]);
        log.commit();
        log.revoke(&[far]);
        log.commit();
        assert_replays(&log, &[(3, copy(2))]).await;
    }
}

#[tokio::test]
async fn a_bad_copy_leaves_what_was_there_before() {
    for features in [V2, V3, V2 | Features::WIDE, V3 | Features::WIDE] {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1)), (4, copy(2))]);
        log.commit();
        let descriptor = log.copies(&[(3, copy(3)), (5, copy(4)), (6, copy(5))]);
        log.commit();
        log.blocks[descriptor as usize + 1][700] ^= 1;
        log.blocks[descriptor as usize + 2][0] ^= 0x80;
        let changed = [(3, copy(1)), (4, copy(2)), (6, copy(5))];
        assert_replays(&log, &changed).await;
    }
}

#[tokio::test]
async fn of_many_copies_the_newest_good_one_counts() {
    for good in [None, Some(0), Some(1), Some(6), Some(12)] {
        let mut log = TestLog::new(V3);
        let mut places = Vec::new();
        for number in 0..13 {
            places.push(log.copies(&[(3, copy(number)), (4, copy(50 + number))]) as usize + 1);
            log.commit();
        }
        places.iter().skip(good.map_or(0, |good| good + 1)).for_each(|place| {
            log.blocks[*place][700] ^= 1;
        });
        let mut changed = vec![(4, copy(62))];
        changed.extend(good.map(|good| (3, copy(good as u8))));
        assert_replays(&log, &changed).await;
    }
}

#[tokio::test]
async fn bad_copies_are_named_when_they_are_looked_for() {
    for features in [V2, V3] {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1)), (4, copy(2)), (5, copy(3))]);
        log.commit();
        let descriptor = log.copies(&[(3, copy(4)), (4, copy(5))]);
        log.commit();
        let overlay = |recovery: Recovery| recovery.overlay().unwrap();
        let whole = overlay(log.recover().await.unwrap()).verify().await.unwrap();
        assert!(whole.is_empty(), "{whole:?}");
        log.blocks[descriptor as usize + 2][57] ^= 1;
        let bad = overlay(log.recover().await.unwrap()).verify().await.unwrap();
        let [bad] = &bad[..] else { panic!("{bad:?}") };
        assert_eq!(bad.kind(), ErrorKind::BadChecksum);
        assert!(
            bad.message().contains(&format!("block 4 in log block {}", descriptor + 2)),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn an_error_that_the_kernel_noted_is_told() {
    for live in [false, true] {
        let mut log = TestLog::new(PLAIN);
        if live {
            log.copies(&[(3, copy(1))]);
            log.commit();
        } else {
            log.start = 0;
        }
        let mut device = log.device();
        device[HOME as usize * BLOCK + 0x20..][..4].copy_from_slice(&(-5_i32).to_be_bytes());
        let report = recover(Memory::new(device), log.runs(), BLOCK as u32).await.unwrap().report;
        assert_eq!((report.dirty, report.warnings.len()), (live, 1));
        assert!(report.warnings[0].contains("an error (Input/output error)"), "{report:?}");
    }
}

#[tokio::test]
async fn a_bad_version_1_checksum_ends_the_log() {
    let mut log = TestLog::new(V1);
    log.copies(&[(3, copy(1))]);
    log.commit();
    let descriptor = log.copies(&[(3, copy(2)), (4, copy(3))]);
    log.commit();
    log.copies(&[(5, copy(4))]);
    log.commit();
    log.blocks[descriptor as usize + 2][1] ^= 1;
    let recovery = assert_replays(&log, &[(3, copy(1))]).await;
    assert_eq!(recovery.report.transactions, 1);
    assert_eq!(recovery.report.warnings.len(), 1);
}

#[tokio::test]
async fn a_commit_block_without_version_1_checksum_is_accepted() {
    let mut log = TestLog::new(V1);
    log.copies(&[(3, copy(1))]);
    let commit = log.commit();
    log.blocks[commit as usize][12..20].fill(0);
    log.copies(&[(4, copy(2))]);
    log.commit();
    // The checksum was not started anew by the first commit block: the second one does not match either way.
    let report = assert_replays(&log, &[(3, copy(1)), (4, copy(2))]).await.report;
    assert_eq!(report.transactions, 2);
}

#[tokio::test]
async fn a_bad_commit_block_ends_the_log() {
    for features in [V2, V3] {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1))]);
        log.commit();
        log.copies(&[(3, copy(2))]);
        let commit = log.commit();
        log.copies(&[(4, copy(3))]);
        log.commit();
        log.blocks[commit as usize][57] ^= 1;
        let report = assert_replays(&log, &[(3, copy(1))]).await.report;
        assert_eq!((report.transactions, report.warnings.len()), (1, 1), "{features:?}");
        assert_eq!(report.damaged, Some(2));
    }
}

#[tokio::test]
async fn a_commit_block_torn_behind_its_fields_counts() {
    for features in [V2, V3] {
        let mut log = TestLog::new(features);
        log.copies(&[(3, copy(1))]);
        let commit = log.commit();
        log.copies(&[(3, copy(2))]);
        log.commit();
        log.blocks[commit as usize][64..].fill(0x55);
        let report = assert_replays(&log, &[(3, copy(2))]).await.report;
        assert_eq!((report.transactions, report.warnings.len()), (2, 1), "{features:?}");
    }
}

#[tokio::test]
async fn with_async_commit_too_nothing_after_a_bad_commit_block_counts() {
    for features in [V1, V2, V3] {
        let mut log = TestLog::new(features | Features::ASYNC_COMMIT);
        log.copies(&[(3, copy(1))]);
        log.commit();
        let descriptor = log.copies(&[(3, copy(2))]);
        let commit = log.commit();
        log.copies(&[(4, copy(3))]);
        log.commit();
        let damaged = if features == V1 { descriptor + 1 } else { commit };
        log.blocks[damaged as usize][57] ^= 1;
        let report = assert_replays(&log, &[(3, copy(1))]).await.report;
        assert_eq!((report.transactions, report.warnings.len()), (1, 1), "{features:?}");
    }
}

#[tokio::test]
async fn a_bad_descriptor_or_revoke_block_is_refused() {
    for features in [V2, V3] {
        for kind in ["descriptor", "revoke"] {
            let mut log = TestLog::new(features);
            log.copies(&[(3, copy(1))]);
            log.commit();
            let descriptor = log.copies(&[(4, copy(2))]);
            let revoke = log.revoke(&[3]);
            log.commit();
            let damaged = if kind == "descriptor" { descriptor } else { revoke };
            log.blocks[damaged as usize][900] ^= 1;
            let error = log.recover().await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::BadChecksum, "{kind}: {error}");
            assert!(error.message().contains("transaction 2"), "{kind}: {error}");
            assert!(error.hint().unwrap().contains("--journal ignore"), "{kind}: {error}");
        }
    }
}

#[tokio::test]
async fn remains_of_an_older_log_end_it_without_complaint() {
    let mut log = TestLog::new(V3);
    log.copies(&[(3, copy(1))]);
    log.commit();
    let descriptor = log.copies(&[(4, copy(2))]);
    log.commit_seconds = 10;
    log.commit();
    log.blocks[descriptor as usize][900] ^= 1;
    let report = assert_replays(&log, &[(3, copy(1))]).await.report;
    assert_eq!((report.transactions, report.warnings.len()), (1, 0));
}

#[tokio::test]
async fn a_revoke_block_that_claims_too_much_is_refused() {
    let mut log = TestLog::new(PLAIN);
    log.copies(&[(3, copy(1))]);
    let revoke = log.revoke(&[5]);
    log.commit();
    log.blocks[revoke as usize][12..16].copy_from_slice(&0x401_u32.to_be_bytes());
    let error = log.recover().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.hint().unwrap().contains("--journal ignore"), "{error}");
}

#[tokio::test]
async fn a_log_that_bites_its_tail_ends() {
    // Descriptors of one transaction all around the log.
    let mut log = TestLog::sized(PLAIN, 16, 1, 1);
    for _ in 0..15 {
        log.copies(&[]);
    }
    let report = assert_replays(&log, &[]).await.report;
    assert_eq!((report.transactions, report.warnings.len()), (0, 1));
}

#[tokio::test]
async fn the_watch_sees_the_superblock_and_the_next_commit() {
    let mut log = TestLog::sized(PLAIN, 64, 60, 1);
    log.copies(&[(3, copy(1)), (4, copy(1))]);
    log.commit();
    log.copies(&[(5, copy(1))]);
    let watch = log.recover().await.unwrap().watch;
    let device = log.device();
    let block = |log_block: usize| {
        let offset = (HOME as usize + log_block) * BLOCK;
        let bytes = Bytes::copy_from_slice(&device[offset..][..BLOCK]);
        Seen { offset: offset as u64, bytes }
    };
    assert_eq!(watch, [block(0), block(1)]);
}

#[tokio::test]
async fn superblocks_that_cannot_be_used_are_refused_by_name() {
    use ErrorKind::{BadChecksum, Corrupt, Unsupported};
    let cases: [(usize, u32, ErrorKind, &str); 9] = [
        (0, 0, Corrupt, "magic 0x00000000"),
        (4, 2, Corrupt, "block type 2"),
        (0x0C, 4096, Corrupt, "blocks of 4096 bytes"),
        (0x10, 65, Corrupt, "65 blocks in a log of 64"),
        (0x14, 0, Corrupt, "the log starts at 0"),
        (0x1C, 64, Corrupt, "live part starts at 64"),
        (0x28, 0x41, Unsupported, "feature_incompat 0x40"),
        (0x2C, 1, Unsupported, "feature_ro_compat 0x1"),
        (0x28, 0x18, Corrupt, "more than one kind of checksums"),
    ];
    for (at, word, kind, message) in cases {
        let mut device = TestLog::new(PLAIN).device();
        let at = HOME as usize * BLOCK + at;
        device[at..at + 4].copy_from_slice(&word.to_be_bytes());
        let log = TestLog::new(PLAIN);
        let error = recover(Memory::new(device), log.runs(), BLOCK as u32).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(message), "{error}");
        assert!(error.hint().unwrap().contains("--journal ignore"), "{error}");
    }
    let mut device = TestLog::new(V3).device();
    device[HOME as usize * BLOCK + 0x18] ^= 1;
    let error =
        recover(Memory::new(device), TestLog::new(V3).runs(), BLOCK as u32).await.err().unwrap();
    assert_eq!(error.kind(), BadChecksum);
}

/// A log of one transaction, number 1, with 8 blocks for fast commits: these, of transaction `sequence`.
async fn recover_with_fast_commits(sequence: u32, damage: impl Fn(&mut [u8])) -> Recovery {
    let mut log = TestLog::new(PLAIN | Features::FAST_COMMIT);
    log.copies(&[(3, copy(1))]);
    log.commit();
    let mut device = log.device();
    let superblock = HOME as usize * BLOCK;
    device[superblock + 0x54..][..4].copy_from_slice(&8_u32.to_be_bytes());
    // The first of the 8 blocks stays free.
    let area = &mut device[superblock + (64 - 8 + 1) * BLOCK..][..7 * BLOCK];
    let mut writer = Writer::new(sequence);
    for name in [b"a", b"b"] {
        writer.unlink(2, 12, name);
        writer.tail();
    }
    for (block, place) in writer.blocks.iter().zip(area.chunks_mut(BLOCK)) {
        place.copy_from_slice(block);
    }
    damage(area);
    recover(Memory::new(device), log.runs(), BLOCK as u32).await.unwrap()
}

#[tokio::test]
async fn fast_commits_of_the_next_transaction_count_and_others_are_passed_over() {
    for (sequence, commits) in [(1, 0), (2, 2), (3, 0)] {
        let recovery = recover_with_fast_commits(sequence, |_| {}).await;
        assert_eq!(recovery.report.fast_commits, commits, "{sequence}");
        assert_eq!(recovery.fast_commits.len(), commits as usize, "{sequence}");
        assert_eq!(recovery.report.blocks, 1);
        assert_eq!(recovery.report.warnings, [""; 0]);
        // The block where the next one will be written is watched as the log is.
        let next = (HOME + 64 - 8 + 1 + u64::from(commits)) * BLOCK as u64;
        assert!(recovery.watch.iter().any(|seen| seen.offset == next), "{sequence}");
    }
}

#[tokio::test]
async fn a_torn_fast_commit_ends_them_with_a_warning() {
    for (torn, commits) in [(0, 0), (1, 1)] {
        let recovery = recover_with_fast_commits(2, |area| area[torn * BLOCK + 22] ^= 1).await;
        assert_eq!(recovery.report.fast_commits, commits);
        let [warning] = &recovery.report.warnings[..] else { panic!("one warning") };
        assert!(warning.contains("a fast commit after transaction 1 is incomplete"), "{warning}");
    }
}

#[tokio::test]
async fn fast_commits_may_fill_their_area() {
    let recovery = recover_with_fast_commits(2, |area| {
        let mut writer = Writer::new(2);
        for (index, place) in area.chunks_mut(BLOCK).enumerate() {
            writer.unlink(2, 12, &[b'a' + index as u8]);
            writer.tail();
            place.copy_from_slice(&writer.blocks[index]);
        }
    })
    .await;
    assert_eq!(recovery.report.fast_commits, 7);
}

#[tokio::test]
async fn a_version_1_superblock_has_no_features() {
    let mut log = TestLog::new(PLAIN);
    log.version = 3;
    log.copies(&[(3, copy(1))]);
    log.commit();
    let mut device = log.device();
    // Uninitialised bytes where version 2 has its features.
    device[HOME as usize * BLOCK + 0x24..][..0x20].fill(0xFF);
    let recovery = recover(Memory::new(device), log.runs(), BLOCK as u32).await.unwrap();
    assert_eq!(recovery.report.blocks, 1);
}

#[tokio::test]
async fn a_map_of_the_log_with_gaps_or_off_the_device_is_refused() {
    let log = TestLog::new(PLAIN);
    for (run, at, length) in [(1, 33, 32), (1, 31, 32), (1, 32, 33), (0, 0, u32::MAX)] {
        let mut runs = log.runs();
        runs[run].log_block = at;
        runs[run].length = length;
        let source = Memory::new(log.device());
        let error = recover(source, runs, BLOCK as u32).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

/// A log of `transactions` with `copies` copies each, and what reading it costs: bytes and reads.
async fn cost_of_opening(
    features: Features,
    transactions: usize,
    copies: usize,
) -> (u64, u64, usize) {
    let per_descriptor = 60;
    let blocks = transactions * (copies + copies.div_ceil(per_descriptor) + 1);
    let mut log = TestLog::sized(features, blocks + 100, 1, 1);
    let data = copy(1);
    for _ in 0..transactions {
        let mut left = copies;
        while left > 0 {
            let now = left.min(per_descriptor);
            log.copies(&vec![(5, data.clone()); now]);
            left -= now;
        }
        log.commit();
    }
    let source = Memory::new(log.device());
    let report = recover(source.clone(), log.runs(), BLOCK as u32).await.unwrap().report;
    assert_eq!(report.transactions as usize, transactions);
    let reads = source.reads();
    let bytes = reads.iter().map(|read| read.end - read.start).sum();
    ((blocks * BLOCK) as u64, bytes, reads.len())
}

#[tokio::test]
async fn opening_reads_a_fraction_of_a_long_log_and_not_block_by_block() {
    for (transactions, copies) in [(2000, 8), (400, 59), (10, 2000), (1, 20000)] {
        let (live, bytes, reads) = cost_of_opening(PLAIN, transactions, copies).await;
        let what = format!("{transactions} x {copies}: {bytes} of {live} bytes in {reads} reads");
        assert!(bytes <= live / 4 + (1 << 20), "{what}");
        assert!(reads as u64 <= live / BLOCK as u64 / 8, "{what}");
    }
}

#[tokio::test]
async fn opening_reads_a_short_log_at_once_and_a_checksummed_one_in_large_reads() {
    let (live, _, reads) = cost_of_opening(PLAIN, 20, 8).await;
    assert!(reads <= 3, "{reads} reads of {live} bytes");
    let (live, bytes, reads) = cost_of_opening(V1, 100, 100).await;
    assert!(reads as u64 <= live / (1 << 20) + 4, "{reads} reads of {live} bytes");
    assert!(bytes <= live + (2 << 20), "{bytes} of {live} bytes read");
}
