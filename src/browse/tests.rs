//! The tree over a SAN of memory, on simulated time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::*;
use crate::fs::memory::MemoryFs;
use crate::fs::{FileType, Filesystem, Ino, Pending};
use crate::iscsi::TargetRecord;

const HOME: &str = "iqn.2026-01.test:home-2026-11-20";
const MAIL: &str = "iqn.2026-01.test:mail";
const DEAD: &str = "iqn.2026-01.test:dead";

/// What the SAN has behind one target.
#[derive(Clone)]
struct Disk {
    /// Path and contents of the one file of each volume.
    volumes: Vec<(Vec<&'static str>, &'static str)>,
    identity: Option<u8>,
    being_written: bool,
    failure: Option<ErrorKind>,
    /// What its logout fails with.
    logout_failure: Option<ErrorKind>,
    /// The portals that tell of it.
    portals: &'static [Teller],
}

fn disk(contents: &'static str) -> Disk {
    let volumes = vec![(Vec::new(), contents)];
    Disk {
        volumes,
        identity: Some(1),
        being_written: false,
        failure: None,
        logout_failure: None,
        portals: &[0],
    }
}

#[derive(Default)]
struct MemorySan {
    disks: Mutex<BTreeMap<&'static str, Disk>>,
    /// The portals that do not answer.
    down: Mutex<Vec<Teller>>,
    /// Whoever holds it keeps logins from ending.
    gate: tokio::sync::Mutex<()>,
    logins: AtomicUsize,
    logouts: Arc<AtomicUsize>,
}

impl MemorySan {
    fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    fn logouts(&self) -> usize {
        self.logouts.load(Ordering::SeqCst)
    }

    fn put(&self, name: &'static str, disk: Disk) {
        self.disks.lock().unwrap().insert(name, disk);
    }
}

impl San for MemorySan {
    fn discover(&self) -> BoxFuture<'_, Discovery> {
        let mut found = Discovery::default();
        let down = self.down.lock().unwrap();
        for portal in 0..2 {
            if down.contains(&portal) {
                let error = Error::new(ErrorKind::Connect, "connect: connection refused");
                found.failures.push((portal, error));
                continue;
            }
            found.answered = true;
            let disks = self.disks.lock().unwrap();
            for (name, _) in disks.iter().filter(|(_, disk)| disk.portals.contains(&portal)) {
                let record = TargetRecord { name: (*name).to_owned(), portals: Vec::new() };
                found.add(portal, record);
            }
        }
        Box::pin(async move { found })
    }

    fn open<'a>(&'a self, target: &'a TargetRecord) -> Pending<'a, OpenTarget> {
        Box::pin(async move {
            // Long enough for others to ask meanwhile.
            tokio::task::yield_now().await;
            self.logins.fetch_add(1, Ordering::SeqCst);
            let disk = self.disks.lock().unwrap().get(target.name.as_str()).cloned();
            let disk = disk.ok_or_else(|| Error::new(ErrorKind::Login, "no such target"))?;
            drop(self.gate.lock().await);
            if let Some(kind) = disk.failure {
                return Err(Error::new(kind, "it does not let us in"));
            }
            let open = |(path, contents): (Vec<&'static str>, &'static str)| {
                let mut fs = MemoryFs::new();
                fs.put("dir/file", FileType::Regular, contents.as_bytes());
                let late = fs.put("dir/late", FileType::Regular, b"1");
                fs.node(late).failure = Some(ErrorKind::Timeout);
                let stuck = fs.put("dir/stuck", FileType::Regular, b"1");
                fs.node(stuck).hangs_at = Some(0);
                fs.being_written = disk.being_written;
                OpenVolume {
                    path: path.into_iter().map(str::to_owned).collect(),
                    filesystem: Arc::new(fs),
                    identity: disk.identity.map(|identity| vec![identity]),
                    summary: "memory".to_owned(),
                }
            };
            let logouts = Arc::clone(&self.logouts);
            Ok(OpenTarget {
                alias: None,
                volumes: disk.volumes.into_iter().map(open).collect(),
                notes: Vec::new(),
                bytes_read: Box::new(|| 0),
                paths: Box::new(Vec::new),
                log_out: Box::new(move || {
                    let logouts = Arc::clone(&logouts);
                    Box::pin(async move {
                        logouts.fetch_add(1, Ordering::SeqCst);
                        let failure = disk.logout_failure.map(|kind| Error::new(kind, "no answer"));
                        failure.into_iter().collect()
                    })
                }),
            })
        })
    }
}

