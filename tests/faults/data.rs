//! Data-In that is not what was asked for: found, never passed on.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse_target::{Config, Fault, On, Residual, Rule};

use crate::rig::{Rig, right_data, right_digest, target_config};

/// What is transient is mended by issuing the command again on a new connection.
async fn is_mended(fault: Fault) {
    let rig = Rig::new().await;
    let stats = rig.survives(Rule::new(On::Read, fault).after(3)).await;
    assert_eq!(stats.normal_sessions, 2, "the connection was not dropped");
    assert_eq!(stats.violations, Vec::<String>::new());
}

/// What happens each time ends with an error that says so.
async fn is_named(fault: Fault, words: &str) {
    let rig = Rig::new().await;
    let error = rig.fails(On::ReadOf(4096..4097), fault).await;
    assert!(error.to_string().contains(words), "{error}");
    assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::SessionLost), "{error:?}");
}

#[tokio::test]
async fn lost_data_in() {
    for index in [0, 2, 6] {
        is_mended(Fault::LoseDataIn(index)).await;
    }
    is_named(Fault::LoseDataIn(2), "target skipped data").await;
}

#[tokio::test]
async fn a_gap_in_data_sn_without_missing_data() {
    is_mended(Fault::SkipDataSn(2)).await;
    is_named(Fault::SkipDataSn(2), "target skipped data").await;
}

#[tokio::test]
async fn repeated_data_in() {
    let rig = Rig::new().await;
    let stats = rig.survives(Rule::new(On::Read, Fault::RepeatDataIn(2)).after(3)).await;
    assert_eq!(stats.normal_sessions, 2);
}

#[tokio::test]
async fn short_data_without_a_residual() {
    is_mended(Fault::Short(512, Residual::None)).await;
    is_named(Fault::Short(512, Residual::None), "short read").await;
}

#[tokio::test]
async fn no_data_and_good_status() {
    is_mended(Fault::Short(usize::MAX, Residual::None)).await;
    is_named(Fault::Short(usize::MAX, Residual::None), "short read").await;
}

#[tokio::test]
async fn blocks_that_stay_damaged_are_errors_one_after_the_other() {
    // Each costs three connections, and after some of those nobody connects again before somebody asks.
    let rig = Rig::new().await.timeout(Duration::from_secs(30));
    let (_session, lun) = rig.open().await;
    let fault = Fault::Short(512, Residual::None);
    rig.server.inject(Rule::new(On::ReadOf(4096..4099), fault).always());
    for block in 4096..4099 {
        let error = rig.bounded(lun.read_at(block * 512, 512)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    }
}

#[tokio::test]
async fn short_data_flagged_as_underflow() {
    let rig = Rig::new().await;
    rig.survives(Rule::new(On::Read, Fault::Short(512, Residual::Underflow(512))).after(3)).await;
    is_named(Fault::Short(512, Residual::Underflow(512)), "short read").await;
}

#[tokio::test]
async fn short_data_is_found_with_the_status_in_a_pdu_of_its_own() {
    let config = || Config { status_in_data: false, ..target_config() };
    for residual in [Residual::None, Residual::Underflow(512), Residual::Underflow(1024)] {
        let rig = Rig::with(config()).await;
        rig.survives(Rule::new(On::Read, Fault::Short(512, residual)).after(3)).await;
    }
}

#[tokio::test]
async fn residuals_that_lie() {
    for residual in [Residual::Underflow(512), Residual::Underflow(u32::MAX)] {
        let rig = Rig::new().await;
        rig.survives(Rule::new(On::Read, Fault::Short(0, residual)).after(3)).await;
    }
    let rig = Rig::new().await;
    rig.survives(Rule::new(On::Read, Fault::Short(512, Residual::Underflow(7))).after(3)).await;
    let rig = Rig::new().await;
    rig.survives(Rule::new(On::Read, Fault::Short(512, Residual::Overflow(512))).after(3)).await;
}

#[tokio::test]
async fn a_buffer_offset_outside_the_command() {
    is_mended(Fault::WildOffset(u32::MAX - 511)).await;
    is_mended(Fault::WildOffset(1 << 20)).await;
}

#[tokio::test]
async fn a_buffer_offset_that_overlaps() {
    // The last Data-In claims to start inside the one before it.
    let config = Config { max_burst: 65536, ..target_config() };
    let rig = Rig::with(config).await;
    rig.survives(Rule::new(On::Read, Fault::WildOffset(512)).after(3)).await;
}

#[tokio::test]
async fn an_initiator_task_tag_that_nobody_uses() {
    is_mended(Fault::WrongItt).await;
    is_named(Fault::WrongItt, "tag").await;
}

#[tokio::test]
async fn a_data_segment_longer_than_declared() {
    is_mended(Fault::ClaimLength(0x00ff_ffff)).await;
}

#[tokio::test]
async fn additional_header_segments_that_never_come() {
    is_mended(Fault::ClaimAhs(255)).await;
}

#[tokio::test]
async fn an_opcode_that_no_target_sends() {
    for opcode in [0x01, 0x23, 0x2d, 0x31, 0x3e] {
        is_mended(Fault::Opcode(opcode)).await;
    }
}

#[tokio::test]
async fn an_answer_of_another_sort_with_the_tag_of_a_read() {
    // NOP-In, task management response, text response, logout response
    for opcode in [0x20, 0x22, 0x24, 0x26] {
        is_mended(Fault::Opcode(opcode)).await;
    }
}

#[tokio::test]
async fn a_gap_in_stat_sn() {
    // An answer was lost, so it seems: the session is recovered at once, not when the lost one is missed.
    let rig = Rig::new().await;
    let stats = rig.survives(Rule::new(On::Read, Fault::StatSnJump(5)).after(3)).await;
    assert_eq!(stats.normal_sessions, 2);
    // A target that cannot count is read from all the same.
    let rig = Rig::new().await;
    let stats = rig.survives(Rule::new(On::Read, Fault::StatSnJump(1)).always()).await;
    assert_eq!(stats.normal_sessions, 4);
}

#[tokio::test]
async fn a_gap_in_stat_sn_while_nothing_is_under_way() {
    let rig = Rig::new().await;
    let (session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::StatSnJump(5)));
    let read = rig.bounded(lun.read_at(4096, 4096)).await.unwrap();
    assert_eq!(read.into_bytes(), right_data(4096, 4096));
    assert_eq!(rig.server.stats().normal_sessions, 1, "nothing can have been lost");
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn data_in_without_data_is_no_fault() {
    for index in [0, 3, 7] {
        let rig = Rig::new().await;
        let stats = rig.survives(Rule::new(On::Read, Fault::EmptyDataIn(index)).times(5)).await;
        assert_eq!(stats.normal_sessions, 1, "nothing was wrong");
    }
}

#[tokio::test]
async fn the_status_may_come_in_either_pdu() {
    for status_in_data in [true, false] {
        let rig = Rig::with(Config { status_in_data, max_burst: 65536, ..target_config() }).await;
        let (session, lun) = rig.open().await;
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        rig.bounded(session.logout()).await.unwrap();
        let stats = rig.server.stats();
        assert_eq!((stats.normal_sessions, stats.violations), (1, vec![]));
    }
}
