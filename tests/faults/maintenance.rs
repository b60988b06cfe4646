//! What passes: a path that was refused for a time, a unit that is exchanged, connections that end while a unit is opened.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Lun, Session};
use snapbrowse_target::{Close, Config, Disk, Fault, On, Rule, Sense, Target};

use crate::rig::{DISK, IQN, Rig, SEED, right_data, right_digest, target_config};

const SECOND: Duration = Duration::from_secs(1);
/// More than the second for which a path that was refused is not looked at again; no event tells that it is over.
const NEXT_LOOK: Duration = Duration::from_millis(1200);
const READ_CAPACITY_16: On = On::Opcode(0x9e);

fn unit() -> snapbrowse_target::Lun {
    snapbrowse_target::Lun::new(1, "disk-1", Disk::pattern(DISK, SEED))
}

/// One unit through two portals, answers slow enough for reads to be under way on both.
async fn rig(unit: snapbrowse_target::Lun) -> Rig {
    Rig::with(Config {
        portals: vec![([127, 0, 0, 1], 0).into(); 2],
        targets: vec![Target::new(IQN).lun(unit)],
        latency: Duration::from_millis(2),
        ..target_config()
    })
    .await
}

async fn log_in(rig: &Rig) -> Session {
    let portals = rig.portals();
    rig.bounded(Session::login(&portals, IQN, &rig.config)).await.unwrap()
}

async fn open_all(rig: &Rig) -> (Session, Lun) {
    let session = log_in(rig).await;
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    rig.bounded(lun.open_paths()).await;
    (session, lun)
}

fn in_use(lun: &Lun) -> Vec<bool> {
    lun.paths().iter().map(|path| path.in_use).collect()
}

/// LUN 1 is not known at a portal.
fn gone(portal: usize) -> Rule {
    let no_such_unit = Fault::Status(0x02, Some(Sense::new(5, 0x25, 0)));
    Rule::new(On::Command, no_such_unit).always().at_portal(portal)
}

fn count(rig: &Rig, part: &str) -> usize {
    rig.log().iter().filter(|line| line.contains(part)).count()
}

/// Reads, and gets the right data, until something has happened.
async fn read_until(rig: &Rig, lun: &Lun, happened: impl Fn() -> bool) {
    let reading = async {
        while !happened() {
            assert_eq!(rig.read_all(lun).await.unwrap(), right_digest());
        }
    };
    tokio::time::timeout(20 * SECOND, reading)
        .await
        .unwrap_or_else(|_| panic!("it did not happen: {:#?} {:?}", rig.log(), lun.paths()));
}

/// Reads until a portal is read through that was not.
async fn read_until_used(rig: &Rig, lun: &Lun, portal: usize) {
    let reads = || rig.server.stats().reads_at.get(&portal).copied().unwrap_or(0);
    let before = reads();
    read_until(rig, lun, || reads() >= before + 8).await;
    assert_eq!(in_use(lun), [true, true], "{:?}", lun.paths());
}