fn san() -> Arc<MemorySan> {
    let san = MemorySan::default();
    san.put(HOME, disk("home"));
    san.put(MAIL, disk("mail"));
    san.put(DEAD, Disk { failure: Some(ErrorKind::Login), ..disk("") });
    Arc::new(san)
}

async fn tree_of(san: &Arc<MemorySan>, max_sessions: usize) -> Browse {
    patient_tree_of(san, max_sessions, Duration::ZERO).await
}

async fn patient_tree_of(san: &Arc<MemorySan>, max_sessions: usize, patience: Duration) -> Browse {
    tree_with(san, Options { max_sessions, patience, ..options() }).await
}

fn options() -> Options {
    Options {
        idle: Duration::ZERO,
        refresh: Duration::from_secs(60),
        max_sessions: 9,
        patience: Duration::ZERO,
        login_limit: Duration::from_secs(60),
        targets: None,
        aliases: Aliases::default(),
    }
}

async fn tree_with(san: &Arc<MemorySan>, options: Options) -> Browse {
    let san: Arc<dyn San> = Arc::<MemorySan>::clone(san);
    Browse::new(san, options).await.unwrap()
}

async fn names(tree: &Browse, dir: Ino) -> Vec<String> {
    let entries = tree.readdir(dir, 0).await.unwrap();
    entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect()
}

async fn walk(tree: &Browse, path: &[&str]) -> Result<Ino> {
    let mut ino = tree.root();
    for name in path {
        ino = tree.lookup(ino, name.as_bytes()).await?;
    }
    Ok(ino)
}

