//! Whatever becomes of a command, what was presented for it is revoked.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use snapbrowse_target::{Config, Fault, On, Rule, Server, Target};

use crate::common::{FuseMount, Need, Snapbrowse, User, can_run, run};
use crate::san::{Hooked, wait_until};

const NEEDS: &[Need] =
    &[Need::Fuse, Need::Program("fusermount3"), Need::Program("getfattr"), Need::Program("gzip")];

#[test]
fn a_mount_is_presented_and_umount_returns_when_it_is_revoked() {
    if !can_run("a_mount_is_presented_and_umount_returns_when_it_is_revoked", NEEDS) {
        return;
    }
    for user in User::everybody() {
        let san = Hooked::new(user);
        let mount = san.snapbrowse.mount(&san.lun.url());
        assert_eq!(san.called(), ["present"]);
        assert_eq!(san.records(), 1);
        mount.unmount();
        assert_eq!(san.called(), ["present", "revoke"]);
        assert_eq!(san.records(), 0);
        san.lun.wait_until_logged_out();
    }
}

#[test]
fn umount_says_that_it_was_not_revoked_and_the_next_start_tries_again() {
    if !can_run("umount_says_that_it_was_not_revoked_and_the_next_start_tries_again", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    san.set("", "[ -e works ] || { echo SAN is busy; exit 4; }");
    let mount = san.snapbrowse.mount(&san.lun.url());
    let said = san.snapbrowse.fails(1, ["umount", mount.path().to_str().unwrap()]);
    assert!(said.contains("revoke hook sh: exit code 4: SAN is busy"), "{said}");
    mount.wait_until_gone();
    assert_eq!(san.records(), 1);
    fs::write(san.home().join("works"), "").unwrap();
    let output = san.snapbrowse.output(["cat", "--present", &san.lun.url(), "/etc/hostname"]);
    assert_eq!(output.stdout, b"srv1\n");
    assert_eq!(san.called(), ["present", "revoke", "revoke", "present", "revoke"]);
    assert_eq!(san.records(), 0);
}

#[test]
fn what_was_not_logged_out_is_revoked_all_the_same() {
    if !can_run("what_was_not_logged_out_is_revoked_all_the_same", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    let mount = san.snapbrowse.mount_with(&["--timeout", "2s"], &san.lun.url());
    san.lun.server.inject(Rule::new(On::Logout, Fault::Silence).always());
    let said = san.snapbrowse.fails(1, ["umount", mount.path().to_str().unwrap()]);
    assert!(said.contains("did not confirm the logout"), "{said}");
    assert_eq!(san.called(), ["present", "revoke"]);
    mount.wait_until_gone();
}

#[test]
fn a_failed_login_is_followed_by_revoking() {
    if !can_run("a_failed_login_is_followed_by_revoking", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    let absent = san.lun.url().replace("test:fuse", "test:other");
    let dir = san.snapbrowse.new_directory();
    for arguments in [["mount", &absent, dir.to_str().unwrap()], ["cat", &absent, "--present"]] {
        let output = san.snapbrowse.command(arguments).arg("/").output().unwrap();
        assert!(!output.status.success(), "{output:?}");
    }
    let output = san.snapbrowse.output(["mount", &absent, dir.to_str().unwrap()]);
    assert!(matches!(output.status.code(), Some(10 | 12)), "{output:?}");
    assert_eq!(san.called(), ["present", "revoke", "present", "revoke"]);
    assert_eq!(san.records(), 0);
}

#[test]
fn a_signal_ends_a_command_with_revoking() {
    if !can_run("a_signal_ends_a_command_with_revoking", NEEDS) {
        return;
    }
    for signal in [Signal::INT, Signal::TERM] {
        // While it reads: nobody takes what it prints.
        let san = Hooked::new(User::Caller);
        let url = san.lun.url();
        let mut command = san.snapbrowse.command(["cat", "--present", &url, "/var/lib/database"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut first = [0];
        process.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        kill_process(Pid::from_child(&process), signal).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(130));
        assert_eq!(san.called(), ["present", "revoke"]);
        assert_eq!(san.records(), 0);

        // While the hook runs.
        let san = Hooked::new(User::Caller);
        san.set("touch begun; exec sleep 1000", "");
        let mut command = san.snapbrowse.command(["ls", "--present", &san.lun.url()]);
        let mut process = command.stderr(Stdio::null()).spawn().unwrap();
        wait_until("the hook to begin", || san.home().join("begun").exists());
        kill_process(Pid::from_child(&process), signal).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(130));
        assert_eq!(san.called(), ["present", "revoke"]);
        assert_eq!(san.records(), 0);
    }
}

#[test]
fn a_signal_ends_a_listing_that_nobody_reads() {
    if !can_run("a_signal_ends_a_listing_that_nobody_reads", &[Need::Program("mke2fs")]) {
        return;
    }
    let snapbrowse = Snapbrowse::new();
    let tree = snapbrowse.home().join("tree");
    fs::create_dir(&tree).unwrap();
    // More than a pipe and our own buffer hold.
    for number in 0..3000 {
        fs::write(tree.join(format!("{number:0100}")), "").unwrap();
    }
    let image = snapbrowse.home().join("image");
    let (tree, image) = (tree.to_str().unwrap(), image.to_str().unwrap());
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree, image, "32M"]);
    let mut command = snapbrowse.command(["ls", "-R", image]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0];
    process.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let mut end = None;
    wait_until("the end", || {
        end = process.try_wait().unwrap();
        end.is_some()
    });
    assert_eq!(end.unwrap().code(), Some(130));
}

#[test]
fn after_sigkill_the_next_start_clears_the_mount_and_revokes() {
    if !can_run("after_sigkill_the_next_start_clears_the_mount_and_revokes", NEEDS) {
        return;
    }
    for user in User::everybody() {
        let san = Hooked::new(user);
        let dir = san.snapbrowse.new_directory();
        let portal = format!("iscsi://{}", san.lun.server.portal());
        let browse = ["browse", &portal, dir.to_str().unwrap()];
        let file = dir.join("iqn.2026-01.test:fuse/etc/hostname");
        san.snapbrowse.run(browse);
        assert_eq!(read_as(&san, &file), b"srv1\n");
        assert_eq!(san.called(), ["present"]);
        let mount = FuseMount::found(&san.snapbrowse, dir.clone());
        mount.kill();
        assert_eq!(san.records(), 1);
        let output = san.snapbrowse.output(browse);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("left presented by a process that is gone"), "{user:?}: {said}");
        assert_eq!(san.called(), ["present", "revoke"], "{user:?}");
        assert_eq!(read_as(&san, &file), b"srv1\n");
        mount.unmount();
        assert_eq!(san.called(), ["present", "revoke", "present", "revoke"]);
        assert_eq!(san.records(), 0);
    }
}

