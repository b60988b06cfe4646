//! The initiator against `istgt`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cat, Istgt, IstgtOptions, LargeFile, Log, Need, Snapbrowse, can_run, disk, pattern};
use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Config, Credentials, DigestPolicy, Portal, Session, discover};

const NEEDS: &[Need] = &[Need::Program("istgt")];

const SIZE: usize = 12 << 20;

fn config() -> Config {
    Config::new("iqn.2026-01.test:initiator")
}

fn portals(istgt: &Istgt) -> Vec<Portal> {
    vec![istgt.address().to_string().parse().unwrap()]
}

/// Reads the whole disk through a session and compares.
async fn reads_everything(istgt: &Istgt, config: &Config, contents: &[u8]) {
    let session = Session::login(&portals(istgt), Istgt::IQN, config).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    assert!(lun.read_at(0, contents.len()).await.unwrap().into_bytes() == contents);
    session.logout().await.unwrap();
}

#[tokio::test]
async fn discovers_and_reads() {
    if !can_run("discovers_and_reads", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(SIZE, 11);
    for block_length in [512, 4096] {
        let options = IstgtOptions { block_length, ..IstgtOptions::default() };
        let istgt = Istgt::start(&disk(dir.path(), "a", &contents), &options);
        let found = discover(&portals(&istgt), &config()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, Istgt::IQN);
        assert_eq!(found[0].portals, [(portals(&istgt).remove(0), 1)]);
        reads_everything(&istgt, &config(), &contents).await;
    }
}

#[tokio::test]
async fn a_number_that_no_lun_has_is_not_another_lun() {
    if !can_run("a_number_that_no_lun_has_is_not_another_lun", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let istgt = Istgt::start(&disk(dir.path(), "a", &pattern(SIZE, 14)), &IstgtOptions::default());
    let session = Session::login(&portals(&istgt), Istgt::IQN, &config()).await.unwrap();
    // The first two bytes of the address are those of LUN 0, and this target looks at no others.
    for number in [16_384, 65_536, 1 << 32] {
        let error = session.open_lun(Some(number)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LunNotFound, "{error}");
        assert!(error.hint().unwrap().contains("LUN 0 ("), "{error}");
    }
    session.logout().await.unwrap();
}

#[tokio::test]
async fn proves_itself_one_way_and_both_ways() {
    if !can_run("proves_itself_one_way_and_both_ways", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(SIZE, 12);
    let file = disk(dir.path(), "a", &contents);
    let mut one_way = config();
    one_way.credentials = Some(Credentials::new("alice", "secretsecret12"));
    let mut both_ways = one_way.clone();
    both_ways.target_credentials = Some(Credentials::new("tgtuser", "targetsecret12"));

    let istgt = Istgt::start(&file, &IstgtOptions { auth: "CHAP", ..IstgtOptions::default() });
    reads_everything(&istgt, &one_way, &contents).await;
    let mut wrong = config();
    wrong.credentials = Some(Credentials::new("alice", "wrongwrong12"));
    for refused in [&wrong, &config()] {
        let error = Session::login(&portals(&istgt), Istgt::IQN, refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login, "{error}");
    }

    let istgt =
        Istgt::start(&file, &IstgtOptions { auth: "CHAP Mutual", ..IstgtOptions::default() });
    reads_everything(&istgt, &both_ways, &contents).await;
    both_ways.target_credentials = Some(Credentials::new("tgtuser", "othersecret12"));
    let error = Session::login(&portals(&istgt), Istgt::IQN, &both_ways).await.unwrap_err();
    assert!(error.to_string().contains("mutual CHAP"), "{error}");
}

#[tokio::test]
async fn proves_itself_for_discovery_too() {
    if !can_run("proves_itself_for_discovery_too", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = disk(dir.path(), "a", &pattern(SIZE, 14));
    let mut proven = config();
    proven.credentials = Some(Credentials::new("alice", "secretsecret12"));
    for method in ["CHAP", "CHAP Mutual"] {
        let options = IstgtOptions { discovery_auth: method, ..IstgtOptions::default() };
        let istgt = Istgt::start(&file, &options);
        let error = discover(&portals(&istgt), &config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login, "{error}");
        if method == "CHAP Mutual" {
            proven.target_credentials = Some(Credentials::new("tgtuser", "targetsecret12"));
        }
        let found = discover(&portals(&istgt), &proven).await.unwrap();
        assert_eq!(found[0].name, Istgt::IQN);
    }
}

#[tokio::test]
async fn digests_on_header_data_and_both() {
    if !can_run("digests_on_header_data_and_both", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(SIZE, 13);
    let file = disk(dir.path(), "a", &contents);
    let istgt = Istgt::start(&file, &IstgtOptions::default());
    for (header, data) in [(true, false), (false, true), (true, true)] {
        let policy = |wanted| if wanted { DigestPolicy::Require } else { DigestPolicy::None };
        let mut config = config();
        config.header_digest = policy(header);
        config.data_digest = policy(data);
        reads_everything(&istgt, &config, &contents).await;
    }
    // A target that insists gets what it insists on.
    let istgt =
        Istgt::start(&file, &IstgtOptions { digest: "Header Data", ..IstgtOptions::default() });
    reads_everything(&istgt, &config(), &contents).await;
}

#[tokio::test]
async fn ipv6() {
    if !can_run("ipv6", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(SIZE, 15);
    let file = disk(dir.path(), "a", &contents);
    let istgt = Istgt::start_at("[::1]:0".parse().unwrap(), &file, &IstgtOptions::default());
    let found = discover(&portals(&istgt), &config()).await.unwrap();
    assert_eq!(found[0].portals, [(portals(&istgt).remove(0), 1)]);
    reads_everything(&istgt, &config(), &contents).await;
}

#[tokio::test]
async fn a_target_that_restarts_in_mid_read_loses_no_read() {
    if !can_run("a_target_that_restarts_in_mid_read_loses_no_read", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, _guard) = Log::start();
    let contents = pattern(32 << 20, 16);
    let file = disk(dir.path(), "a", &contents);
    let mut istgt = Istgt::start(&file, &IstgtOptions::default());
    let session = Session::login(&portals(&istgt), Istgt::IQN, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    let (part, rest) = (1 << 20, contents.len() - (1 << 20));
    let (first, second) = (lun.read_at(0, part), lun.read_at(part as u64, rest));
    let down = async {
        // In mid-read: the rest is still under way.
        let first = first.await.unwrap().into_bytes();
        istgt.kill();
        log.says("connection refused").await;
        istgt.restart();
        first
    };
    let (first, second) = tokio::join!(down, second);
    assert!([first, second.unwrap().into_bytes()].concat() == contents);
    log.says("connected again").await;
    session.logout().await.unwrap();
}

#[test]
fn two_processes_read_one_unit_at_the_same_time() {
    if !can_run("two_processes_read_one_unit_at_the_same_time", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = LargeFile::new(dir.path());
    let istgt = Istgt::start(&file.image, &IstgtOptions::default());
    let snapbrowse = Snapbrowse::new();
    let mut one = Cat::start(&snapbrowse, &istgt.url());
    one.read(1 << 20);
    let mut two = Cat::start(&snapbrowse, &istgt.url());
    two.read(1 << 20);
    for cat in [one, two] {
        assert_eq!(cat.ends_with(&file.digest), "");
    }
}
