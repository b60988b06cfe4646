//! SendTargets answers that are long, odd or late.

use std::time::Duration;

use snapbrowse::ErrorKind;
use snapbrowse::iscsi::discover;
use snapbrowse_target::{Chap, Config, Fault, On, Rule, Target};

use crate::rig::Rig;

fn many(count: usize) -> Config {
    let targets = (0..count).map(|n| Target::new(format!("iqn.2026-01.test:volume-{n:03}")));
    Config { targets: targets.collect(), ..Config::default() }
}

#[tokio::test]
async fn an_answer_over_many_text_pdus() {
    let rig = Rig::with(many(500)).await;
    rig.server.inject(Rule::new(On::Text, Fault::Pieces(1000)).always());
    let found = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    let names: Vec<_> = found.iter().map(|record| record.name.clone()).collect();
    let wanted: Vec<_> = (0..500).map(|n| format!("iqn.2026-01.test:volume-{n:03}")).collect();
    assert_eq!(names, wanted);
    assert!(found.iter().all(|record| record.portals == [(rig.portals()[0].clone(), 1)]));
    let stats = rig.server.stats();
    assert_eq!((stats.violations, stats.discovery_sessions), (vec![], 1));
}

#[tokio::test]
async fn an_answer_that_cuts_keys_and_characters() {
    let rig = Rig::with(many(3)).await;
    rig.server.inject(Rule::new(On::Text, Fault::Pieces(1)).always());
    let found = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    assert_eq!(found.len(), 3);
}

#[tokio::test]
async fn unknown_keys_and_odd_addresses_are_passed_over() {
    let rig = Rig::with(many(2)).await;
    let keys = [
        ("TargetAlias", "the first"),
        ("X-com.example.colour", "blue"),
        ("TargetAddress", "[fe80::1%eth0]:3260,7"),
        ("TargetAddress", "san.example.org,4"),
        ("TargetAddress", "nonsense:port:what,x"),
    ];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    rig.server.inject(Rule::new(On::Text, Fault::MoreKeys(keys)).always());
    let found = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    assert_eq!(found.len(), 2);
    let groups: Vec<_> = found[0].portals.iter().map(|(portal, tag)| (portal.port, *tag)).collect();
    assert!(groups.contains(&(rig.portals()[0].port, 1)), "{groups:?}");
    assert!(groups.contains(&(3260, 4)), "{groups:?}");
}

#[tokio::test]
async fn no_targets_are_an_empty_list() {
    let rig = Rig::with(many(0)).await;
    assert_eq!(rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap(), []);
}

#[tokio::test]
async fn several_portals_are_merged_and_a_dead_one_is_skipped() {
    let config = Config { portals: vec![([127, 0, 0, 1], 0).into(); 3], ..many(2) };
    let rig = Rig::with(config).await;
    rig.server.stop_portal(1, snapbrowse_target::Close::Fin).await;
    let found = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].portals.len(), 3);
}

#[tokio::test]
async fn a_discovery_that_is_never_answered_is_an_error_at_the_deadline() {
    let rig = Rig::with(many(2)).await.timeout(Duration::from_secs(1));
    rig.server.inject(Rule::new(On::Text, Fault::Silence).always());
    let error = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(rig.server.stats().logouts, 1);
}

#[tokio::test]
async fn a_discovery_that_is_broken_off_logs_out() {
    let rig = Rig::with(many(2)).await;
    rig.server.inject(Rule::new(On::Text, Fault::Silence).always());
    let (portals, config) = (rig.portals(), rig.config.clone());
    let asking = tokio::spawn(async move { discover(&portals, &config).await });
    rig.bounded(rig.server.wait_for(|stats| stats.texts == 1)).await;
    asking.abort();
    rig.bounded(rig.server.wait_for(|stats| stats.logouts == 1)).await;
}

#[tokio::test]
async fn a_discovery_that_demands_chap_says_so() {
    let config = Config { discovery_chap: Some(Chap::new("alice", "secretsecret12")), ..many(2) };
    let rig = Rig::with(config).await;
    let error = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login, "{error}");
}

#[tokio::test]
async fn a_target_that_listens_everywhere_is_where_it_was_asked() {
    let rig = Rig::with(many(1)).await;
    let port = rig.server.portal().port();
    let key = |address: String| ("TargetAddress".to_owned(), address);
    let keys = vec![key(format!("0.0.0.0:{port},1")), key("[::]:3260,1".to_owned())];
    rig.server.inject(Rule::new(On::Text, Fault::MoreKeys(keys)).always());
    let found = rig.bounded(discover(&rig.portals(), &rig.config)).await.unwrap();
    let shown: Vec<_> = found[0].portals.iter().map(|(portal, _)| portal.to_string()).collect();
    assert_eq!(shown, [format!("127.0.0.1:{port}"), "127.0.0.1:3260".to_owned()]);
}