async fn contents(tree: &Browse, path: &[&str]) -> Result<String> {
    let file = tree.open(walk(tree, path).await?).await?;
    let bytes = file.read(0, 100).await?.into_bytes();
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn the_root_is_listed_without_a_login_and_a_target_logs_in_once() {
    let san = san();
    let tree = tree_of(&san, 9).await;
    let root = names(&tree, tree.root()).await;
    for name in [HOME, MAIL, DEAD, "mail", "home-2026-11-20", "by-volume", ".snapbrowse"] {
        assert!(root.iter().any(|known| known == name), "{name} is not in {root:?}");
    }
    for name in &root {
        let ino = tree.lookup(tree.root(), name.as_bytes()).await.unwrap();
        tree.getattr(ino).await.unwrap();
        let _ = tree.getxattr(ino, b"system.posix_acl_access").await;
    }
    assert_eq!(san.logins(), 0);
    let ways = [[HOME, "dir", "file"], [HOME, "dir", "file"], [HOME, "dir", "file"]];
    let found = futures_util::future::join_all(ways.iter().map(|way| contents(&tree, way))).await;
    assert!(found.into_iter().all(|text| text.unwrap() == "home"));
    assert_eq!(san.logins(), 1);
}

#[tokio::test]
async fn links_by_volume_and_date_lead_to_the_target() {
    let tree = tree_of(&san(), 9).await;
    let link = walk(&tree, &["by-volume", "home", "2026-11-20"]).await.unwrap();
    assert_eq!(tree.readlink(link).await.unwrap(), format!("../../{HOME}").as_bytes());
}

#[tokio::test]
async fn an_idle_target_is_logged_out_and_comes_back_with_the_same_numbers() {
    let san = san();
    let tree = tree_of(&san, 9).await;
    let before = walk(&tree, &[HOME, "dir", "file"]).await.unwrap();
    let open = tree.open(before).await.unwrap();
    tree.shared.log_out_idle().await;
    assert_eq!(san.logouts(), 0, "an open file keeps its target logged in");
    drop(open);
    tree.shared.log_out_idle().await;
    assert_eq!(san.logouts(), 1);
    // The kernel may still hold the old number.
    assert_eq!(tree.getattr(before).await.unwrap().ino, before);
    assert_eq!(walk(&tree, &[HOME, "dir", "file"]).await.unwrap(), before);
    assert_eq!(san.logins(), 2);
}

#[tokio::test]
async fn a_target_that_did_not_answer_is_not_waited_for_by_every_request() {
    let san = san();
    let tree = tree_of(&san, 9).await;
    assert_eq!(
        contents(&tree, &[HOME, "dir", "late"]).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    // This one would wait for ever; what is in memory is told all the same.
    assert_eq!(
        contents(&tree, &[HOME, "dir", "stuck"]).await.unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(contents(&tree, &[HOME, "dir", "file"]).await.unwrap(), "home");
    let target = tree.shared.targets().into_iter().find(|target| target.record().name == HOME);
    let target = target.unwrap();
    assert!(target.report().failure.is_some());
    // An answer from the target ends it.
    target.has_answered();
    assert!(target.silence().is_none());
}

#[tokio::test]
async fn another_snapshot_under_the_same_name_gets_numbers_of_its_own() {
    let san = san();
    let tree = tree_of(&san, 9).await;
    let before = walk(&tree, &[HOME, "dir", "file"]).await.unwrap();
    tree.shared.log_out_idle().await;
    san.put(HOME, Disk { identity: Some(2), ..disk("new") });
    let after = walk(&tree, &[HOME, "dir", "file"]).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(tree.getattr(before).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(contents(&tree, &[HOME, "dir", "file"]).await.unwrap(), "new");
}

#[tokio::test]
async fn a_volume_that_nothing_tells_from_another_gets_new_numbers_with_each_login() {
    let san = san();
    san.put(HOME, Disk { identity: None, ..disk("home") });
    let tree = tree_of(&san, 9).await;
    let before = walk(&tree, &[HOME, "dir", "file"]).await.unwrap();
    tree.shared.log_out_idle().await;
    assert_ne!(walk(&tree, &[HOME, "dir", "file"]).await.unwrap(), before);
}

#[tokio::test]
async fn volumes_of_two_targets_never_share_a_number() {
    let tree = tree_of(&san(), 9).await;
    let home = walk(&tree, &[HOME, "dir", "file"]).await.unwrap();
    let mail = walk(&tree, &[MAIL, "dir", "file"]).await.unwrap();
    assert_ne!(home, mail);
    assert_eq!(contents(&tree, &[MAIL, "dir", "file"]).await.unwrap(), "mail");
}

#[tokio::test]
async fn several_volumes_stand_in_directories() {
    let san = san();
    let volumes = vec![(vec!["lun0", "p1"], "first"), (vec!["lun1", "vg", "lv"], "second")];
    san.put(MAIL, Disk { volumes, ..disk("") });
    let tree = tree_of(&san, 9).await;
    let target = walk(&tree, &[MAIL]).await.unwrap();
    assert_eq!(names(&tree, target).await, [".", "..", "lun0", "lun1"]);
    let second = [MAIL, "lun1", "vg", "lv", "dir", "file"];
    assert_eq!(contents(&tree, &second).await.unwrap(), "second");
    // Back to one: the directories make room for it.
    tree.shared.log_out_idle().await;
    san.put(MAIL, Disk { identity: Some(7), ..disk("only") });
    assert_eq!(contents(&tree, &[MAIL, "dir", "file"]).await.unwrap(), "only");
    assert_eq!(names(&tree, target).await, [".", "..", "dir"]);
}

#[tokio::test]
async fn dots_lead_up_out_of_a_volume() {
    let tree = tree_of(&san(), 9).await;
    let target = walk(&tree, &[HOME]).await.unwrap();
    let entries = tree.readdir(target, 0).await.unwrap();
    let number = |name: &[u8]| entries.iter().find(|entry| entry.name == name).unwrap().ino;
    assert_eq!(number(b"."), target);
    assert_eq!(number(b".."), tree.root());
    assert_eq!(tree.getattr(target).await.unwrap().ino, target);
}

#[tokio::test]
async fn a_refused_login_is_told_again_without_a_new_try_until_its_time_has_passed() {
    let san = san();
    let tree = tree_of(&san, 9).await;
    for _ in 0..3 {
        let error = walk(&tree, &[DEAD, "dir"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Login);
        assert!(error.to_string().contains(DEAD), "{error}");
    }
    assert_eq!(san.logins(), 1);
    assert!(contents(&tree, &[HOME, "dir", "file"]).await.is_ok(), "the others are not blocked");
    let status = contents_of_status(&tree).await;
    assert!(status.contains("it does not let us in"), "{status}");
}

async fn contents_of_status(tree: &Browse) -> String {
    let ino = walk(tree, &[".snapbrowse", "status"]).await.unwrap();
    let file = tree.open(ino).await.unwrap();
    String::from_utf8(file.read(0, 1 << 16).await.unwrap().into_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn targets_come_and_go_but_a_dead_portal_takes_none_away() {
    let san = san();
    let tree = tree_of(&san, 9).await;
    let file = walk(&tree, &[MAIL, "dir", "file"]).await.unwrap();
    *san.down.lock().unwrap() = vec![0, 1];
    tree.refresh().await;
    assert!(tree.getattr(file).await.is_ok());
    san.down.lock().unwrap().clear();
    san.disks.lock().unwrap().remove(MAIL);
    san.put("iqn.2026-01.test:new", disk("new"));
    tree.refresh().await;
    let root = names(&tree, tree.root()).await;
    assert!(!root.iter().any(|name| name == MAIL || name == "mail"), "{root:?}");
    assert!(root.iter().any(|name| name == "new"), "{root:?}");
    assert_eq!(tree.getattr(file).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(san.logouts(), 1);
}

#[tokio::test]
async fn a_target_that_vanishes_during_its_login_is_logged_out_and_forgotten() {
    let san = san();
    let tree = tree_of(&san, 1).await;
    let home = walk(&tree, &[HOME]).await.unwrap();
    let target = tree.shared.targets().into_iter().find(|target| target.record().name == HOME);
    let target = Arc::downgrade(&target.unwrap());
    let gate = san.gate.lock().await;
    let enter = async { tree.lookup(home, b"dir").await };
    let vanish = async {
        while san.logins() == 0 {
            tokio::task::yield_now().await;
        }
        let disk = san.disks.lock().unwrap().remove(HOME).unwrap();
        tree.refresh().await;
        // One that comes back under the name is another one.
        san.put(HOME, disk);
        tree.refresh().await;
        drop(gate);
    };
    let (entered, ()) = tokio::join!(enter, vanish);
    assert_eq!(entered.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!((san.logins(), san.logouts()), (1, 1));
    assert!(target.upgrade().is_none(), "something holds on to it");
    assert_eq!(contents(&tree, &[HOME, "dir", "file"]).await.unwrap(), "home");
}

#[tokio::test]
async fn a_target_that_vanishes_while_its_login_waits_for_room_is_not_logged_in() {
    let san = san();
    let tree = patient_tree_of(&san, 1, Duration::from_secs(20)).await;
    let home = tree.open(walk(&tree, &[HOME, "dir", "file"]).await.unwrap()).await.unwrap();
    let mail = walk(&tree, &[MAIL]).await.unwrap();
    let mut enter = std::pin::pin!(tree.lookup(mail, b"dir"));
    for _ in 0..10 {
        assert!(futures_util::poll!(&mut enter).is_pending());
        tokio::task::yield_now().await;
    }
    san.disks.lock().unwrap().remove(MAIL);
    tree.refresh().await;
    drop(home);
    assert_eq!(enter.await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(san.logins(), 1);
}

#[tokio::test]
async fn a_login_under_way_at_the_end_is_waited_for_and_logged_out() {
    let san = san();
    san.put(HOME, Disk { logout_failure: Some(ErrorKind::SessionLost), ..disk("home") });
    let tree = tree_of(&san, 9).await;
    assert_eq!(contents(&tree, &[MAIL, "dir", "file"]).await.unwrap(), "mail");
    let home = walk(&tree, &[HOME]).await.unwrap();
    let gate = san.gate.lock().await;
    let enter = async { tree.lookup(home, b"dir").await };
    let end = async {
        while san.logins() < 2 {
            tokio::task::yield_now().await;
        }
        let mut end = std::pin::pin!(tree.log_out());
        assert!(futures_util::poll!(&mut end).is_pending(), "the login is not waited for");
        assert_eq!(san.logouts(), 1, "the others wait for it");
        drop(gate);
        let failures = end.await;
        assert_eq!(san.logouts(), 2);
        failures
    };
    let (entered, failures) = tokio::join!(enter, end);
    assert_eq!(entered.unwrap_err().kind(), ErrorKind::Stale);
    let kinds: Vec<_> = failures.iter().map(Error::kind).collect();
    assert_eq!(kinds, [ErrorKind::SessionLost]);
}

#[tokio::test]
async fn a_login_that_does_not_end_is_told_of_at_the_end() {
    let san = san();
    let tree = tree_with(&san, Options { login_limit: Duration::ZERO, ..options() }).await;
    let home = walk(&tree, &[HOME]).await.unwrap();
    let _gate = san.gate.lock().await;
    let end = async {
        while san.logins() == 0 {
            tokio::task::yield_now().await;
        }
        tree.log_out().await
    };
    let failures = tokio::select! {
        failures = end => failures,
        entered = tree.lookup(home, b"dir") => unreachable!("{entered:?}"),
    };
    let [failure] = failures.as_slice() else { panic!("{failures:?}") };
    assert_eq!(failure.kind(), ErrorKind::Timeout);
    assert!(failure.to_string().contains(HOME), "{failure}");
}

#[tokio::test]
async fn a_dead_portal_is_told_of_once_until_it_has_come_back() {
    let tree = tree_of(&san(), 9).await;
    let news = |failures: &[(Teller, &str)]| {
        let error = |why: &str| Error::new(ErrorKind::Connect, why);
        let failures = failures.iter().map(|(teller, why)| (*teller, error(why))).collect();
        let news = tree.shared.take_note(failures);
        news.iter().map(Error::to_string).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(news(&[(1, "refused")]), ["refused"]);
        assert!(contents_of_status(&tree).await.contains("portal: refused"));
        assert!(news(&[(1, "refused")]).is_empty());
        assert_eq!(news(&[(0, "refused"), (1, "refused")]), ["refused"], "another portal");
        assert_eq!(news(&[(0, "refused"), (1, "no answer")]), ["no answer"], "another reason");
        assert!(news(&[(1, "no answer")]).is_empty());
        assert!(news(&[]).is_empty());
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_told_of_once_until_it_was_free() {
    let tree = tree_of(&san(), 9).await;
    let news = |names: &[&str]| {
        let taken = names.iter().map(|name| (*name).to_owned());
        tree.shared.news_of_taken(taken.collect())
    };
    assert_eq!(news(&["a"]), ["a"]);
    assert!(news(&["a"]).is_empty());
    assert_eq!(news(&["a", "b"]), ["b"]);
    assert_eq!(news(&["b"]), [""; 0]);
    assert_eq!(news(&["a", "b"]), ["a"]);
}

#[tokio::test]
async fn a_dead_portal_keeps_only_what_no_other_one_told_of() {
    const BOTH: &str = "iqn.2026-01.test:both";
    let san = san();
    san.put(HOME, Disk { portals: &[1], ..disk("home") });
    san.put(BOTH, Disk { portals: &[0, 1], ..disk("both") });
    let tree = tree_of(&san, 9).await;
    *san.down.lock().unwrap() = vec![1];
    // Once more, so that who told of it before is not forgotten.
    tree.refresh().await;
    for name in [MAIL, BOTH, HOME] {
        san.disks.lock().unwrap().remove(name);
    }
    tree.refresh().await;
    let root = names(&tree, tree.root()).await;
    let is_shown = |wanted| root.iter().any(|name| name == wanted);
    assert_eq!([MAIL, BOTH, HOME, DEAD].map(is_shown), [false, false, true, true], "{root:?}");
    san.down.lock().unwrap().clear();
    tree.refresh().await;
    let root = names(&tree, tree.root()).await;
    assert!(!root.iter().any(|name| name == HOME), "{root:?}");
}

#[tokio::test]
async fn the_longest_unused_target_makes_room_for_the_next() {
    let san = san();
    let tree = tree_of(&san, 1).await;
    assert_eq!(contents(&tree, &[HOME, "dir", "file"]).await.unwrap(), "home");
    let mail = tree.open(walk(&tree, &[MAIL, "dir", "file"]).await.unwrap()).await.unwrap();
    assert_eq!((san.logins(), san.logouts()), (2, 1));
    // The one that is left is in use.
    assert_eq!(walk(&tree, &[HOME, "dir"]).await.unwrap_err().kind(), ErrorKind::Busy);
    drop(mail);
    assert!(walk(&tree, &[HOME, "dir"]).await.is_ok());
}

#[tokio::test]
async fn logins_at_the_same_time_are_no_more_than_may_be_and_a_failed_one_costs_nobody_its_own() {
    let san = san();
    let tree = patient_tree_of(&san, 1, Duration::from_secs(20)).await;
    let (home, mail) = tokio::join!(walk(&tree, &[HOME, "dir"]), walk(&tree, &[MAIL, "dir"]));
    assert!(home.is_ok() && mail.is_ok(), "{home:?} {mail:?}");
    // The second one has waited for the first one to be out of use.
    assert_eq!((san.logins(), san.logouts()), (2, 1));
    assert!(walk(&tree, &[DEAD, "dir"]).await.is_err());
    assert_eq!((san.logins(), san.logouts()), (3, 2));
    assert!(walk(&tree, &[HOME, "dir"]).await.is_ok());
    // It is not tried again yet, so nobody has to make room for it.
    assert!(walk(&tree, &[DEAD, "dir"]).await.is_err());
    assert_eq!((san.logins(), san.logouts()), (4, 2));
}

#[tokio::test]
async fn a_volume_that_is_being_written_fails_alone() {
    let san = san();
    san.put(HOME, Disk { being_written: true, ..disk("home") });
    let tree = tree_of(&san, 9).await;
    let (home, mail) = ([HOME, "dir", "file"], [MAIL, "dir", "file"]);
    let open = tree.open(walk(&tree, &home).await.unwrap()).await.unwrap();
    assert!(contents(&tree, &mail).await.is_ok());
    tree.check_unchanged().await.unwrap();
    assert_eq!(contents(&tree, &home).await.unwrap_err().kind(), ErrorKind::BeingWritten);
    assert_eq!(open.read(0, 1).await.unwrap_err().kind(), ErrorKind::BeingWritten);
    assert!(contents(&tree, &mail).await.is_ok());
}

#[tokio::test]
async fn an_empty_list_is_an_answer() {
    let san = Arc::new(MemorySan::default());
    *san.down.lock().unwrap() = vec![1];
    let tree = tree_of(&san, 9).await;
    assert_eq!(names(&tree, tree.root()).await, [".", "..", ".snapbrowse"]);
}

#[tokio::test]
async fn no_portal_at_all_is_an_error() {
    let san = san();
    *san.down.lock().unwrap() = vec![0, 1];
    let error = Browse::new(san, options()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Connect);
}