#[test]
fn a_hook_that_outlives_its_process_is_waited_for_and_revoked() {
    if !can_run("a_hook_that_outlives_its_process_is_waited_for_and_revoked", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    san.set("touch begun; while [ ! -e go-on ]; do sleep 0.02; done; echo presented >>hooks", "");
    let url = san.lun.url();
    let list = ["ls", "--present", &url, "/etc/hostname"];
    let mut killed = san.snapbrowse.command(list).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the hook to begin", || san.home().join("begun").exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(san.called(), ["present"]);

    let mut next = san.snapbrowse.command(list).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(next.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("left presented by a process that is gone"), "{line}");
    // Revoking it now would be undone by the hook.
    assert_eq!(san.called(), ["present"]);
    fs::write(san.home().join("go-on"), "").unwrap();
    assert!(next.wait().unwrap().success());
    let (first, second) = (["present", "presented", "revoke"], ["present", "presented", "revoke"]);
    assert_eq!(san.called(), [first, second].concat());
    assert_eq!(san.records(), 0);
}

#[test]
fn what_a_hook_leaves_running_keeps_nothing_presented() {
    if !can_run("what_a_hook_leaves_running_keeps_nothing_presented", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    // Something that goes on in a session of its own, with the hook's standard input, until the test takes its files away.
    let left = "exec 3<&0; setsid sh -c 'while [ -e hooks ]; do sleep 0.02; done' <&3 >&- 2>&- &";
    san.set(left, "");
    let url = san.lun.url();
    let list = ["ls", "--present", &url, "/etc/hostname"];
    let listed = san.snapbrowse.command(list).output().unwrap();
    assert!(listed.status.success());
    assert_eq!(String::from_utf8(listed.stderr).unwrap(), "");
    assert_eq!(san.called(), ["present", "revoke"]);
    assert_eq!(san.records(), 0);
}

/// Another user's mount is closed to the caller.
fn read_as(san: &Hooked, file: &Path) -> Vec<u8> {
    san.snapbrowse.command_of("cat").arg(file).output().unwrap().stdout
}

#[test]
fn two_mounts_of_one_snapshot_present_and_revoke_it_once() {
    if !can_run("two_mounts_of_one_snapshot_present_and_revoke_it_once", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    let one = san.snapbrowse.mount(&san.lun.url());
    let two = san.snapbrowse.mount(&san.lun.url());
    one.unmount();
    assert_eq!(fs::read(two.path().join("etc/hostname")).unwrap(), b"srv1\n");
    assert_eq!(san.called(), ["present"]);
    two.unmount();
    assert_eq!(san.called(), ["present", "revoke"]);
}

#[test]
fn a_hook_that_fails_or_hangs_is_an_error_of_its_target() {
    if !can_run("a_hook_that_fails_or_hangs_is_an_error_of_its_target", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    for (present, limit, errno, said) in [
        ("echo array is full; exit 2", "30s", 5, "exit code 2: array is full"),
        ("echo waiting; sleep 1000", "500ms", 110, "not done after 500ms, killed: waiting"),
    ] {
        san.set(present, "");
        let table = fs::read_to_string(san.home().join(".config/snapbrowse/config.toml")).unwrap();
        san.snapbrowse.configure(&format!("{table}timeout = '{limit}'"));
        let dir = san.snapbrowse.new_directory();
        let portal = format!("iscsi://{}", san.lun.server.portal());
        san.snapbrowse.run(["browse", &portal, dir.to_str().unwrap()]);
        let mount = FuseMount::found(&san.snapbrowse, dir.clone());
        let error = fs::metadata(dir.join("iqn.2026-01.test:fuse/etc")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{error}");
        let status = fs::read_to_string(dir.join(".snapbrowse/status")).unwrap();
        assert!(status.contains(said), "{status}");
        mount.unmount();
        assert_eq!(san.records(), 0);
    }
    assert_eq!(san.called(), ["present", "revoke", "present", "revoke"]);
}

#[test]
fn an_idle_target_is_revoked_after_its_logout() {
    if !can_run("an_idle_target_is_revoked_after_its_logout", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    let dir = san.snapbrowse.new_directory();
    let portal = format!("iscsi://{}", san.lun.server.portal());
    san.snapbrowse.run(["browse", "--idle", "200ms", &portal, dir.to_str().unwrap()]);
    let mount = FuseMount::found(&san.snapbrowse, dir.clone());
    let file = dir.join("iqn.2026-01.test:fuse/etc/hostname");
    fs::read(&file).unwrap();
    san.wait_until_called(&["present", "revoke"]);
    let logouts = san.lun.server.stats();
    assert_eq!(logouts.logouts, logouts.normal_sessions + logouts.discovery_sessions);
    fs::read(dir.join("iqn.2026-01.test:fuse/etc/fstab")).unwrap();
    assert_eq!(san.called().len(), 3);
    mount.unmount();
    assert_eq!(san.called(), ["present", "revoke", "present", "revoke"]);
}

#[test]
fn what_hooks_say_is_in_the_log_and_secrets_are_not_in_their_environment() {
    if !can_run("what_hooks_say_is_in_the_log_and_secrets_are_not_in_their_environment", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    san.set("env >env; echo presenting it; printf 'half\\007 a line' >&2", "echo taking it back");
    let mut command =
        san.snapbrowse.command(["cat", "-v", "--present", &san.lun.url(), "/etc/hostname"]);
    command.env("LIBISCSI_CHAP_USERNAME", "bob").env("LIBISCSI_CHAP_PASSWORD", "s3cret-word");
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for line in
        ["present hook: presenting it", "present hook: half  a line", "revoke hook: taking it back"]
    {
        assert!(said.contains(&format!("snapbrowse: {line}\n")), "{said}");
    }
    let environment = fs::read_to_string(san.home().join("env")).unwrap();
    assert!(environment.contains("LIBISCSI_CHAP_USERNAME=bob"), "{environment}");
    assert!(!environment.contains("s3cret") && !said.contains("s3cret"), "{environment}{said}");
}

#[test]
fn hooks_are_told_the_portal_that_told_of_the_target_also_where_it_was_named_by_its_host() {
    let test =
        "hooks_are_told_the_portal_that_told_of_the_target_also_where_it_was_named_by_its_host";
    if !can_run(test, NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    san.set("echo $SNAPBROWSE_PORTAL >>portals", "");
    let config =
        Config { targets: vec![Target::new("iqn.2026-01.test:other")], ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let other = runtime.block_on(Server::start(config)).unwrap();
    let [first, second] =
        [&other, &san.lun.server].map(|server| format!("localhost:{}", server.portal().port()));
    let dir = san.snapbrowse.new_directory();
    let portals = [&first, &second].map(|portal| format!("iscsi://{portal}"));
    san.snapbrowse.run(["browse", &portals[0], &portals[1], dir.to_str().unwrap()]);
    let mount = FuseMount::found(&san.snapbrowse, dir.clone());
    assert_eq!(fs::read(dir.join("iqn.2026-01.test:fuse/etc/hostname")).unwrap(), b"srv1\n");
    mount.unmount();
    assert_eq!(fs::read_to_string(san.home().join("portals")).unwrap().trim_end(), second);
}

#[test]
fn where_the_list_hook_fails_the_others_are_listed_all_the_same() {
    if !can_run("where_the_list_hook_fails_the_others_are_listed_all_the_same", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    san.snapbrowse.configure("[hooks]\nlist = ['sh', '-c', 'echo no licence >&2; exit 1']\n");
    let dir = san.snapbrowse.new_directory();
    let portal = format!("iscsi://{}", san.lun.server.portal());
    let output = san.snapbrowse.output(["browse", &portal, dir.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("list hook sh: exit code 1: no licence"), "{said}");
    let mount = FuseMount::found(&san.snapbrowse, dir.clone());
    assert!(dir.join("iqn.2026-01.test:fuse/etc/hostname").exists());
    let status = fs::read_to_string(dir.join(".snapbrowse/status")).unwrap();
    assert!(status.contains("no licence"), "{status}");
    mount.unmount();
}

#[test]
fn a_list_hook_that_hangs_keeps_no_idle_target_logged_in() {
    if !can_run("a_list_hook_that_hangs_keeps_no_idle_target_logged_in", NEEDS) {
        return;
    }
    let san = Hooked::new(User::Caller);
    let home = san.home();
    let table = fs::read_to_string(home.join(".config/snapbrowse/config.toml")).unwrap();
    let list = "cd \"$0\"; [ -e once ] || exec touch once; touch again; exec sleep 1000";
    san.snapbrowse.configure(&format!(
        "{table}list = ['sh', '-c', '''{list}''', '{}']\ntimeout = '10m'",
        home.display()
    ));
    let dir = san.snapbrowse.new_directory();
    let portal = format!("iscsi://{}", san.lun.server.portal());
    let options = ["browse", "--idle", "200ms", "--refresh", "1s", &portal, dir.to_str().unwrap()];
    san.snapbrowse.run(options);
    let mount = FuseMount::found(&san.snapbrowse, dir.clone());
    wait_until("the second list", || home.join("again").exists());
    fs::read(dir.join("iqn.2026-01.test:fuse/etc/hostname")).unwrap();
    san.wait_until_called(&["present", "revoke"]);
    mount.unmount();
}