#[tokio::test]
async fn a_portal_without_the_unit_is_read_through_again_when_it_has_it() {
    let rig = rig(unit()).await;
    let (session, lun) = open_all(&rig).await;
    rig.server.inject(gone(1));
    read_until(&rig, &lun, || !in_use(&lun)[1]).await;
    // It is looked at again, less and less often, and not a word is said about that.
    let asked = || rig.server.stats().opcode(0x12);
    let before = asked();
    read_until(&rig, &lun, || asked() >= before + 2).await;
    assert_eq!(count(&rig, "not read through this portal"), 1, "{:#?}", rig.log());
    rig.server.clear_rules();
    read_until_used(&rig, &lun, 1).await;
    assert_eq!(count(&rig, "again"), 1, "{:#?}", rig.log());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_portal_that_has_no_unit_at_first_is_read_through_when_it_has_it() {
    let rig = rig(unit()).await;
    rig.server.inject(gone(1));
    let (session, lun) = open_all(&rig).await;
    assert_eq!(in_use(&lun), [true, false], "{:?}", lun.paths());
    assert!(lun.paths()[1].state.contains("no longer exists"), "{:?}", lun.paths());
    rig.server.clear_rules();
    read_until_used(&rig, &lun, 1).await;
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_portal_that_showed_another_device_is_read_through_when_it_shows_the_right_one() {
    let rig = rig(unit().serial_at(1, "disk-2")).await;
    let (session, lun) = open_all(&rig).await;
    assert_eq!(in_use(&lun), [true, false], "{:?}", lun.paths());
    rig.server.lun(0, 1).exchange("disk-1");
    read_until_used(&rig, &lun, 1).await;
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_portal_that_refused_the_login_is_asked_again() {
    // Service unavailable, target not found, target removed, authorization failure.
    for (class, detail) in [(3, 1), (2, 3), (2, 4), (2, 2)] {
        let rig = rig(unit()).await.timeout(2 * SECOND);
        let refusal = Fault::LoginStatus(class, detail);
        rig.server.inject(Rule::new(On::Login, refusal).always().at_portal(1));
        let (session, lun) = open_all(&rig).await;
        assert_eq!(in_use(&lun), [true, false], "{:?}", lun.paths());
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        rig.server.clear_rules();
        // Whoever looks does it at once where the time to wait has passed; reading does so every half a minute.
        rig.bounded(async {
            while !in_use(&lun)[1] {
                rig.bounded(lun.open_paths()).await;
                tokio::time::sleep(SECOND / 10).await;
            }
        })
        .await;
        read_until_used(&rig, &lun, 1).await;
        let code = format!("{class:02x}{detail:02x}");
        assert_eq!(count(&rig, &code), 1, "{:#?}", rig.log());
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_path_whose_portal_refuses_the_login_comes_back_and_says_why_once() {
    let rig = rig(unit()).await;
    let (session, lun) = open_all(&rig).await;
    rig.server.inject(Rule::new(On::Login, Fault::LoginStatus(2, 3)).always().at_portal(1));
    rig.server.stop_portal(1, Close::Reset).await;
    rig.server.start_portal(1).await.unwrap();
    let before = rig.server.stats().connections;
    read_until(&rig, &lun, || rig.server.stats().connections >= before + 5).await;
    assert_eq!(count(&rig, "0203"), 1, "{:#?}", rig.log());
    rig.server.clear_rules();
    read_until_used(&rig, &lun, 1).await;
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn portals_that_let_nobody_in_are_told_of_once_each() {
    let rig = rig(unit()).await.timeout(4 * SECOND);
    let session = log_in(&rig).await;
    let refusal = || Rule::new(On::Login, Fault::LoginStatus(3, 1)).always();
    for portal in [0, 1] {
        rig.server.inject(refusal().at_portal(portal));
    }
    let before = rig.server.stats().connections;
    rig.server.close_connections(Close::Reset);
    // Four rounds at least.
    rig.bounded(rig.server.wait_for(|stats| stats.connections >= before + 8)).await;
    for portal in rig.portals() {
        let told = |line: &&String| line.contains("0301") && line.contains(&portal.to_string());
        assert_eq!(rig.log().iter().filter(told).count(), 1, "{portal}: {:#?}", rig.log());
    }
    // The same while a session is made; the last portal's reason is the error.
    let told = rig.log().len();
    let portals = rig.portals();
    let login = Session::login(&portals, IQN, &rig.config);
    let error = rig.bounded(login).await.unwrap_err();
    assert!(error.to_string().contains(&portals[1].to_string()), "{error}");
    assert!(rig.log().len() <= told + 1, "{:#?}", rig.log());
    rig.server.clear_rules();
    let _ = rig.bounded(session.logout()).await;
}

#[tokio::test]
async fn controllers_that_are_out_of_order_one_after_the_other_cost_no_read() {
    let rig = rig(unit()).await;
    let (session, lun) = open_all(&rig).await;
    for portal in [1, 0, 1] {
        rig.server.inject(gone(portal));
        read_until(&rig, &lun, || !in_use(&lun)[portal]).await;
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        rig.server.clear_rules();
        // One that was looked at this moment is not looked at again for the next read.
        tokio::time::sleep(NEXT_LOOK).await;
    }
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn reads_that_fail_together_have_one_look_taken_at_each_path() {
    let rig = rig(unit()).await;
    let (session, lun) = open_all(&rig).await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.server.inject(gone(0));
    rig.server.inject(gone(1));
    let read = || rig.bounded(lun.read_at(0, 4096));
    assert_eq!(read().await.unwrap_err().kind(), ErrorKind::LunNotFound);
    // Paths that were looked at this moment are not looked at again.
    tokio::time::sleep(NEXT_LOOK).await;
    let before = rig.server.stats().opcode(0x12);
    let reads = futures_util::future::join_all((0..16).map(|_| read())).await;
    for read in reads {
        assert_eq!(read.unwrap_err().kind(), ErrorKind::LunNotFound);
    }
    assert_eq!(rig.server.stats().opcode(0x12) - before, 2, "one look at each of two paths");
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn the_other_portals_are_tried_before_a_unit_is_said_to_be_gone() {
    let rig = rig(unit()).await;
    let session = log_in(&rig).await;
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    rig.server.inject(gone(0));
    assert_eq!(rig.server.stats().normal_sessions, 1);
    let read = rig.bounded(lun.read_at(4096, 8192)).await.unwrap();
    assert_eq!(read.into_bytes(), right_data(4096, 8192));
    assert_eq!(in_use(&lun), [false, true], "{:?}", lun.paths());
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_unit_that_no_portal_has_is_gone_at_once() {
    let rig = rig(unit()).await.timeout(60 * SECOND);
    let session = log_in(&rig).await;
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    let gone_soon = || async {
        let read = tokio::time::timeout(5 * SECOND, lun.read_at(0, 4096)).await;
        let error = read.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LunNotFound, "{error}");
    };
    // The other portal says so, too.
    rig.server.inject(gone(0));
    rig.server.inject(gone(1));
    gone_soon().await;
    assert!(lun.paths()[1].state.contains("no longer exists"), "{:?}", lun.paths());
    rig.bounded(session.logout()).await.unwrap();
    // It says nothing at all, and has been waited for before.
    rig.server.clear_rules();
    let mut config = rig.config.clone();
    config.timeout = 2 * SECOND;
    let session = Session::login(&rig.portals(), IQN, &config).await.unwrap();
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    rig.server.inject(Rule::new(On::Connect, Fault::Mute).always().at_portal(1));
    rig.server.inject(gone(0));
    for _ in 0..2 {
        let error = rig.bounded(lun.read_at(0, 4096)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LunNotFound, "{error}");
    }
    rig.logged("no answer to the login").await;
    let late = tokio::time::timeout(SECOND, lun.read_at(0, 4096)).await;
    assert_eq!(late.unwrap().unwrap_err().kind(), ErrorKind::LunNotFound);
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_login_that_ends_after_the_logout_began_is_logged_out_too() {
    let rig = rig(unit()).await;
    let session = log_in(&rig).await;
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    rig.server.inject(Rule::new(On::Login, Fault::Delay(SECOND)).at_portal(1));
    let leave = async {
        rig.server.wait_for(|stats| stats.connections == 2).await;
        rig.bounded(session.logout()).await.unwrap();
    };
    tokio::join!(rig.bounded(lun.open_paths()), leave);
    let stats = rig.server.wait_for(|stats| stats.open_connections == 0).await;
    assert_eq!((stats.normal_sessions, stats.logouts), (2, 2), "{:?}", stats.violations);
}

#[tokio::test]
async fn a_unit_that_is_exchanged_while_it_is_opened_is_not_read() {
    for is_exchanged in [false, true] {
        let rig = Rig::new().await;
        let session = rig.login().await.unwrap();
        // The identity is known by the time that the capacity is asked for, and that is not answered.
        rig.server.inject(Rule::new(READ_CAPACITY_16, Fault::Silence));
        let exchange = async {
            rig.server.wait_for(|stats| stats.opcode(0x9e) == 1).await;
            if is_exchanged {
                rig.server.lun(0, 1).exchange("disk-2");
            }
            rig.server.close_connections(Close::Reset);
        };
        let (lun, ()) = tokio::join!(rig.bounded(session.open_lun(Some(1))), exchange);
        let lun = lun.unwrap();
        let read = rig.bounded(lun.read_at(0, 4096)).await;
        if is_exchanged {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BeingWritten, "{error}");
            // Opened anew it is what it is now.
            drop(lun);
            let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
            rig.bounded(lun.read_at(0, 4096)).await.unwrap();
        } else {
            assert_eq!(read.unwrap().into_bytes(), right_data(0, 4096));
        }
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn a_unit_that_is_open_twice_is_watched_for_both() {
    let rig = Rig::new().await;
    let (session, first) = rig.open().await;
    let second = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    assert_eq!(rig.read_all(&first).await.unwrap(), right_digest());
    assert_eq!(rig.read_all(&second).await.unwrap(), right_digest());
    // What the first one relies on outlives the second one.
    drop(second);
    rig.server.lun(0, 1).exchange("disk-2");
    rig.server.close_connections(Close::Reset);
    let error = rig.bounded(first.read_at(0, 4096)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BeingWritten, "{error}");
    // And whoever opens it now finds out for the first one that it was exchanged, even where nothing else tells.
    drop(first);
    let first = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    rig.bounded(first.read_at(0, 4096)).await.unwrap();
    rig.server.lun(0, 1).exchange("disk-3");
    let second = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    let error = rig.bounded(first.read_at(0, 4096)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BeingWritten, "{error}");
    drop(first);
    rig.bounded(second.read_at(0, 4096)).await.unwrap();
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_ends_while_a_unit_is_opened_costs_nothing_where_there_are_several() {
    // INQUIRY, TEST UNIT READY, READ CAPACITY, REPORT LUNS; for once, and for as long as it lasts.
    for opcode in [0x12, 0x00, 0x9e, 0xa0] {
        for always in [false, true] {
            let rig = rig(unit()).await;
            let (session, first) = open_all(&rig).await;
            let reset = Rule::new(On::Opcode(opcode), Fault::Close(Close::Reset)).at_portal(0);
            rig.server.inject(if always { reset.always() } else { reset });
            let found = rig.bounded(session.luns()).await.unwrap();
            assert_eq!(found.len(), 1);
            let lun = rig.bounded(session.open_lun(None)).await.unwrap();
            assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
            assert_eq!(rig.read_all(&first).await.unwrap(), right_digest());
            rig.server.clear_rules();
            rig.bounded(session.logout()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_unit_that_no_path_leads_to_any_more_is_an_error_when_it_is_opened() {
    let rig = rig(unit()).await.timeout(2 * SECOND);
    let (session, _lun) = open_all(&rig).await;
    for portal in [0, 1] {
        rig.server.stop_portal(portal, Close::Reset).await;
    }
    let error = rig.bounded(session.open_lun(Some(1))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::SessionLost | ErrorKind::Connect), "{error:?}");
    let _ = rig.bounded(session.logout()).await;
    // After the logout nothing is waited for.
    let late = tokio::time::timeout(SECOND, session.open_lun(Some(1))).await.unwrap();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::SessionLost);
}
