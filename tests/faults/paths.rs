//! One unit through several portals: shared reading, and what becomes of it when a path fails.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Lun, Session};
use snapbrowse_target::{
    AccessState, AsyncMessage, Close, Config, Disk, Fault, On, Rule, Sense, Stats, Target,
};

use crate::rig::{IQN, Rig, right_data, right_digest, target_config};

const SECOND: Duration = Duration::from_secs(1);
const CHECK_CONDITION: u8 = 0x02;

/// The unit of every test, before it is made special.
fn unit() -> snapbrowse_target::Lun {
    let disk = Disk::pattern(crate::rig::DISK, crate::rig::SEED);
    snapbrowse_target::Lun::new(1, "disk-1", disk)
}

async fn rig(portals: usize, lun: snapbrowse_target::Lun) -> Rig {
    Rig::with(Config {
        portals: vec![([127, 0, 0, 1], 0).into(); portals],
        targets: vec![Target::new(IQN).lun(lun)],
        // Slow enough for reads to be under way on every path.
        latency: Duration::from_millis(2),
        ..target_config()
    })
    .await
}

/// Logs in through the first portal, with the others at hand.
async fn open(rig: &Rig) -> (Session, Lun) {
    let portals = rig.portals();
    let login = Session::login(&portals, IQN, &rig.config);
    let session = rig.bounded(login).await.unwrap();
    let lun = rig.bounded(session.open_lun(Some(1))).await.unwrap();
    (session, lun)
}

/// The same with every path open that can be.
async fn open_all(rig: &Rig) -> (Session, Lun) {
    let (session, lun) = open(rig).await;
    rig.bounded(lun.open_paths()).await;
    (session, lun)
}

fn reads(stats: &Stats) -> Vec<u64> {
    (0..4).map(|portal| stats.reads_at.get(&portal).copied().unwrap_or(0)).collect()
}

fn in_use(lun: &Lun) -> Vec<bool> {
    lun.paths().iter().map(|path| path.in_use).collect()
}

#[tokio::test]
async fn two_paths_share_the_reads() {
    let rig = rig(2, unit()).await;
    let (session, lun) = open_all(&rig).await;
    assert_eq!(in_use(&lun), [true, true], "{:?}", lun.paths());
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    let stats = rig.server.stats();
    assert!(reads(&stats)[..2].iter().all(|n| *n >= 8), "{:?}", reads(&stats));
    assert_eq!((stats.normal_sessions, reads(&stats)[2]), (2, 0));
    rig.bounded(session.logout()).await.unwrap();
    let stats = rig.server.wait_for(|stats| stats.open_connections == 0).await;
    assert_eq!((stats.logouts, stats.violations), (2, vec![]));
}

