//! Hooks that are shell scripts, and write down what they are called for.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const TARGET: &str = "iqn.2026-01.test:snap";

/// A directory with the hooks' log and the records.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn records(&self) -> PathBuf {
        self.path().join("presented")
    }

    /// A hook: a shell script that is run in the directory.
    fn script(&self, text: &str) -> Argv {
        let text = format!("cd '{}' || exit 99\n{text}", self.path().display());
        Argv::try_from(["sh", "-c", &text].map(str::to_owned).to_vec()).unwrap()
    }

    fn hooks(&self, present: &str, revoke: &str) -> Hooks {
        let log = "echo \"$SNAPBROWSE_HOOK $SNAPBROWSE_TARGET\" >>log\n";
        let commands = Commands {
            present: Some(self.script(&format!("{log}{present}"))),
            revoke: Some(self.script(&format!("{log}{revoke}"))),
            list: None,
            limit: Duration::from_secs(20),
            per_lun: false,
        };
        Hooks::new(commands, self.records())
    }

    /// The hooks that were run, in order.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        log.lines().map(|line| line.replace(TARGET, "snap")).collect()
    }

    fn records_left(&self) -> usize {
        fs::read_dir(self.records()).map_or(0, Iterator::count)
    }

    fn say(&self, name: &str) {
        fs::write(self.path().join(name), "").unwrap();
    }

    async fn hear(&self, name: &str) {
        let heard = async {
            while !self.path().join(name).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap();
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        target: TARGET.to_owned(),
        portal: "192.0.2.1:3260".to_owned(),
        lun: Some(3),
        initiator: "iqn.2026-01.test:us".to_owned(),
    }
}

#[tokio::test]
async fn a_hook_knows_what_it_is_called_for_and_has_no_input() {
    let place = Place::new();
    let hooks = place.hooks("env | grep ^SNAPBROWSE_ | sort >env; cat >input", "");
    let presented = hooks.present(&snapshot()).await.unwrap().unwrap();
    assert_eq!(place.records_left(), 1);
    hooks.revoke(&presented).await.unwrap();
    let environment = fs::read_to_string(place.path().join("env")).unwrap();
    let expected = [
        "SNAPBROWSE_HOOK=present",
        "SNAPBROWSE_INITIATOR=iqn.2026-01.test:us",
        "SNAPBROWSE_LUN=",
        "SNAPBROWSE_PORTAL=192.0.2.1:3260",
        "SNAPBROWSE_TARGET=iqn.2026-01.test:snap",
    ];
    assert_eq!(environment.lines().collect::<Vec<_>>(), expected);
    assert_eq!(fs::read(place.path().join("input")).unwrap(), b"");
    assert_eq!(place.log(), ["present snap", "revoke snap"]);
    assert_eq!(place.records_left(), 0);
    // Once is enough.
    hooks.revoke(&presented).await.unwrap();
    assert!(hooks.revoke_all().await.is_empty());
    assert_eq!(place.log().len(), 2);
}

