//! The initiator against `istgt`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Istgt, IstgtOptions, disk, pattern};
use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Config, Credentials, DigestPolicy, Portal, Session, discover};

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
async fn proves_itself_one_way_and_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(SIZE, 12);
    let file = disk(dir.path(), "a", &contents);
    let account =
        |name: &str, secret: &str| Some(Credentials { name: name.into(), secret: secret.into() });
    let mut one_way = config();
    one_way.credentials = account("alice", "secretsecret12");
    let mut both_ways = one_way.clone();
    both_ways.target_credentials = account("tgtuser", "targetsecret12");

    let istgt = Istgt::start(&file, &IstgtOptions { auth: "CHAP", ..IstgtOptions::default() });
    reads_everything(&istgt, &one_way, &contents).await;
    let mut wrong = config();
    wrong.credentials = account("alice", "wrongwrong12");
    for refused in [&wrong, &config()] {
        let error = Session::login(&portals(&istgt), Istgt::IQN, refused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login, "{error}");
    }

    let istgt =
        Istgt::start(&file, &IstgtOptions { auth: "CHAP Mutual", ..IstgtOptions::default() });
    reads_everything(&istgt, &both_ways, &contents).await;
    both_ways.target_credentials = account("tgtuser", "othersecret12");
    let error = Session::login(&portals(&istgt), Istgt::IQN, &both_ways).await.unwrap_err();
    assert!(error.to_string().contains("mutual CHAP"), "{error}");
}

#[tokio::test]
async fn digests_on_header_data_and_both() {
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
