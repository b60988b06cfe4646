//! The entries of autofs maps, without autofs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;

use crate::common::{Need, Snapbrowse, Tgtd, can_run, free_port};

const KNOWN: &str = "iqn.2001-05.com.example:known";

fn configured(config: &str) -> Snapbrowse {
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.home().join(".config/snapbrowse");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.toml"), config).unwrap();
    snapbrowse
}

/// A port that nobody listens on.
fn nobody() -> SocketAddr {
    free_port(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

fn entry(url: &str) -> String {
    format!("-fstype=fuse.snapbrowse,ro,allow_other \":{url}\"\n")
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let [out, err] = [&output.stdout, &output.stderr];
    let [out, err] = [out, err].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    (output.status.code(), out, err)
}

/// A node database that knows one target at `portal`.
fn nodes(dir: &Path, portal: &str) -> String {
    fs::create_dir_all(dir.join(KNOWN).join(portal)).unwrap();
    fs::write(dir.join(KNOWN).join(portal).join("default"), "node.name = x\n").unwrap();
    format!("node_database = '{}'\n", dir.display())
}

#[test]
fn what_open_iscsi_knows_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    // A portal that would not answer, and one that is not asked.
    let config = nodes(dir.path(), "192.0.2.1,3261,1") + "portals = ['192.0.2.2']\n";
    let snapbrowse = configured(&config);
    let printed = String::from_utf8(snapbrowse.run(["automap", KNOWN])).unwrap();
    assert_eq!(printed, entry(&format!("iscsi://192.0.2.1:3261/{KNOWN}")));
}

#[test]
fn the_portal_that_tells_of_the_target_is_in_the_entry() {
    if !can_run("the_portal_that_tells_of_the_target_is_in_the_entry", &[Need::Program("tgtd")]) {
        return;
    }
    let [mut here, mut there] = [Tgtd::start(), Tgtd::start()];
    let target = here.add_target("home");
    there.add_target("other");
    let snapbrowse =
        configured(&format!("portals = ['{}', '{}']\n", there.address(), here.address()));
    let printed = String::from_utf8(snapbrowse.run(["automap", &target.iqn])).unwrap();
    assert_eq!(printed, entry(&format!("iscsi://{}/{}", here.address(), target.iqn)));

    let said = snapbrowse.fails(10, ["automap", KNOWN]);
    for words in [KNOWN, "no such target", &here.address().to_string(), "initiator iqn."] {
        assert!(said.contains(words), "{said}");
    }
    assert!(snapbrowse.output(["automap", KNOWN]).stdout.is_empty());
}

#[test]
fn a_portal_that_does_not_answer_is_believed_to_have_the_target() {
    let silent = nobody();
    let snapbrowse = configured(&format!("portals = ['{silent}']\n"));
    let (code, out, err) = text(&snapbrowse.output(["automap", KNOWN]));
    assert_eq!((code, out), (Some(0), entry(&format!("iscsi://{silent}/{KNOWN}"))));
    assert!(err.contains("connection refused") && err.contains("warning"), "{err}");
}

#[test]
fn what_hooks_can_present_has_an_entry_before_any_portal_tells_of_it() {
    let test = "what_hooks_can_present_has_an_entry_before_any_portal_tells_of_it";
    if !can_run(test, &[Need::Program("tgtd")]) {
        return;
    }
    let mut tgtd = Tgtd::start();
    tgtd.add_target("other");
    let hooks = "[hooks]\npresent = ['true']\ntargets = '*:snap-*'\n";
    let snapbrowse = configured(&format!("portals = ['{}']\n{hooks}", tgtd.address()));
    let target = "iqn.2001-05.com.example:snap-1";
    let printed = String::from_utf8(snapbrowse.run(["automap", target])).unwrap();
    assert_eq!(printed, entry(&format!("iscsi://{}/{target}", tgtd.address())));
    assert!(snapbrowse.fails(10, ["automap", KNOWN]).contains("no such target"));
}

#[test]
fn called_by_its_link_it_takes_any_key_and_refuses_what_names_no_target() {
    let dir = tempfile::tempdir().unwrap();
    let snapbrowse = configured(&nodes(dir.path(), "192.0.2.1,3260,1"));
    let call = |key: &str| {
        let mut command = snapbrowse.command_of(snapbrowse.program());
        text(&command.arg0("/etc/auto.iscsi").arg(key).output().unwrap())
    };
    let url = format!("iscsi://192.0.2.1:3260/{KNOWN}");
    assert_eq!(call(KNOWN), (Some(0), entry(&url), String::new()));
    for key in [
        "../x",
        "-o",
        "--help",
        "--all",
        "iqn.x y",
        "iqn.x\ny",
        "",
        "iqn.x/../../etc",
        ".Trash",
        "*",
    ] {
        let (code, out, err) = call(key);
        assert_eq!((code, out.as_str()), (Some(10), ""), "{key:?}: {err}");
        assert!(err.contains("is no target's name") && err.lines().count() == 1, "{key:?}: {err}");
    }
    let (code, out, err) = call("iqn.2001-05.com.example:unknown");
    assert_eq!((code, out.as_str()), (Some(10), ""));
    assert!(err.contains("open-iscsi does not know the target"), "{err}");
}

#[test]
fn a_whole_map_has_what_open_iscsi_and_the_portals_know_and_names_a_portal_that_failed() {
    let needs = [Need::Program("tgtd")];
    let test =
        "a_whole_map_has_what_open_iscsi_and_the_portals_know_and_names_a_portal_that_failed";
    if !can_run(test, &needs) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("home-2026-11-20");
    let silent = nobody();
    let snapbrowse = configured(&format!(
        "portals = ['{}', '{silent}']\n{}",
        tgtd.address(),
        nodes(dir.path(), "fe80::1,3260,1")
    ));
    for (arguments, keys) in [
        (&["automap", "--all"][..], [KNOWN, &target.iqn]),
        (&["automap", "--all", "--aliases"], ["known", "home-2026-11-20"]),
    ] {
        let (code, out, err) = text(&snapbrowse.output(arguments));
        let lines = [
            format!("{} {}", keys[0], entry(&format!("iscsi://[fe80::1]:3260/{KNOWN}"))),
            format!("{} {}", keys[1], entry(&format!("iscsi://{}/{}", tgtd.address(), target.iqn))),
        ];
        assert_eq!((code, out), (Some(3), lines.concat()), "{err}");
        assert!(err.contains(&silent.to_string()), "{err}");
    }
}

#[test]
fn a_whole_map_without_any_portal_has_what_hooks_are_run_for() {
    let names = "echo iqn.2026-01.test.ours:yet; echo iqn.2026-01.test.theirs:yet";
    let silent = nobody();
    let snapbrowse = configured(&format!(
        "portals = ['{silent}']\n[hooks]\npresent = ['true']\nlist = ['sh', '-c', '{names}']\ntargets = '*.ours:*'\n"
    ));
    let (code, out, err) = text(&snapbrowse.output(["automap", "--all"]));
    let ours = "iqn.2026-01.test.ours:yet";
    let line = format!("{ours} {}", entry(&format!("iscsi://{silent}/{ours}")));
    assert_eq!((code, out), (Some(3), line), "{err}");
    assert!(err.contains(&silent.to_string()), "{err}");
}

#[test]
fn a_whole_map_has_what_the_list_hook_prints() {
    if !can_run("a_whole_map_has_what_the_list_hook_prints", &[Need::Program("tgtd")]) {
        return;
    }
    let mut tgtd = Tgtd::start();
    let shown = tgtd.add_target("shown").iqn;
    let address = tgtd.address();
    // One that a portal tells of as well, one that nobody knows yet, and one that is no name.
    let list = |end: &str| {
        let names = format!("echo {shown}; echo iqn.2026-01.test.tgt:yet; echo iqn.x,y; {end}");
        let hooks = format!("[hooks]\npresent = ['true']\nlist = ['sh', '-c', '{names}']\n");
        configured(&format!("portals = ['{address}']\n{hooks}"))
    };
    let line = |iqn: &str| format!("{iqn} {}", entry(&format!("iscsi://{address}/{iqn}")));
    let both = [line(&shown), line("iqn.2026-01.test.tgt:yet")].concat();
    let (code, out, err) = text(&list("true").output(["automap", "--all"]));
    assert_eq!((code, out), (Some(0), both), "{err}");
    assert!(err.contains("left out") && err.contains("iqn.x,y"), "{err}");
    // A hook that fails takes nothing else away, and is named.
    let (code, out, err) = text(&list("exit 7").output(["automap", "--all"]));
    assert_eq!((code, out), (Some(3), line(&shown)), "{err}");
    assert!(err.contains("list hook") && err.contains("exit code 7"), "{err}");
}
