//! A SAN with a thousand targets, and with odd ones.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use snapbrowse_target::{Config, Disk, Fault, Lun, On, Rule, Server, Target};

use crate::common::{FuseMount, Need, Snapbrowse, can_run, crashed_disk, free_port};
use crate::san::Tree;

const NEEDS: &[Need] = &[Need::Fuse, Need::Program("fusermount3")];

/// More than this is not spent on names.
const MEMORY: u64 = 64 << 20;

#[test]
fn a_thousand_targets_cost_one_question_no_login_and_little_memory() {
    if !can_run("a_thousand_targets_cost_one_question_no_login_and_little_memory", NEEDS) {
        return;
    }
    let target = |n| Target::new(format!("iqn.2026-01.test.tgt:volume-{n:04}-2026-11-20"));
    let targets = (0..1000).map(target).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { targets, ..Config::default() };
    let server = runtime.block_on(Server::start(config)).unwrap();
    let portal = format!("iscsi://{}", server.portal());
    let snapbrowse = Snapbrowse::new();
    let tree = Tree::mount(&snapbrowse, &["--refresh", "1h", &portal]);
    let listed = std::process::Command::new("ls").arg("-la").arg(tree.path()).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).unwrap();
    // A directory and a link each.
    assert_eq!(
        names.lines().filter(|line| line.starts_with('d') && line.contains("iqn.")).count(),
        1000
    );
    assert_eq!(names.lines().filter(|line| line.starts_with('l')).count(), 1000);
    assert_eq!(fs::read_dir(tree.path().join("by-volume")).unwrap().count(), 1000);
    let stats = server.stats();
    assert_eq!((stats.discovery_sessions, stats.normal_sessions), (1, 0));
    let process = tree.process().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak << 10 < MEMORY, "{peak} KiB");
    tree.unmount();
}

#[test]
fn a_portal_without_targets_has_answered_where_another_one_is_down() {
    let test = "a_portal_without_targets_has_answered_where_another_one_is_down";
    if !can_run(test, NEEDS) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(Config::default())).unwrap();
    let portal = format!("iscsi://{},{}", server.portal(), down());
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.new_directory();
    let output = snapbrowse.output(["browse", &portal, dir.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("connection refused"), "{said}");
    let mount = FuseMount::found(&snapbrowse, dir.clone());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "more than .snapbrowse");
    mount.unmount();
}

/// A portal that nobody listens at.
fn down() -> SocketAddr {
    free_port(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

#[test]
fn names_that_targets_give_themselves_are_safe_and_lead_to_them() {
    if !can_run("names_that_targets_give_themselves_are_safe_and_lead_to_them", NEEDS) {
        return;
    }
    let long = "x".repeat(255);
    // eui names have no readable part, so that what the target says of itself is the only one.
    let aliases =
        ["../..", "/etc/passwd", "two\nlines", "same", "same", ".", "", "\u{202e}gpj", &long];
    let name = |n: usize| format!("eui.{n:016X}");
    let disk = crashed_disk();
    let target = |(n, alias): (usize, &&str)| {
        let disk = Disk::open(disk.path().join("dirty-ext3.img")).unwrap();
        Target::new(name(n)).alias(*alias).lun(Lun::new(0, format!("serial-{n}"), disk))
    };
    let targets = aliases.iter().enumerate().map(target).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { targets, ..Config::default() };
    let server = runtime.block_on(Server::start(config)).unwrap();
    let portal = format!("iscsi://{}", server.portal());
    let snapbrowse = Snapbrowse::new();
    let tree = Tree::mount(&snapbrowse, &[&portal]);
    // Targets tell their aliases when they are logged in to.
    for n in 0..aliases.len() {
        let hostname = tree.path().join(name(n)).join("etc/hostname");
        assert_eq!(fs::read(hostname).unwrap(), b"srv1\n", "{n}");
    }
    let mut links = Vec::new();
    for entry in fs::read_dir(tree.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_symlink() {
            let target =
                fs::read_link(entry.path()).unwrap().into_os_string().into_string().unwrap();
            assert_eq!(fs::read(entry.path().join("etc/hostname")).unwrap(), b"srv1\n");
            links.push((target, entry.file_name().into_string().unwrap()));
        }
    }
    links.sort();
    let of = |n: usize| -> Vec<&str> {
        let found = links.iter().filter(|(target, _)| *target == name(n));
        found.map(|(_, link)| link.as_str()).collect()
    };
    assert!(links.iter().all(|(_, link)| link.len() <= 255 && !link.contains(['/', '\n'])));
    assert_eq!(of(1), ["_etc_passwd"]);
    // Two that claim one name are told apart by their own.
    assert!(of(3)[0].starts_with("same~") && of(4)[0].starts_with("same~") && of(3) != of(4));
    assert!(of(5).is_empty() && of(6).is_empty(), "{links:?}");
    assert!(!links.iter().any(|(_, link)| link.starts_with('.')), "{links:?}");
    tree.unmount();
}

#[test]
fn a_login_that_nobody_answers_is_a_timeout_to_whoever_looks() {
    if !can_run("a_login_that_nobody_answers_is_a_timeout_to_whoever_looks", NEEDS) {
        return;
    }
    let targets = vec![Target::new("iqn.2026-01.test.tgt:silent")];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { targets, ..Config::default() };
    let server = runtime.block_on(Server::start(config)).unwrap();
    let portal = format!("iscsi://{}", server.portal());
    let snapbrowse = Snapbrowse::new();
    let tree = Tree::mount(&snapbrowse, &["--refresh", "1h", &portal]);
    server.inject(Rule::new(On::Login, Fault::Mute).always());
    let listing = fs::read_dir(tree.of("silent")).and_then(|mut entries| entries.next().unwrap());
    let error = listing.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::TIMEDOUT.raw_os_error()), "{error}");
    let told = tree.status("silent")["last_error"].to_string();
    assert!(told.contains("no answer to the login"), "{told}");
    tree.unmount();
}
