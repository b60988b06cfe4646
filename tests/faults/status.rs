//! SCSI statuses, sense data and Reject.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse_target::{AsyncMessage, Config, Disk, Fault, Lun, On, Rule, Sense, Target};

use crate::rig::{DISK, IQN, Rig, SEED, right_data, right_digest, target_config};

const BUSY: u8 = 0x08;
const RESERVATION_CONFLICT: u8 = 0x18;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;
const CHECK_CONDITION: u8 = 0x02;

const SECOND: Duration = Duration::from_secs(1);

fn check(sense: Sense) -> Fault {
    Fault::Status(CHECK_CONDITION, Some(sense))
}

#[tokio::test]
async fn busy_task_set_full_and_task_aborted_pass() {
    for status in [BUSY, TASK_SET_FULL, TASK_ABORTED] {
        let rig = Rig::new().await;
        let rule = Rule::new(On::Read, Fault::Status(status, None)).after(3).times(5);
        let stats = rig.survives(rule).await;
        assert_eq!(stats.normal_sessions, 1, "the session was in order");
    }
}

#[tokio::test]
async fn a_target_that_stays_busy_is_an_error_at_the_deadline() {
    let rig = Rig::new().await.timeout(2 * SECOND);
    let error = rig.fails(On::Read, Fault::Status(BUSY, None)).await;
    assert!(error.to_string().contains("busy"), "{error}");
    let reads = rig.server.stats().reads();
    assert!(reads < 500, "{reads} READs in two seconds: no back-off");
}

#[tokio::test]
async fn a_reservation_conflict_is_named() {
    let rig = Rig::new().await;
    let error = rig.fails(On::Read, Fault::Status(RESERVATION_CONFLICT, None)).await;
    assert!(error.to_string().contains("reservation conflict"), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn unit_attentions_in_the_middle_of_reading() {
    for list in [
        vec![Sense::POWER_ON],
        vec![Sense::LUNS_CHANGED],
        vec![Sense::new(6, 0x2a, 6)],
        vec![Sense::POWER_ON, Sense::new(6, 0x2a, 1), Sense::LUNS_CHANGED, Sense::new(6, 0x2a, 6)],
        vec![Sense::POWER_ON.descriptor()],
    ] {
        let rig = Rig::new().await;
        let stats = rig.survives(Rule::new(On::Read, Fault::Attention(list)).after(5)).await;
        assert_eq!(stats.normal_sessions, 1);
    }
}

#[tokio::test]
async fn aborted_commands_are_issued_again() {
    // Protocol service CRC error, and the two that only writing could bring about.
    for (asc, ascq) in [(0x47, 5), (0x0c, 0x0c), (0x0c, 0x0d)] {
        let rig = Rig::new().await;
        let fault = check(Sense::new(0x0b, asc, ascq));
        let stats = rig.survives(Rule::new(On::Read, fault).after(3).times(2)).await;
        assert_eq!(stats.normal_sessions, 1);
    }
}

#[tokio::test]
async fn a_lun_that_grows_goes_on() {
    let rig = Rig::new().await;
    let stats = rig.survives(Rule::new(On::Read, Fault::Resize(DISK / 512 * 2)).after(5)).await;
    assert!(stats.opcode(0x9e) >= 2, "the capacity was not read again");
}

#[tokio::test]
async fn a_lun_that_has_grown_is_told_of_once() {
    let rig = Rig::new().await;
    let (_session, lun) = rig.open().await;
    for blocks in [2, 3, 4] {
        rig.server.lun(0, 1).resize(DISK / 512 * blocks);
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    }
    assert!(rig.server.stats().opcode(0x9e) >= 4, "one look for each change");
    let told = rig.log().iter().filter(|line| line.contains("grew")).count();
    assert_eq!(told, 1, "{:#?}", rig.log());
}

#[tokio::test]
async fn a_lun_that_shrinks_is_an_error() {
    let rig = Rig::new().await;
    let (_session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::Resize(DISK / 512 / 2)).after(2));
    let error = rig.read_all(&lun).await.unwrap_err();
    assert!(
        error.to_string().contains("shrank") || error.to_string().contains("capacity"),
        "{error}"
    );
}

#[tokio::test]
async fn not_ready_is_waited_for() {
    for sense in [Sense::BECOMING_READY, Sense::new(2, 4, 0x0a)] {
        let rig = Rig::new().await;
        rig.survives(Rule::new(On::Read, check(sense)).after(3).times(3)).await;
    }
    let rig = Rig::new().await;
    rig.survives(Rule::new(On::Read, Fault::NotReady(SECOND)).after(5)).await;
}

#[tokio::test]
async fn never_ready_is_an_error_at_the_deadline() {
    let rig = Rig::new().await.timeout(2 * SECOND);
    let error = rig.fails(On::Read, Fault::NotReady(60 * SECOND)).await;
    assert!(error.to_string().contains("not ready"), "{error}");
}

#[tokio::test]
async fn a_lun_that_is_gone_is_named_at_once() {
    let rig = Rig::new().await;
    let (_session, lun) = rig.open().await;
    rig.server.inject(Rule::new(On::Read, Fault::Vanish).after(3));
    let error = rig.read_all(&lun).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LunNotFound, "{error}");
    assert_eq!(error.hint(), Some("was the snapshot deleted?"));
    let reads = rig.server.stats().reads();
    assert!(reads < 40, "{reads} READs of a unit that is gone");
}