#[tokio::test]
async fn a_failed_hook_is_named_with_its_last_words_and_what_it_did_is_undone() {
    let place = Place::new();
    let hooks = place.hooks("echo first; echo 'no such volume' >&2; exit 7", "");
    let error = hooks.present(&snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.message(), format!("{TARGET}: present hook sh: exit code 7: no such volume"));
    assert_eq!(place.log(), ["present snap", "revoke snap"]);
    assert_eq!(place.records_left(), 0);
    // Nor does it stay written down where there was nothing to undo.
    let hooks = place.hooks("exit 7", "exit 8");
    hooks.present(&snapshot()).await.unwrap_err();
    assert_eq!(place.records_left(), 0);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_wrong_configuration() {
    let place = Place::new();
    let mut hooks = place.hooks("", "");
    hooks.commands.present = Some(Argv::try_from(vec!["/no/such/hook".to_owned()]).unwrap());
    let error = hooks.present(&snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.message().contains("present hook /no/such/hook"), "{error}");
    assert_eq!(place.records_left(), 0);
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_with_what_it_has_started() {
    let place = Place::new();
    let mut hooks = place.hooks("trap '' TERM; sleep 1000 & echo $! >child; echo stuck; wait", "");
    hooks.commands.limit = Duration::from_millis(300);
    let error = hooks.present(&snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().ends_with("not done after 300ms, killed: stuck"), "{error}");
    let child = fs::read_to_string(place.path().join("child")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
    assert!(stat.is_err() || stat.unwrap().contains(") Z"), "the child lives on");
    assert_eq!(place.log(), ["present snap", "revoke snap"]);
}

#[tokio::test]
async fn what_a_hook_leaves_in_the_background_does_not_hold_it_up() {
    let place = Place::new();
    let hooks = place.hooks("sleep 1000 & echo $! >child", "kill $(cat child)");
    let presented = hooks.present(&snapshot()).await.unwrap().unwrap();
    hooks.revoke(&presented).await.unwrap();
}

#[tokio::test]
async fn the_last_of_several_users_revokes() {
    let place = Place::new();
    // As two processes: locks belong to open files.
    let (one, two) = (place.hooks("", ""), place.hooks("", ""));
    let first = one.present(&snapshot()).await.unwrap().unwrap();
    let second = two.present(&snapshot()).await.unwrap().unwrap();
    assert_eq!(place.log(), ["present snap"]);
    assert!(reconcile(place.records()).await.is_empty());
    one.revoke(&first).await.unwrap();
    assert_eq!(place.log(), ["present snap"]);
    two.revoke(&second).await.unwrap();
    assert_eq!(place.log(), ["present snap", "revoke snap"]);
    // And the other way round, within one process.
    let first = one.present(&snapshot()).await.unwrap().unwrap();
    let second = one.present(&snapshot()).await.unwrap().unwrap();
    one.revoke(&second).await.unwrap();
    assert_eq!(place.log().len(), 3);
    one.revoke(&first).await.unwrap();
    assert_eq!(place.log().len(), 4);
}

#[tokio::test]
async fn who_comes_while_it_is_being_presented_or_revoked_waits() {
    let place = Place::new();
    let wait = |name: &str| format!("touch {name}.begun; until [ -e {name} ]; do sleep 0.01; done");
    let one = Arc::new(place.hooks(&wait("ready"), &wait("revoked")));
    let two = place.hooks("", "");
    let begin = |hooks: &Arc<Hooks>| {
        let hooks = Arc::clone(hooks);
        tokio::spawn(async move { hooks.present(&snapshot()).await.unwrap().unwrap() })
    };
    let first = begin(&one);
    place.hear("ready.begun").await;
    let wanted = snapshot();
    let mut second = std::pin::pin!(two.present(&wanted));
    let early = tokio::time::timeout(LOOK_AGAIN * 2, &mut second).await;
    assert!(early.is_err(), "{early:?}");
    place.say("ready");
    let second = second.await.unwrap().unwrap();
    let first = first.await.unwrap();
    assert_eq!(place.log(), ["present snap"]);
    two.revoke(&second).await.unwrap();
    let revoking = Arc::clone(&one);
    let revoked = tokio::spawn(async move { revoking.revoke(&first).await });
    place.hear("revoked.begun").await;
    let mut third = std::pin::pin!(two.present(&wanted));
    assert!(tokio::time::timeout(LOOK_AGAIN * 2, &mut third).await.is_err());
    place.say("revoked");
    revoked.await.unwrap().unwrap();
    let third = third.await.unwrap().unwrap();
    assert_eq!(place.log(), ["present snap", "revoke snap", "present snap"]);
    two.revoke(&third).await.unwrap();
    assert_eq!(place.records_left(), 0);
}

#[tokio::test]
async fn who_waits_does_so_as_long_as_another_process_may_take() {
    let place = Place::new();
    let limit = Duration::from_secs(1);
    // It has to be killed, after its limit and a time in which it may end by itself; then it is presented all the same.
    let mut dead = place.hooks("", "trap '' TERM; touch stuck; while :; do sleep 1; done");
    let [mut one, mut two] = [(); 2].map(|()| place.hooks("", ""));
    for hooks in [&mut dead, &mut one, &mut two] {
        hooks.commands.limit = limit;
    }
    dead.present(&snapshot()).await.unwrap().unwrap();
    drop(dead);
    let second = async {
        place.hear("stuck").await;
        two.present(&snapshot()).await
    };
    let wanted = snapshot();
    let (first, second) = tokio::join!(one.present(&wanted), second);
    assert!(first.unwrap().is_some() && second.unwrap().is_some());
    assert_eq!(place.log(), ["present snap", "revoke snap", "present snap"]);
}

#[tokio::test]
async fn what_a_dead_process_has_presented_is_revoked_by_its_own_hook() {
    let place = Place::new();
    let dead = place.hooks("", "");
    dead.present(&snapshot()).await.unwrap().unwrap();
    // Its locks end with it.
    drop(dead);
    assert_eq!(place.records_left(), 1);
    assert!(reconcile(place.records()).await.is_empty());
    assert_eq!(place.log(), ["present snap", "revoke snap"]);
    assert_eq!(place.records_left(), 0);
    // Whoever wants it next revokes it first, too.
    let dead = place.hooks("", "");
    dead.present(&snapshot()).await.unwrap().unwrap();
    drop(dead);
    let next = place.hooks("", "");
    next.present(&snapshot()).await.unwrap().unwrap();
    assert_eq!(place.log()[2..], ["present snap", "revoke snap", "present snap"]);
}

#[tokio::test]
async fn work_that_was_broken_off_leaves_nothing_presented() {
    let place = Place::new();
    let hooks = Arc::new(place.hooks("touch begun; exec sleep 1000", ""));
    let presenting = Arc::clone(&hooks);
    let task = tokio::spawn(async move { presenting.present(&snapshot()).await });
    place.hear("begun").await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(hooks.revoke_all().await.is_empty());
    assert_eq!(place.log(), ["present snap", "revoke snap"]);
    assert_eq!(place.records_left(), 0);
}

#[tokio::test]
async fn a_revoke_hook_that_fails_is_tried_again_at_the_next_start() {
    let place = Place::new();
    let hooks = place.hooks("", "[ -e works ] || { echo 'SAN is busy'; exit 1; }");
    let presented = hooks.present(&snapshot()).await.unwrap().unwrap();
    let error = hooks.revoke(&presented).await.unwrap_err();
    assert!(error.message().ends_with("revoke hook sh: exit code 1: SAN is busy"), "{error}");
    assert!(error.hint().unwrap().contains(place.records().to_str().unwrap()), "{error}");
    drop(presented);
    assert_eq!(reconcile(place.records()).await.len(), 1);
    place.say("works");
    assert!(reconcile(place.records()).await.is_empty());
    assert_eq!(place.records_left(), 0);
}

#[tokio::test]
async fn records_that_others_can_write_are_not_run() {
    let place = Place::new();
    let hooks = place.hooks("", "");
    hooks.present(&snapshot()).await.unwrap().unwrap();
    drop(hooks);
    let record = fs::read_dir(place.records()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(place.records()).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&record, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(reconcile(place.records()).await.is_empty());
    fs::set_permissions(&record, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(place.records(), fs::Permissions::from_mode(0o777)).unwrap();
    let errors = reconcile(place.records()).await;
    assert_eq!(errors[0].kind(), ErrorKind::Permission);
    assert_eq!(place.log(), ["present snap"]);
}

#[tokio::test]
async fn luns_are_presented_together_or_each_on_its_own() {
    for (per_lun, presented) in [(false, &[""][..]), (true, &["1", "2"])] {
        let place = Place::new();
        let mut hooks =
            place.hooks("echo \"$SNAPBROWSE_LUN\" >>luns", "echo \"$SNAPBROWSE_LUN\" >>revoked");
        hooks.commands.per_lun = per_lun;
        for lun in [1, 2] {
            hooks.present(&Snapshot { lun: Some(lun), ..snapshot() }).await.unwrap();
        }
        assert!(hooks.revoke_all().await.is_empty());
        for file in ["luns", "revoked"] {
            let luns = fs::read_to_string(place.path().join(file)).unwrap();
            let mut luns: Vec<_> = luns.lines().collect();
            luns.sort_unstable();
            assert_eq!(luns, presented, "{file}");
        }
    }
}

#[tokio::test]
async fn the_list_hook_prints_names() {
    let place = Place::new();
    let mut hooks = place.hooks("", "");
    hooks.commands.list = Some(place.script(
        "printf '# snapshots\\n%s yesterday\\n\\nsnap-2\\niqn.2026-01.test:b\\n' \"$0\"; echo noise >&2",
    ));
    let listed = hooks.list("san:3260", "iqn.us").await.unwrap();
    assert_eq!(listed.unwrap(), ["iqn.2026-01.test:b"]);
    hooks.commands.list = Some(place.script("echo iqn.x; exit 1"));
    let error = hooks.list("san:3260", "iqn.us").await.unwrap_err();
    assert!(error.message().starts_with("san:3260: list hook sh: exit code 1"), "{error}");
    assert_eq!(names("iqn.a one\n#iqn.b\n  eui.c"), ["iqn.a", "eui.c"]);
}