#[tokio::test]
async fn further_paths_are_opened_by_long_reading_only() {
    let rig = rig(2, unit()).await;
    let (session, lun) = open(&rig).await;
    rig.bounded(lun.read_at(0, 4 << 20)).await.unwrap();
    assert_eq!(rig.server.stats().normal_sessions, 1, "nobody asked for much");
    let paths = lun.paths();
    assert_eq!((paths[0].in_use, paths[1].in_use), (true, false));
    assert_eq!(paths[1].state, "not opened yet");
    for _ in 0..4 {
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    }
    rig.bounded(rig.server.wait_for(|stats| stats.normal_sessions == 2)).await;
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn one_path_only_where_that_is_wanted() {
    let mut rig = rig(2, unit()).await;
    rig.config.paths = 1;
    let (session, lun) = open_all(&rig).await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    assert_eq!((rig.server.stats().normal_sessions, lun.paths().len()), (1, 1));
    // The other portal is a fall-back all the same.
    rig.server.stop_portal(0, Close::Reset).await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_path_dropped_in_mid_read_loses_nothing() {
    for which in [0, 1] {
        let rig = rig(2, unit()).await;
        let (session, lun) = open_all(&rig).await;
        rig.server.inject(
            Rule::new(On::Read, Fault::CloseAfter(100_001, Close::Reset)).after(4).at_portal(which),
        );
        let dropped = async {
            rig.server.wait_for(|stats| stats.open_connections < 2).await;
            rig.server.stop_portal(which, Close::Reset).await;
        };
        let (digest, ()) = tokio::join!(rig.read_all(&lun), dropped);
        assert_eq!(digest.unwrap(), right_digest());
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        assert!(!in_use(&lun)[which]);
        rig.server.start_portal(which).await.unwrap();
        // It comes back by itself, and is made use of again.
        let before = reads(&rig.server.stats())[which];
        rig.bounded(async {
            while reads(&rig.server.stats())[which] < before + 8 {
                assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
            }
        })
        .await;
        rig.bounded(session.logout()).await.unwrap();
        assert_eq!(rig.server.stats().violations, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_portal_that_the_only_session_has_left_is_used_again() {
    use AccessState::{Optimized, Standby};
    // Whatever the states are, the port that the session came to is not the one that it left.
    for (states, ways_in_use) in [(None, [true, true]), (Some([Optimized, Standby]), [true, false])]
    {
        let unit = states.map_or_else(unit, |states| unit().access_states(states));
        let rig = rig(2, unit).await;
        let (session, lun) = open(&rig).await;
        rig.server.stop_portal(0, Close::Reset).await;
        // Through the other portal: there is no other session yet.
        rig.logged("connected again").await;
        rig.server.start_portal(0).await.unwrap();
        rig.bounded(lun.open_paths()).await;
        let shown = lun.paths();
        for (portal, in_use) in rig.portals().iter().zip(ways_in_use) {
            let here: Vec<_> = shown.iter().filter(|path| path.portal == *portal).collect();
            assert!(here.len() == 1 && here[0].in_use == in_use, "{shown:?}");
        }
        let before = reads(&rig.server.stats());
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        let after = reads(&rig.server.stats());
        assert!(after[0] >= before[0] + 8, "{after:?}");
        assert_eq!(after[1] > before[1], ways_in_use[1], "{after:?}");
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_does_not_come_back_where_another_has_come_meanwhile() {
    let rig = rig(2, unit()).await;
    let (session, lun) = open(&rig).await;
    rig.server.inject(Rule::new(On::Login, Fault::Delay(2 * SECOND)).at_portal(1));
    rig.server.stop_portal(0, Close::Reset).await;
    // The first session is on its way to the other portal when a second one is made through that.
    rig.bounded(rig.server.wait_for(|stats| stats.connections == 2)).await;
    rig.bounded(lun.open_paths()).await;
    assert_eq!(in_use(&lun), [false, true], "{:?}", lun.paths());
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.server.start_portal(0).await.unwrap();
    rig.logged("connected again").await;
    let before = reads(&rig.server.stats());
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    let after = reads(&rig.server.stats());
    assert!((0..2).all(|portal| after[portal] >= before[portal] + 8), "{before:?} {after:?}");
    rig.bounded(session.logout()).await.unwrap();
    rig.bounded(rig.server.wait_for(|stats| stats.open_connections == 0)).await;
}

#[tokio::test]
async fn a_session_that_is_alone_comes_back_where_it_was_lost() {
    let mut rig = rig(2, unit()).await;
    rig.config.paths = 1;
    let (session, lun) = open(&rig).await;
    rig.server.stop_portal(0, Close::Reset).await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.server.start_portal(0).await.unwrap();
    let before = reads(&rig.server.stats());
    rig.server.close_connections(Close::Reset);
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    let after = reads(&rig.server.stats());
    assert!(after[0] == before[0] && after[1] >= before[1] + 32, "{before:?} {after:?}");
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_path_that_goes_silent_in_mid_read_loses_nothing() {
    for which in [0, 1] {
        let rig = rig(2, unit()).await.timeout(8 * SECOND);
        let (_session, lun) = open_all(&rig).await;
        rig.server.inject(Rule::new(On::Read, Fault::Mute).after(4).at_portal(which));
        rig.server.inject(Rule::new(On::Connect, Fault::Mute).always().at_portal(which));
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        assert!(!in_use(&lun)[which], "{:?}", lun.paths());
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    }
}

#[tokio::test]
async fn an_answer_lost_on_one_path_is_asked_for_on_the_other() {
    let rig = rig(2, unit()).await.timeout(4 * SECOND);
    let (session, lun) = open_all(&rig).await;
    rig.server.inject(Rule::new(On::ReadOf(4096..4097), Fault::Silence).always().at_portal(0));
    rig.server.inject(Rule::new(On::ReadOf(8192..8193), Fault::Silence).always().at_portal(1));
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn damaged_answers_of_one_path_are_asked_for_on_the_other() {
    let rig = rig(2, unit()).await;
    let (session, lun) = open_all(&rig).await;
    rig.server
        .inject(Rule::new(On::ReadOf(4096..4097), Fault::LoseDataIn(1)).always().at_portal(0));
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn an_answer_damaged_on_every_path_is_an_error() {
    let rig = rig(2, unit()).await;
    let (_session, lun) = open_all(&rig).await;
    rig.server.inject(Rule::new(On::ReadOf(4096..4097), Fault::LoseDataIn(1)).always());
    let error = rig.bounded(lun.read_at(4096 * 512, 256 << 10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("skipped data"), "{error}");
}

#[tokio::test]
async fn all_paths_down_for_a_while() {
    let rig = rig(2, unit()).await.timeout(10 * SECOND);
    let (session, lun) = open_all(&rig).await;
    for portal in [0, 1] {
        rig.server.stop_portal(portal, Close::Reset).await;
    }
    let back = async {
        rig.logged("connection refused").await;
        rig.server.start_portal(1).await.unwrap();
    };
    let (digest, ()) = tokio::join!(rig.read_all(&lun), back);
    assert_eq!(digest.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn all_paths_down_for_good_is_an_error_at_the_deadline() {
    let rig = rig(2, unit()).await.timeout(2 * SECOND);
    let (_session, lun) = open_all(&rig).await;
    for portal in [0, 1] {
        rig.server.stop_portal(portal, Close::Reset).await;
    }
    let error = rig.read_all(&lun).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("no result within 2 s"), "{error}");
}

#[tokio::test]
async fn a_read_does_not_wait_out_the_pauses_that_have_grown_before_it() {
    let rig = rig(2, unit()).await.timeout(2 * SECOND);
    let (session, lun) = open_all(&rig).await;
    let before = rig.server.stats().connections;
    rig.server.stop_portal(1, Close::Reset).await;
    rig.server.inject(Rule::new(On::Connect, Fault::Close(Close::Fin)).always().at_portal(0));
    rig.server.close_connections(Close::Reset);
    // After the sixth attempt the session of that portal pauses for two seconds at least.
    tokio::time::timeout(20 * SECOND, rig.server.wait_for(|stats| stats.connections == before + 6))
        .await
        .unwrap();
    rig.server.clear_rules();
    let read = rig.bounded(lun.read_at(4096, 8192)).await.unwrap();
    assert_eq!(read.into_bytes(), right_data(4096, 8192));
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn another_device_behind_a_portal_is_refused_by_name() {
    let rig = rig(2, unit().serial_at(1, "disk-2")).await;
    let (session, lun) = open_all(&rig).await;
    let refused = &lun.paths()[1];
    assert!(!refused.in_use && refused.state.contains("another device"), "{refused:?}");
    for _ in 0..3 {
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    }
    assert_eq!(reads(&rig.server.stats())[1], 0, "read from another device");
    let portal = rig.portals()[1].to_string();
    let told = rig.log().iter().filter(|line| line.contains("another device")).count();
    assert_eq!(told, 1, "{:#?}", rig.log());
    assert!(rig.log().iter().any(|line| line.contains(&portal) && line.contains("WARN")));
    // Not even where it is the only one left.
    let rig = rig.timeout(2 * SECOND);
    rig.bounded(session.logout()).await.unwrap();
    let (_session, lun) = open_all(&rig).await;
    rig.server.stop_portal(0, Close::Reset).await;
    assert!(rig.bounded(lun.read_at(0, 4096)).await.is_err());
    assert_eq!(reads(&rig.server.stats())[1], 0, "read from another device");
}

#[tokio::test]
async fn portals_that_cannot_be_reached_slow_nothing() {
    let rig = rig(3, unit()).await.timeout(60 * SECOND);
    rig.server.stop_portal(1, Close::Reset).await;
    rig.server.inject(Rule::new(On::Connect, Fault::Mute).always().at_portal(2));
    let (session, lun) = open(&rig).await;
    let read = async {
        for _ in 0..4 {
            assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        }
    };
    tokio::time::timeout(5 * SECOND, read).await.unwrap();
    // The login that is still under way does not hold up the logout either.
    tokio::time::timeout(5 * SECOND, session.logout()).await.unwrap().unwrap();
    let lines = rig.log();
    let refused = lines.iter().filter(|line| line.contains("connection refused")).count();
    assert_eq!(refused, 1, "{lines:#?}");
}

#[tokio::test]
async fn two_names_of_one_portal_are_one_path() {
    let rig = rig(1, unit()).await;
    let mut portals = rig.portals();
    portals.push(format!("localhost:{}", portals[0].port).parse().unwrap());
    let session = Session::login(&portals, IQN, &rig.config).await.unwrap();
    let lun = session.open_lun(Some(1)).await.unwrap();
    rig.bounded(lun.open_paths()).await;
    assert_eq!(in_use(&lun), [true, false], "{:?}", lun.paths());
    assert!(lun.paths()[1].state.contains("leads to where"), "{:?}", lun.paths());
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn the_optimized_path_is_read_and_the_others_stand_by() {
    use AccessState::{NonOptimized, Offline, Optimized, Standby, Transitioning, Unavailable};
    for other in [NonOptimized, Standby, Unavailable, Offline, Transitioning] {
        for (states, best) in [([Optimized, other], 0), ([other, Optimized], 1)] {
            let rig = rig(2, unit().access_states(states)).await;
            let (session, lun) = open_all(&rig).await;
            assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
            let stats = rig.server.stats();
            assert_eq!(reads(&stats)[1 - best], 0, "{states:?}");
            let usable = other == NonOptimized;
            let shown = lun.paths();
            assert_eq!(shown.iter().filter(|path| path.in_use).count(), 1 + usize::from(usable));
            assert!(shown.iter().any(|path| path.state == "active/optimized"), "{shown:?}");
            rig.bounded(session.logout()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn access_states_that_change_in_mid_read_are_followed() {
    use AccessState::{NonOptimized, Optimized, Standby, Transitioning};
    for (before, after) in [
        ([Optimized, Standby], [Standby, Optimized]),
        ([Optimized, NonOptimized], [NonOptimized, Optimized]),
        ([Optimized, Standby], [Transitioning, Optimized]),
    ] {
        let rig = rig(2, unit().access_states(before)).await;
        let (session, lun) = open_all(&rig).await;
        rig.server.inject(Rule::new(On::Read, Fault::Access(after.to_vec())).after(8));
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        let at_change = rig.server.stats();
        assert!(reads(&at_change)[1] >= 8, "{before:?} {:?}", reads(&at_change));
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        let later = rig.server.stats();
        assert_eq!(reads(&later)[0], reads(&at_change)[0], "read from what stands by: {after:?}");
        // And back again.
        rig.server.lun(0, 1).set_access_states(before);
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        assert!(reads(&rig.server.stats())[0] > reads(&later)[0]);
        assert!(rig.log().len() < 30, "{:#?}", rig.log());
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn a_port_that_does_not_serve_the_unit_sends_the_reads_to_another() {
    for ascq in [0x0a, 0x0b, 0x0c] {
        // Without a word about access states elsewhere, and before any other path was opened.
        let rig = rig(2, unit()).await;
        let (session, lun) = open(&rig).await;
        let closed = Fault::Status(CHECK_CONDITION, Some(Sense::new(2, 4, ascq)));
        rig.server.inject(Rule::new(On::Read, closed).after(3).always().at_portal(0));
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        let stats = rig.server.stats();
        assert!(reads(&stats)[1] >= 29, "{:?}", reads(&stats));
        assert!(reads(&stats)[0] < 40, "{:?}", reads(&stats));
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn the_only_path_is_waited_for_until_its_port_serves_the_unit() {
    for ascq in [0x0a, 0x0b, 0x0c] {
        let closed = Fault::Status(CHECK_CONDITION, Some(Sense::new(2, 4, ascq)));
        let only = rig(1, unit()).await;
        let (session, lun) = open(&only).await;
        only.server.inject(Rule::new(On::Read, closed.clone()).after(3).times(3));
        assert_eq!(only.read_all(&lun).await.unwrap(), right_digest());
        only.bounded(session.logout()).await.unwrap();
        let only = rig(1, unit()).await.timeout(2 * SECOND);
        let (_session, lun) = open(&only).await;
        only.server.inject(Rule::new(On::Read, closed).always());
        let error = only.bounded(lun.read_at(0, 4096)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("not accessible"), "{error}");
    }
}

#[tokio::test]
async fn no_port_serves_the_unit_for_a_while() {
    use AccessState::{Optimized, Standby, Transitioning};
    let rig = rig(2, unit().access_states([Optimized, Standby])).await;
    let (session, lun) = open_all(&rig).await;
    let asked = rig.server.stats().opcode(0xa3);
    rig.server.inject(Rule::new(On::Read, Fault::Access(vec![Transitioning, Standby])).after(8));
    let over = async {
        // REPORT TARGET PORT GROUPS, again and again.
        rig.server.wait_for(|stats| stats.opcode(0xa3) >= asked + 4).await;
        rig.server.lun(0, 1).set_access_states([Standby, Optimized]);
    };
    let (digest, ()) = tokio::join!(rig.read_all(&lun), over);
    assert_eq!(digest.unwrap(), right_digest());
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_lun_is_opened_through_a_port_that_serves_it() {
    use AccessState::{Optimized, Standby, Unavailable};
    for state in [Standby, Unavailable] {
        let rig = rig(2, unit().access_states([state, Optimized])).await;
        let (session, lun) = open(&rig).await;
        let read = rig.bounded(lun.read_at(4096, 8192)).await.unwrap();
        assert_eq!(read.into_bytes(), right_data(4096, 8192));
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn another_path_gets_what_is_left_of_the_time_to_open_a_lun() {
    let rig = rig(2, unit()).await.timeout(2 * SECOND);
    let closed = Fault::Status(CHECK_CONDITION, Some(Sense::new(2, 4, 0x0b)));
    let portals = rig.portals();
    let session = rig.bounded(Session::login(&portals, IQN, &rig.config)).await.unwrap();
    rig.server.inject(Rule::new(On::Command, Fault::Delay(SECOND * 8 / 5)).at_portal(0));
    rig.server.inject(Rule::new(On::Command, closed).after(1).always().at_portal(0));
    rig.server.inject(Rule::new(On::Command, Fault::Silence).always().at_portal(1));
    // Had the other path a whole time of its own, its silence would be the reason.
    let error = rig.bounded(session.open_lun(Some(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PathClosed, "{error}");
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_capacity_that_shrinks_is_an_error_through_every_path() {
    let rig = rig(2, unit()).await;
    let (_session, lun) = open_all(&rig).await;
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.server.lun(0, 1).resize(100);
    let error = rig.read_all(&lun).await.unwrap_err();
    assert!(error.to_string().contains("shrank"), "{error}");
}

#[tokio::test]
async fn a_lun_that_is_gone_is_named_through_every_path() {
    let rig = rig(2, unit()).await;
    let (_session, lun) = open_all(&rig).await;
    rig.server.lun(0, 1).vanish();
    let error = rig.read_all(&lun).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LunNotFound, "{error}");
}

#[tokio::test]
async fn a_target_that_sends_everybody_away_is_logged_in_to_on_both_paths() {
    let rig = rig(2, unit()).await.timeout(10 * SECOND);
    let (session, lun) = open_all(&rig).await;
    rig.server.send_async(AsyncMessage::DropConnection { time2wait: 1 });
    assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
    rig.bounded(rig.server.wait_for(|stats| stats.normal_sessions == 4)).await;
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_list_of_vpd_pages_is_survived() {
    // Nothing, only itself, too much, too little, not what it is.
    for pages in [&[][..], &[0x00], &[0x00, 0x80, 0x83, 0xb0, 0xb5], &[0x00, 0x83], &[0xb0]] {
        let rig = rig(2, unit().vpd_pages(pages)).await;
        let (session, lun) = open_all(&rig).await;
        assert_eq!(in_use(&lun), [true, true], "{pages:x?}: {:?}", lun.paths());
        assert_eq!(rig.read_all(&lun).await.unwrap(), right_digest());
        rig.bounded(lun.rotation_rate()).await.unwrap();
        rig.bounded(session.logout()).await.unwrap();
    }
}

#[tokio::test]
async fn opening_a_lun_asks_for_nothing_twice() {
    let rig = rig(1, unit().vpd_pages(&[0x00, 0x83])).await;
    let (session, lun) = open(&rig).await;
    let stats = rig.server.stats();
    // INQUIRY, VPD 00h and 83h; one command more met the unit attention of a new session.
    assert_eq!(stats.opcode(0x12), 3, "pages that are not on the list were asked for");
    assert!(stats.commands.values().sum::<u64>() <= 7, "{:?}", stats.commands);
    assert_eq!(stats.opcode(0xa3), 0, "no access states where the unit has none");
    assert_eq!(rig.bounded(lun.rotation_rate()).await.unwrap(), None);
    rig.bounded(session.logout()).await.unwrap();
}

#[tokio::test]
async fn rotation_rates_are_told() {
    for (rate, told) in [(1, Some(0)), (7200, Some(7200)), (0, None)] {
        let rig = rig(1, unit().rotation_rate(rate)).await;
        let (_session, lun) = open(&rig).await;
        assert_eq!(rig.bounded(lun.rotation_rate()).await.unwrap(), told);
    }
}