#[tokio::test]
async fn a_lun_that_is_gone_while_it_moves_is_waited_for() {
    let rig = Rig::new().await;
    let (session, lun) = rig.open().await;
    rig.server.send_async(AsyncMessage::LogoutRequest(1));
    rig.server.lun(0, 1).vanish();
    let back = async {
        rig.logged(", again").await;
        rig.server.lun(0, 1).appear();
    };
    let (digest, ()) = tokio::join!(rig.read_all(&lun), back);
    assert_eq!(digest.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn medium_errors_are_decoded_with_their_block() {
    for sense in [Sense::READ_ERROR.at_lba(5000), Sense::READ_ERROR.at_lba(5000).descriptor()] {
        let rig = Rig::new().await;
        let (_session, lun) = rig.open().await;
        rig.server.inject(Rule::new(On::ReadOf(5000..5001), check(sense)).always());
        let good = rig.bounded(lun.read_at(0, 4096)).await.unwrap();
        assert_eq!(good.into_bytes(), right_data(0, 4096));
        let error = rig.bounded(lun.read_at(4992 * 512, 8192)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Medium);
        let text = error.to_string();
        assert!(text.contains("unrecovered read error") && text.contains("5000"), "{text}");
    }
}

#[tokio::test]
async fn check_condition_without_sense_is_an_error() {
    let rig = Rig::new().await;
    let error = rig.fails(On::Read, Fault::Status(CHECK_CONDITION, None)).await;
    assert!(error.to_string().contains("sense"), "{error}");
}

#[tokio::test]
async fn sense_of_every_key_is_an_answer() {
    for key in 0..16 {
        let rig = Rig::new().await.timeout(SECOND);
        let (_session, lun) = rig.open().await;
        rig.server.inject(Rule::new(On::Read, check(Sense::new(key, 0x80, 0x81))).always());
        // No data came with it, so whatever the key means, there is nothing to give.
        let error = rig.bounded(lun.read_at(0, 512)).await.unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

#[tokio::test]
async fn a_rejected_command_is_issued_again() {
    for reason in [0x02, 0x04, 0x05, 0x06, 0x07, 0x09, 0x0a, 0x0c] {
        let rig = Rig::new().await;
        rig.survives(Rule::new(On::Read, Fault::Reject(reason)).after(3)).await;
    }
}

#[tokio::test]
async fn a_command_that_is_always_rejected_is_an_error_with_the_reason() {
    let rig = Rig::new().await;
    let error = rig.fails(On::ReadOf(4096..4097), Fault::Reject(0x09)).await;
    assert!(error.to_string().contains("invalid PDU field"), "{error}");
}

#[tokio::test]
async fn many_unit_attentions_in_a_row_are_absorbed_while_a_unit_is_opened() {
    let rig = Rig::new().await;
    let session = rig.login().await.unwrap();
    rig.server.inject(Rule::new(On::Opcode(0x9e), check(Sense::CAPACITY_CHANGED)).times(20));
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
}

#[tokio::test]
async fn unit_attentions_without_end_are_an_error_at_the_deadline_that_names_them() {
    for (sense, words) in [(Sense::POWER_ON, "(6/29/00)"), (Sense::CAPACITY_CHANGED, "(6/2a/09)")] {
        let rig = Rig::new().await.timeout(2 * SECOND);
        let session = rig.login().await.unwrap();
        let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
        let before = rig.server.stats().opcode(0x9e);
        rig.server.inject(Rule::new(On::Opcode(0x9e), check(sense)).always());
        // While a unit is opened, and while it is looked at because of such a one.
        let opening = rig.bounded(session.open_lun(Some(1))).await.unwrap_err();
        rig.server.lun(0, 1).attention(Sense::CAPACITY_CHANGED);
        let reading = rig.bounded(lun.read_at(0, 4096)).await.unwrap_err();
        for error in [opening, reading] {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            let text = error.to_string();
            assert!(text.contains(words), "{text}");
            assert_eq!(text.matches("READ CAPACITY(16)").count(), 1, "{text}");
        }
        let asked = rig.server.stats().opcode(0x9e) - before;
        assert!(asked < 60, "{asked} times in four seconds: no back-off");
    }
}

#[tokio::test]
async fn what_is_wrong_with_one_unit_is_not_said_of_another() {
    let units = [(1, "disk-1"), (2, "disk-2")];
    let units = units.map(|(number, name)| Lun::new(number, name, Disk::pattern(DISK, SEED)));
    let target = units.into_iter().fold(Target::new(IQN), Target::lun);
    let config = Config { targets: vec![target], ..target_config() };
    let rig = Rig::with(config).await.timeout(2 * SECOND);
    let (session, first) = rig.open().await;
    let second = rig.bounded(session.open_lun(Some(2))).await.unwrap();
    rig.server.lun(0, 1).exchange("disk-3");
    rig.server.lun(0, 1).attention(Sense::CAPACITY_CHANGED);
    let exchanged = rig.bounded(first.read_at(0, 4096)).await.unwrap_err();
    assert!(exchanged.to_string().contains("another device"), "{exchanged}");
    rig.server.inject(Rule::new(On::Read, Fault::Silence).always());
    let late = rig.bounded(second.read_at(0, 4096)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    assert!(!late.to_string().contains("another device"), "{late}");
}
