//! The initiator against Debian's `tgtd`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{
    Cat, LargeFile, Log, Need, Snapbrowse, TgtTarget, Tgtd, can_run, disk, pattern, sha256_of,
};
use futures_util::StreamExt as _;
use snapbrowse::ErrorKind;
use snapbrowse::block::BlockSource as _;
use snapbrowse::iscsi::{Config, Credentials, DigestPolicy, IscsiUrl, Portal, Session, discover};

const NEEDS: &[Need] = &[Need::Program("tgtd")];

const INITIATOR: &str = "iqn.2026-01.test:initiator";

fn portal(tgtd: &Tgtd) -> Vec<Portal> {
    vec![tgtd.address().to_string().parse().unwrap()]
}

fn config() -> Config {
    Config::new(INITIATOR)
}

#[tokio::test]
async fn reads_what_the_file_holds() {
    if !can_run("reads_what_the_file_holds", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(24 << 20, 1);
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    let session = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    assert_eq!((lun.len(), lun.block_size(), lun.number()), (24 << 20, 512, 1));
    let all = lun.read_at(0, contents.len()).await.unwrap().into_bytes();
    assert!(all == contents);
    for (offset, len) in [(0, 1), (511, 2), (1000, 70_000), (contents.len() - 3, 3), (5, 0)] {
        let read = lun.read_at(offset as u64, len).await.unwrap().into_bytes();
        assert!(read == contents[offset..offset + len], "{offset}+{len}");
    }
    let error = lun.read_at(contents.len() as u64 - 1, 2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    session.logout().await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(lun.read_at(0, 1).await.unwrap_err().kind(), ErrorKind::SessionLost);
}

#[tokio::test]
async fn discovers_and_lists() {
    if !can_run("discovers_and_lists", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = disk(dir.path(), "a", &pattern(1 << 20, 2));
    let mut tgtd = Tgtd::start();
    let one = tgtd.add_target("one");
    let two = tgtd.add_target("two");
    let hidden = tgtd.add_hidden_target("hidden");
    tgtd.add_lun(&one, 1, &file);
    tgtd.add_lun_with(&one, 300, &file, &["--blocksize", "4096"]);
    let found = discover(&portal(&tgtd), &config()).await.unwrap();
    let names: Vec<_> = found.iter().map(|record| &*record.name).collect();
    assert_eq!(names, [&*one.iqn, &*two.iqn]);
    assert_eq!(found[0].portals, [(portal(&tgtd).remove(0), 1)]);

    let session = Session::login(&portal(&tgtd), &one.iqn, &config()).await.unwrap();
    let luns = session.luns().await.unwrap();
    let shown: Vec<_> = luns.iter().map(|lun| (lun.lun, lun.is_disk, lun.block_size)).collect();
    assert_eq!(shown, [(0, false, None), (1, true, Some(512)), (300, true, Some(4096))]);
    assert_eq!(luns[1].capacity, Some(1 << 20));
    let error = session.open_lun(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LunNotFound);
    assert!(error.hint().unwrap().contains("300"), "{error}");
    let error = session.open_lun(Some(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LunNotFound);
    assert!(error.hint().unwrap().contains("LUN 1 ("), "{error}");
    let lun = session.open_lun(Some(300)).await.unwrap();
    assert_eq!(lun.block_size(), 4096);
    assert!(lun.read_at(4000, 5000).await.unwrap().into_bytes() == pattern(1 << 20, 2)[4000..9000]);
    session.logout().await.unwrap();

    let error = Session::login(&portal(&tgtd), &hidden.iqn, &config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(error.to_string().contains(INITIATOR), "{error}");
}

#[tokio::test]
async fn proves_itself_and_makes_the_target_prove_itself() {
    if !can_run("proves_itself_and_makes_the_target_prove_itself", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("chap");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &pattern(1 << 20, 3)));
    tgtd.require_chap(&target, "alice", "secretsecret12");
    let with = |secret: &str| {
        let mut config = config();
        config.credentials = Some(Credentials::new("alice", secret));
        config
    };
    let right = with("secretsecret12");
    let session = Session::login(&portal(&tgtd), &target.iqn, &right).await.unwrap();
    session.open_lun(Some(1)).await.unwrap().read_at(0, 9).await.unwrap();
    session.logout().await.unwrap();

    let wrong = with("wrongwrong12");
    let error = Session::login(&portal(&tgtd), &target.iqn, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login);
    assert!(error.to_string().contains("wrong CHAP name or secret"), "{error}");
    let error = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login, "{error}");

    let mutual = |name: &str, secret: &str| {
        let mut config = with("secretsecret12");
        config.target_credentials = Some(Credentials::new(name, secret));
        config
    };
    let right = mutual("tgtuser", "targetsecret12");
    let error = Session::login(&portal(&tgtd), &target.iqn, &right).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Login, "{error}");
    tgtd.prove_with(&target, "tgtuser", "targetsecret12");
    let session = Session::login(&portal(&tgtd), &target.iqn, &right).await.unwrap();
    session.logout().await.unwrap();
    for wrong in [mutual("tgtuser", "othersecret12"), mutual("other", "targetsecret12")] {
        let error = Session::login(&portal(&tgtd), &target.iqn, &wrong).await.unwrap_err();
        assert!(error.to_string().contains("mutual CHAP"), "{error}");
    }
}

#[tokio::test]
async fn two_sessions_of_one_initiator_live_side_by_side() {
    if !can_run("two_sessions_of_one_initiator_live_side_by_side", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(4 << 20, 4);
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    let one = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let first = one.open_lun(None).await.unwrap();
    let two = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let second = two.open_lun(None).await.unwrap();
    for lun in [&first, &second, &first] {
        assert!(lun.read_at(0, contents.len()).await.unwrap().into_bytes() == contents);
    }
}

#[tokio::test]
async fn a_cut_connection_loses_no_read() {
    if !can_run("a_cut_connection_loses_no_read", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, _guard) = Log::start();
    let contents = pattern(32 << 20, 5);
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    let session = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    let mut reads = tokio::task::JoinSet::new();
    let lun = std::sync::Arc::new(lun);
    for offset in (0..contents.len()).step_by(4 << 20) {
        let lun = lun.clone();
        reads.spawn(async move { (offset, lun.read_at(offset as u64, 4 << 20).await) });
    }
    let mut whole = 0;
    while let Some(read) = reads.join_next().await {
        if whole == 0 {
            tgtd.cut_connections(&target);
        }
        let (offset, read) = read.unwrap();
        assert!(read.unwrap().into_bytes() == contents[offset..offset + (4 << 20)], "{offset}");
        whole += 1;
    }
    assert_eq!(whole, 8);
    log.says("connected again").await;
}

#[tokio::test]
async fn nobody_there() {
    let address = common::free_port("127.0.0.1:0".parse().unwrap());
    let url: IscsiUrl = format!("iscsi://{address}/iqn.x/0").parse().unwrap();
    let error = Session::login(&url.portals, "iqn.x", &config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert_eq!(error.to_string(), format!("iqn.x: connect {address}: connection refused"));
}

/// Reads everything through a new session.
async fn reads_everything(portals: &[Portal], iqn: &str, config: &Config, contents: &[u8]) {
    let session = Session::login(portals, iqn, config).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    assert!(lun.read_at(0, contents.len()).await.unwrap().into_bytes() == contents);
    session.logout().await.unwrap();
}

#[tokio::test]
async fn digests_on_header_data_and_both() {
    if !can_run("digests_on_header_data_and_both", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(6 << 20, 6);
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    for (header, data) in [(true, false), (false, true), (true, true)] {
        let mut config = config();
        for (wanted, name, policy) in [
            (header, "HeaderDigest", &mut config.header_digest),
            (data, "DataDigest", &mut config.data_digest),
        ] {
            *policy = if wanted { DigestPolicy::Require } else { DigestPolicy::None };
            tgtd.set_target(&target, name, if wanted { "CRC32C" } else { "None" });
        }
        reads_everything(&portal(&tgtd), &target.iqn, &config, &contents).await;
    }
}

#[tokio::test]
async fn redirects_are_followed() {
    if !can_run("redirects_are_followed", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(2 << 20, 7);
    let mut there = Tgtd::start_at("127.0.0.2:0".parse().unwrap());
    let target = there.add_target("moved");
    there.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    for reason in ["Temporary", "Permanent"] {
        let mut here = Tgtd::start();
        let pointer = here.add_target("moved");
        here.set_target(&pointer, "RedirectAddress", "127.0.0.2");
        here.set_target(&pointer, "RedirectPort", &there.address().port().to_string());
        here.set_target(&pointer, "RedirectReason", reason);
        reads_everything(&portal(&here), &target.iqn, &config(), &contents).await;
    }
}

#[tokio::test]
async fn ipv6() {
    if !can_run("ipv6", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(2 << 20, 8);
    let mut tgtd = Tgtd::start_at("[::1]:0".parse().unwrap());
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    let url: IscsiUrl = tgtd.url(&target, 1).parse().unwrap();
    assert_eq!(discover(&url.portals, &config()).await.unwrap().len(), 1);
    reads_everything(&url.portals, &target.iqn, &config(), &contents).await;
}

#[tokio::test]
async fn a_target_that_is_down_for_six_seconds_loses_no_read() {
    if !can_run("a_target_that_is_down_for_six_seconds_loses_no_read", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, _guard) = Log::start();
    let contents = pattern(32 << 20, 9);
    let file = disk(dir.path(), "a", &contents);
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &file);
    let session = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    let (part, rest) = (1 << 20, contents.len() - (1 << 20));
    let (first, second) = (lun.read_at(0, part), lun.read_at(part as u64, rest));
    let down = async {
        // In mid-read: the rest is still under way.
        let first = first.await.unwrap().into_bytes();
        tgtd.kill();
        tokio::time::sleep(Duration::from_secs(6)).await;
        tgtd.restart();
        let target = tgtd.add_target("disk");
        tgtd.add_lun(&target, 1, &file);
        first
    };
    let (first, second) = tokio::join!(down, second);
    assert!([first, second.unwrap().into_bytes()].concat() == contents);
    log.says("connected again").await;
}

#[tokio::test]
async fn another_disk_under_the_same_name_is_not_read() {
    if !can_run("another_disk_under_the_same_name_is_not_read", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = disk(dir.path(), "a", &pattern(2 << 20, 10));
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &file);
    let session = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    tgtd.kill();
    tgtd.restart();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &file);
    tgtd.set_lun(&target, 1, "scsi_sn=other,scsi_id=other");
    let error = lun.read_at(0, 4096).await.unwrap_err();
    assert!(error.to_string().contains("another device answers"), "{error}");
    assert_eq!(error.kind(), ErrorKind::BeingWritten);
}

#[tokio::test]
async fn a_deleted_snapshot_is_named() {
    if !can_run("a_deleted_snapshot_is_named", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &pattern(2 << 20, 11)));
    let session = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    tgtd.delete_lun(&target, 1);
    let error = lun.read_at(0, 4096).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LunNotFound);
    assert_eq!(error.hint(), Some("was the snapshot deleted?"));
}

/// tgtd says NOT READY to TEST UNIT READY only, and goes on serving reads: so what meets it is the opening of the unit.
#[tokio::test]
async fn a_unit_that_is_offline_for_a_moment_is_waited_for() {
    if !can_run("a_unit_that_is_offline_for_a_moment_is_waited_for", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, _guard) = Log::start();
    let contents = pattern(2 << 20, 12);
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    tgtd.set_lun(&target, 1, "online=0");
    let session = Session::login(&portal(&tgtd), &target.iqn, &config()).await.unwrap();
    let back = async {
        log.says("TEST UNIT READY of LUN 1: not ready, logical unit is becoming ready").await;
        tgtd.set_lun(&target, 1, "online=1");
    };
    let (lun, ()) = tokio::join!(session.open_lun(Some(1)), back);
    assert!(lun.unwrap().read_at(0, contents.len()).await.unwrap().into_bytes() == contents);

    // For good, it is an error in time that says so.
    tgtd.set_lun(&target, 1, "online=0");
    let patience = Config { timeout: Duration::from_secs(2), ..config() };
    let session = Session::login(&portal(&tgtd), &target.iqn, &patience).await.unwrap();
    let error = session.open_lun(Some(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("becoming ready"), "{error}");
}

/// The same target wherever it is served.
fn serve(tgtd: &mut Tgtd, image: &Path) -> TgtTarget {
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, image);
    target
}

#[tokio::test]
async fn the_other_portal_takes_over() {
    if !can_run("the_other_portal_takes_over", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, _guard) = Log::start();
    let contents = pattern(32 << 20, 13);
    let file = disk(dir.path(), "a", &contents);
    let (mut one, mut two) = (Tgtd::start(), Tgtd::start());
    let target = serve(&mut one, &file);
    serve(&mut two, &file);
    let portals = [portal(&one), portal(&two)].concat();
    let session = Session::login(&portals, &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    let (part, rest) = (1 << 20, contents.len() - (1 << 20));
    let (first, second) = (lun.read_at(0, part), lun.read_at(part as u64, rest));
    let gone = async {
        // In mid-read: the rest is still under way.
        let first = first.await.unwrap().into_bytes();
        one.kill();
        first
    };
    let (first, second) = tokio::join!(gone, second);
    assert!([first, second.unwrap().into_bytes()].concat() == contents);
    log.says(&format!("reading through {} too", two.address())).await;
    assert!(lun.read_at(0, contents.len()).await.unwrap().into_bytes() == contents);
    two.kill();
    let error = Session::login(&portals, &target.iqn, &config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
}

/// The program reads a large file while a portal that it knows from the URL goes away: the writing stops where nobody reads
/// it, so the portal is gone in mid-read, before the other path has been opened or after.
#[test]
fn a_copy_goes_on_through_the_other_portal() {
    if !can_run("a_copy_goes_on_through_the_other_portal", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = LargeFile::new(dir.path());
    let snapbrowse = Snapbrowse::new();
    for (read_before, both_are_open) in [(1 << 20, false), (32 << 20, true)] {
        let (mut one, mut two) = (Tgtd::start(), Tgtd::start());
        let target = serve(&mut one, &file.image);
        serve(&mut two, &file.image);
        let url = format!("iscsi://{},{}/{}/1", one.address(), two.address(), target.iqn);
        let mut cat = Cat::start(&snapbrowse, &url);
        cat.read(read_before);
        assert_eq!(one.sessions(&target).len(), 1);
        if both_are_open {
            two.wait_for_sessions(&target, 1);
        }
        one.kill();
        let said = cat.ends_with(&file.digest);
        assert!(said.contains("connecting again"), "{said}");
    }
}

/// Three processes with one initiator name, two that start together and one that comes later: each has a session of its own,
/// which lasts to the end.
#[test]
fn several_processes_read_one_unit_at_the_same_time() {
    if !can_run("several_processes_read_one_unit_at_the_same_time", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = LargeFile::new(dir.path());
    let mut tgtd = Tgtd::start();
    let target = serve(&mut tgtd, &file.image);
    let (snapbrowse, url) = (Snapbrowse::new(), tgtd.url(&target, 1));
    let mut cats = vec![Cat::start(&snapbrowse, &url), Cat::start(&snapbrowse, &url)];
    cats.iter_mut().for_each(|cat| cat.read(1 << 20));
    cats.push(Cat::start(&snapbrowse, &url));
    cats[2].read(1 << 20);
    let sessions = tgtd.sessions(&target);
    assert_eq!(sessions.len(), 3, "{sessions:?}");
    cats.iter_mut().for_each(|cat| cat.read(64 << 20));
    assert_eq!(tgtd.sessions(&target), sessions, "a session was made anew");
    std::thread::scope(|scope| {
        for cat in cats {
            scope.spawn(|| assert_eq!(cat.ends_with(&file.digest), ""));
        }
    });
    tgtd.wait_for_sessions(&target, 0);
}

#[test]
fn a_mount_and_a_copy_read_one_unit_at_the_same_time() {
    let needs = [NEEDS, &[Need::Fuse, Need::Program("fusermount3")]].concat();
    if !can_run("a_mount_and_a_copy_read_one_unit_at_the_same_time", &needs) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = LargeFile::new(dir.path());
    let mut tgtd = Tgtd::start();
    let target = serve(&mut tgtd, &file.image);
    let (snapbrowse, url) = (Snapbrowse::new(), tgtd.url(&target, 1));
    let mount = snapbrowse.mount(&url);
    let mut cat = Cat::start(&snapbrowse, &url);
    cat.read(1 << 20);
    let sessions = tgtd.sessions(&target);
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    assert_eq!(sha256_of(&mount.path().join("large")), file.digest);
    cat.read(64 << 20);
    assert_eq!(tgtd.sessions(&target), sessions, "a session was made anew");
    assert_eq!(cat.ends_with(&file.digest), "");
    tgtd.wait_for_sessions(&target, 1);
    assert!(sessions.contains(&tgtd.sessions(&target)[0]), "the mount's session was made anew");
    mount.unmount();
    tgtd.wait_for_sessions(&target, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_portals_of_one_target_share_the_load_and_one_is_cut_off() {
    if !can_run("two_portals_of_one_target_share_the_load_and_one_is_cut_off", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let contents = pattern(32 << 20, 14);
    let mut tgtd = Tgtd::start();
    let second = common::free_port("127.0.0.1:0".parse().unwrap());
    let second_portal = format!("portal={second}");
    tgtd.admin(&["--op", "new", "--mode", "portal", "--param", &second_portal]);
    let target = tgtd.add_target("disk");
    tgtd.add_lun(&target, 1, &disk(dir.path(), "a", &contents));
    // tgtd tells of the portal that is asked only.
    let both = [portal(&tgtd), vec![second.to_string().parse().unwrap()]].concat();
    let found = discover(&both, &config()).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let portals = found[0].ways(&portal(&tgtd));
    assert_eq!(portals, both);
    let session = Session::login(&portals, &target.iqn, &config()).await.unwrap();
    let lun = session.open_lun(None).await.unwrap();
    lun.open_paths().await;
    assert!(lun.paths().iter().all(|path| path.in_use), "{:?}", lun.paths());
    let chunk = 1 << 20;
    let round = || async {
        let reads = (0..32).map(|n| lun.read_at(n * chunk, 1 << 20));
        let mut reads = futures_util::stream::iter(reads).buffered(16);
        let mut at = 0;
        while let Some(read) = reads.next().await {
            let read = read.unwrap().into_bytes();
            assert!(read == contents[at..at + read.len()], "wrong data at {at}");
            at += read.len();
        }
        assert_eq!(at, contents.len());
    };
    round().await;
    assert_eq!(tgtd.sessions(&target).len(), 2);
    // Under load, both connections are cut and one portal is gone for good.
    let (reading, begun) = tokio::sync::oneshot::channel();
    let cut = async {
        begun.await.unwrap();
        tokio::task::block_in_place(|| {
            tgtd.admin(&["--op", "delete", "--mode", "portal", "--param", &second_portal]);
            tgtd.cut_connections(&target);
        });
    };
    let load = async {
        round().await;
        reading.send(()).unwrap();
        for _ in 0..7 {
            round().await;
        }
    };
    tokio::join!(load, cut);
    let used: Vec<_> = lun.paths().into_iter().map(|path| (path.portal, path.in_use)).collect();
    assert_eq!(used, [(portals[0].clone(), true), (portals[1].clone(), false)]);
    session.logout().await.unwrap();
}
