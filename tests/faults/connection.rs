//! Connections that break, garble or go silent.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::iscsi::DigestPolicy;
use snapbrowse_target::{AsyncMessage, Close, Fault, On, Rule, Sense};

use crate::rig::{Rig, right_digest};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn fin_and_reset_between_answers() {
    for how in [Close::Fin, Close::Reset] {
        let rig = Rig::new().await;
        let stats = rig.survives(Rule::new(On::Read, Fault::Close(how)).after(5)).await;
        assert_eq!(stats.normal_sessions, 2);
    }
}

#[tokio::test]
async fn fin_and_reset_in_the_middle_of_data() {
    for how in [Close::Fin, Close::Reset] {
        let rig = Rig::new().await;
        let fault = Fault::CloseAfter(100_001, how);
        let stats = rig.survives(Rule::new(On::Read, fault).after(5)).await;
        assert_eq!(stats.normal_sessions, 2);
    }
}

#[tokio::test]
async fn many_drops_one_after_the_other() {
    let rig = Rig::new().await.timeout(Duration::from_secs(30));
    rig.survives(Rule::new(On::Read, Fault::Close(Close::Reset)).times(4)).await;
}

#[tokio::test]
async fn segments_that_cut_a_header() {
    for at in [1, 47, 48, 49, 5000] {
        let rig = Rig::new().await;
        let fault = Fault::Split(at, Duration::from_millis(5));
        let stats = rig.survives(Rule::new(On::Read, fault).times(3)).await;
        assert_eq!(stats.normal_sessions, 1, "nothing was wrong");
    }
}

#[tokio::test]
async fn header_digest_errors() {
    let mut rig = Rig::new().await;
    rig.config.header_digest = DigestPolicy::Require;
    let stats = rig.survives(Rule::new(On::Read, Fault::BadHeaderDigest).after(3)).await;
    assert_eq!(stats.normal_sessions, 2);
}

#[tokio::test]
async fn data_digest_errors() {
    let mut rig = Rig::new().await;
    rig.config.data_digest = DigestPolicy::Require;
    let stats = rig.survives(Rule::new(On::Read, Fault::BadData).after(3)).await;
    assert_eq!(stats.normal_sessions, 2);
    let mut rig = Rig::new().await;
    rig.config.data_digest = DigestPolicy::Require;
    let error = rig.fails(On::ReadOf(4096..4097), Fault::BadData).await;
    assert!(error.to_string().contains("data digest"), "{error}");
}

#[tokio::test]
async fn a_command_that_is_never_answered_is_issued_again() {
    let rig = Rig::new().await.timeout(4 * SECOND);
    let stats = rig.survives(Rule::new(On::Read, Fault::Silence).after(5)).await;
    let functions: Vec<_> = stats.task_management.keys().copied().collect();
    assert!(functions.is_empty() || functions == [1], "only ABORT TASK: {functions:?}");
    assert_eq!(stats.forbidden, 0);
}

#[tokio::test]
async fn a_block_that_is_never_answered_is_an_error_at_the_deadline() {
    let rig = Rig::new().await.timeout(3 * SECOND);
    let error = rig.fails(On::ReadOf(4096..4097), Fault::Silence).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_target_that_goes_silent_once_is_logged_in_to_again() {
    let rig = Rig::new().await;
    let stats = rig.survives(Rule::new(On::Read, Fault::Mute).after(5)).await;
    assert_eq!(stats.normal_sessions, 2);
}

#[tokio::test]
async fn a_target_that_stays_silent_is_an_error_at_the_deadline() {
    let rig = Rig::new().await.timeout(3 * SECOND);
    let (_session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::Mute).always());
    rig.server.inject(Rule::new(On::Connect, Fault::Mute).always());
    let error = rig.read_all(&lun).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("no reply"), "{error}");
}

#[tokio::test]
async fn a_target_that_is_down_for_a_while() {
    let rig = Rig::new().await.timeout(10 * SECOND);
    let (session, lun) = rig.open().await;
    rig.server.stop_portal(0, Close::Reset).await;
    let back = async {
        rig.logged("connection refused").await;
        rig.server.start_portal(0).await.unwrap();
    };
    let (digest, ()) = tokio::join!(rig.read_all(&lun), back);
    assert_eq!(digest.unwrap(), right_digest());
    assert!(!rig.log().is_empty(), "nobody was told why nothing happened");
    assert!(rig.log().len() <= 12, "{:#?}", rig.log());
    session.logout().await.unwrap();
}

#[tokio::test]
async fn a_target_that_stays_down_is_an_error_at_the_deadline() {
    let rig = Rig::new().await.timeout(2 * SECOND);
    let (_session, lun) = rig.open().await;
    rig.server.stop_portal(0, Close::Reset).await;
    let error = rig.read_all(&lun).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost | ErrorKind::Timeout), "{error:?}");
    assert!(error.to_string().contains("connection refused"), "{error}");
}

#[tokio::test]
async fn an_idle_connection_that_dies_is_not_an_error() {
    let rig = Rig::new().await;
    let (session, lun) = rig.open().await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.server.close_connections(Close::Reset);
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn asynchronous_messages() {
    for message in [
        AsyncMessage::Scsi(Sense::LUNS_CHANGED),
        AsyncMessage::LogoutRequest(1),
        AsyncMessage::DropConnection { time2wait: 1 },
        AsyncMessage::DropSession { time2wait: 0 },
        AsyncMessage::Renegotiate(3),
    ] {
        let rig = Rig::new().await.timeout(10 * SECOND);
        let stats = rig.survives(Rule::new(On::Read, Fault::Async(message)).after(5)).await;
        let again = u64::from(!matches!(message, AsyncMessage::Scsi(_)));
        if matches!(message, AsyncMessage::LogoutRequest(_)) {
            assert_eq!(stats.logouts, 2, "{message:?}");
        }
        if !matches!(message, AsyncMessage::Renegotiate(_)) {
            assert_eq!(stats.normal_sessions, 1 + again, "{message:?}");
        }
    }
}

#[tokio::test]
async fn a_logout_that_is_never_answered_ends_all_the_same() {
    let rig = Rig::new().await.timeout(2 * SECOND);
    let (session, _lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Logout, Fault::Silence).always());
    let error = rig.bounded(session.logout()).await.unwrap_err();
    assert!(error.to_string().contains("did not confirm the logout"), "{error}");
    assert_eq!(rig.server.stats().logouts, 1);
}
