//! Many commands in flight: the command window, latency, and what reaches the target at all.

use std::time::Duration;

use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::discover;
use snapbrowse_target::{Config, Fault, On, Rule};

use crate::rig::{DISK, Rig, right_data, right_digest, target_config};

#[tokio::test]
async fn a_narrow_window_is_never_overrun() {
    for queue_depth in [1, 2, 3] {
        let rig = Rig::with(Config { queue_depth, ..target_config() }).await;
        let (session, lun) = rig.open().await;
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        rig.bounded(session.logout()).await.unwrap();
        let stats = rig.server.stats();
        assert_eq!(stats.violations, Vec::<String>::new());
        assert!(stats.max_in_flight <= u64::from(queue_depth));
    }
}

#[tokio::test]
async fn a_closed_window_is_waited_out() {
    let rig = Rig::with(Config { queue_depth: 4, ..target_config() }).await;
    let fault = Fault::FreezeWindow(Duration::from_millis(700));
    let stats = rig.survives(Rule::new(On::Read, fault).after(3)).await;
    assert_eq!((stats.violations, stats.normal_sessions), (vec![], 1));
}

#[tokio::test]
async fn a_window_that_never_opens_is_an_error_at_the_deadline() {
    let rig = Rig::with(Config { queue_depth: 2, ..target_config() }).await;
    let rig = rig.timeout(Duration::from_secs(2));
    let error = rig.fails(On::Read, Fault::FreezeWindow(Duration::from_secs(3600))).await;
    assert!(!error.to_string().is_empty());
}

#[tokio::test]
async fn slow_answers_overlap() {
    let rig = Rig::with(Config { latency: Duration::from_millis(50), ..target_config() }).await;
    let (session, lun) = rig.open().await;
    let reads = (0..64).map(|n| lun.read_at(n * 4096, 4096));
    let answers = rig.bounded(futures_util::future::join_all(reads)).await;
    for (n, answer) in (0..).zip(answers) {
        assert_eq!(answer.unwrap().into_bytes(), right_data(n * 4096, 4096));
    }
    let stats = rig.server.stats();
    assert!(stats.max_in_flight >= 32, "{} in flight", stats.max_in_flight);
    assert_eq!((stats.reads(), stats.bytes_read), (64, 64 * 4096));
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn answers_out_of_order_find_their_commands() {
    let rig = Rig::new().await;
    for n in 0..8_u64 {
        let delay = Fault::Delay(Duration::from_millis(40 - 5 * n));
        rig.server.inject(Rule::new(On::ReadOf(n..n + 1), delay).always());
    }
    let (session, lun) = rig.open().await;
    let reads = (0..8).map(|n| lun.read_at(n * 512, 512));
    let answers = rig.bounded(futures_util::future::join_all(reads)).await;
    for (n, answer) in (0..).zip(answers) {
        assert_eq!(answer.unwrap().into_bytes(), right_data(n * 512, 512));
    }
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_harms_no_other() {
    let rig = Rig::new().await;
    rig.server
        .inject(Rule::new(On::ReadOf(0..1), Fault::Delay(Duration::from_millis(300))).always());
    let (session, lun) = rig.open().await;
    let dropped = tokio::time::timeout(Duration::from_millis(50), lun.read_at(0, 512)).await;
    assert!(dropped.is_err());
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    assert_eq!(rig.server.stats().normal_sessions, 1);
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn reads_at_odd_places_and_past_the_end() {
    let rig = Rig::new().await;
    let (session, lun) = rig.open().await;
    for (offset, len) in
        [(0, 1), (511, 2), (1000, 3000), (DISK - 1, 1), (DISK - 5000, 5000), (7, 0)]
    {
        let data = rig.bounded(lun.read_at(offset, len)).await.unwrap().into_bytes();
        assert_eq!(data, right_data(offset, len), "{len} at {offset}");
    }
    for (offset, len) in [(DISK, 1), (DISK - 1, 2), (u64::MAX, 1), (u64::MAX, usize::MAX)] {
        assert!(rig.bounded(lun.read_at(offset, len)).await.is_err(), "{len} at {offset}");
    }
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn nothing_but_reading_reaches_the_target() {
    let rig = Rig::new().await;
    rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    let session = rig.login().await.unwrap();
    rig.bounded(session.luns()).await.unwrap();
    let lun = rig.bounded(session.open_lun(None)).await.unwrap();
    rig.server.inject(Rule::new(On::Read, Fault::Close(snapbrowse_target::Close::Reset)).after(5));
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
    let stats = rig.server.stats();
    assert_eq!((stats.forbidden, &stats.violations), (0, &vec![]));
    // TEST UNIT READY, REQUEST SENSE, INQUIRY, MODE SENSE 6/10, READ CAPACITY 10/16, READ 10/16, REPORT LUNS,
    // REPORT TARGET PORT GROUPS, by operation code and service action.
    let allowed = [0x00, 0x03, 0x12, 0x1a, 0x5a, 0x25, 0x28, 0x88, 0xa0].map(|opcode| (opcode, 0));
    let allowed = [&allowed[..], &[(0x9e, 0x10), (0xa3, 0x0a)]].concat();
    for command in stats.commands.keys() {
        assert!(allowed.contains(command), "{command:02x?}");
    }
    assert!(stats.opcode(0xa0) > 0 && stats.opcode(0x12) > 0 && stats.reads() >= 32);
}
