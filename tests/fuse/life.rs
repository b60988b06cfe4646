//! How mounts begin and end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use snapbrowse_target::{Fault, On, Rule};

use crate::common::{
    CrashedLun, FuseMount, Need, Snapbrowse, User, can_run, crashed_disk, find_program,
    is_mount_point,
};

const NEEDS: &[Need] =
    &[Need::Fuse, Need::Program("fusermount3"), Need::Program("getfattr"), Need::Program("gzip")];

/// Whether a process still does anything; one that nobody has waited for yet does not.
fn is_running(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

/// The target never answers the logout, so it takes until its bound: whoever does not wait for that returns long before.
fn logout_takes_long(lun: &CrashedLun) {
    lun.server.inject(Rule::new(On::Logout, Fault::Silence).always());
}

/// A mount of the crashed disk from a target, by everybody who may mount.
fn everybody_mounts(options: &[&str], then: impl Fn(&CrashedLun, &Snapbrowse, FuseMount<'_>)) {
    for user in User::everybody() {
        println!("{user:?}");
        let lun = CrashedLun::new();
        let snapbrowse = Snapbrowse::run_by(user);
        then(&lun, &snapbrowse, snapbrowse.mount_with(options, &lun.url()));
    }
}

/// A process that serves a mount in the foreground and tells of it.
struct Foreground {
    process: Child,
    said: BufReader<ChildStderr>,
}

impl Foreground {
    /// Starts it and waits until it is ready.
    fn start(snapbrowse: &Snapbrowse, source: &str, dir: &Path) -> Self {
        let mut command = snapbrowse.command(["mount", "-f", "-v", source]);
        let mut process = command.arg(dir).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("is mounted on") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended");
        }
        Self { process, said }
    }

    /// Ends it, with this exit code, and gives what else it said.
    fn end(mut self, signal: Signal, code: i32) -> String {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(code), "{rest}");
        rest
    }
}

#[test]
fn umount_returns_after_the_logout() {
    if !can_run("umount_returns_after_the_logout", NEEDS) {
        return;
    }
    everybody_mounts(&["--timeout", "4s"], |lun, snapbrowse, mount| {
        let process = mount.process();
        assert!(is_running(process));
        logout_takes_long(lun);
        let dir = mount.path().to_str().unwrap();
        // It was told that the target said nothing.
        let said = snapbrowse.fails(1, ["umount", dir]);
        assert!(said.ends_with("the target did not confirm the logout"), "{said}");
        assert!(said.contains(dir), "{said}");
        assert!(!is_running(process));
        assert_eq!(lun.server.stats().logouts, 1);
        mount.wait_until_gone();
    });
}

#[test]
fn umount_succeeds_where_the_logout_was_confirmed() {
    if !can_run("umount_succeeds_where_the_logout_was_confirmed", NEEDS) {
        return;
    }
    everybody_mounts(&[], |lun, snapbrowse, mount| {
        let said = snapbrowse.output(["umount", mount.path().to_str().unwrap()]);
        assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
        mount.wait_until_gone();
        lun.wait_until_logged_out();
    });
}

#[test]
fn root_unmounts_for_a_user_and_waits_too() {
    let needs = [NEEDS, &[Need::Root]].concat();
    if !can_run("root_unmounts_for_a_user_and_waits_too", &needs) {
        return;
    }
    let lun = CrashedLun::new();
    let nobody = Snapbrowse::run_by(User::Nobody);
    let mount = nobody.mount_with(&["--timeout", "4s"], &lun.url());
    let process = mount.process();
    logout_takes_long(&lun);
    let said = Snapbrowse::new().fails(1, ["umount", mount.path().to_str().unwrap()]);
    assert!(said.ends_with("the target did not confirm the logout"), "{said}");
    assert!(!is_running(process));
    assert_eq!(lun.server.stats().logouts, 1);
    mount.wait_until_gone();
}

#[test]
fn umount_says_so_where_the_logout_takes_longer_than_it_waits() {
    if !can_run("umount_says_so_where_the_logout_takes_longer_than_it_waits", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount_with(&["--timeout", "4s"], &lun.url());
    logout_takes_long(&lun);
    let dir = mount.path().to_str().unwrap();
    let said = snapbrowse.fails(1, ["umount", "--timeout", "10ms", dir]);
    assert!(said.contains("unmounted, but not logged out"), "{said}");
    mount.wait_until_gone();
}

#[test]
fn a_signal_unmounts_and_logs_out() {
    if !can_run("a_signal_unmounts_and_logs_out", NEEDS) {
        return;
    }
    for signal in [Signal::TERM, Signal::INT] {
        everybody_mounts(&[], |lun, _, mount| {
            kill_process(mount.process(), signal).unwrap();
            lun.wait_until_logged_out();
            assert!(!mount.is_mounted(), "{signal:?}: logged out but mounted");
            mount.wait_until_gone();
        });
    }
}

#[test]
fn whoever_unmounts_the_process_logs_out() {
    if !can_run("whoever_unmounts_the_process_logs_out", NEEDS) {
        return;
    }
    everybody_mounts(&[], |lun, snapbrowse, mount| {
        let mut unmount = snapbrowse.command_of(find_program("fusermount3").unwrap());
        assert!(unmount.arg("-u").arg(mount.path()).status().unwrap().success());
        lun.wait_until_logged_out();
        mount.wait_until_gone();
    });
}

#[test]
fn a_killed_process_leaves_no_dead_mount() {
    if !can_run("a_killed_process_leaves_no_dead_mount", NEEDS) {
        return;
    }
    everybody_mounts(&[], |_, _, mount| {
        kill_process(mount.process(), Signal::KILL).unwrap();
        mount.wait_until_gone();
    });
}

#[test]
fn where_the_watchdog_was_killed_too_umount_clears_the_dead_mount() {
    if !can_run("where_the_watchdog_was_killed_too_umount_clears_the_dead_mount", NEEDS) {
        return;
    }
    everybody_mounts(&[], |_, snapbrowse, mount| {
        mount.kill();
        let output = snapbrowse.output(["umount", mount.path().to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("was killed before it could log out"), "{said}");
        mount.wait_until_gone();
    });
}

#[test]
fn where_the_watchdog_was_killed_too_the_next_start_clears_the_dead_mount() {
    if !can_run("where_the_watchdog_was_killed_too_the_next_start_clears_the_dead_mount", NEEDS) {
        return;
    }
    everybody_mounts(&[], |lun, snapbrowse, mount| {
        mount.kill();
        let portal = format!("iscsi://{}", lun.server.portal());
        let dir = mount.path().to_str().unwrap();
        for (arguments, file) in [
            (["mount", &lun.url(), dir], "etc/hostname"),
            (["browse", &portal, dir], "iqn.2026-01.test:fuse/etc/hostname"),
        ] {
            let output = snapbrowse.output(arguments);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{said}");
            assert!(said.contains("a killed process left"), "{said}");
            let mut read = snapbrowse.command_of("cat");
            assert_eq!(read.arg(mount.path().join(file)).output().unwrap().stdout, b"srv1\n");
            mount.kill();
        }
        snapbrowse.output(["umount", dir]);
        mount.wait_until_gone();
    });
}

#[test]
fn a_second_mount_on_one_directory_is_refused_before_the_login() {
    if !can_run("a_second_mount_on_one_directory_is_refused_before_the_login", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount(&lun.url());
    let said = snapbrowse.fails(1, ["mount", &lun.url(), mount.path().to_str().unwrap()]);
    assert!(said.contains("mounted there already"), "{said}");
    assert_eq!(lun.server.stats().connections, 1);
    assert_eq!(fs::read(mount.path().join("etc/hostname")).unwrap(), b"srv1\n");
    mount.unmount();
}

#[test]
fn a_mount_that_fails_says_why_and_leaves_nothing() {
    if !can_run("a_mount_that_fails_says_why_and_leaves_nothing", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.new_directory();
    let dir = dir.to_str().unwrap();
    let url = lun.url();
    let no_lun = format!("{}9", url);
    let no_target = url.replace("test:fuse", "test:other");
    let empty = snapbrowse.home().join("empty.img");
    fs::write(&empty, vec![0; 1 << 20]).unwrap();
    for (code, source, directory) in [
        (10, no_lun.as_str(), dir),
        (10, "/no/such/image", dir),
        (11, "iscsi://127.0.0.1:1/iqn.2026-01.test:fuse/1", dir),
        (13, empty.to_str().unwrap(), dir),
        (1, &url, "/no/such/directory"),
        (1, &url, "/etc/passwd"),
        (1, &url, "/etc"),
        (2, "iscsi://127.0.0.1:1", dir),
    ] {
        let said = snapbrowse.fails(code, ["mount", source, directory]);
        assert!(said.starts_with("snapbrowse: "), "{said}");
    }
    let refused = snapbrowse.output(["mount", &no_target, dir]);
    assert!(matches!(refused.status.code(), Some(10 | 12)), "{refused:?}");
    for option in ["rw", "no_such_option", "timeout=soon"] {
        snapbrowse.fails(2, ["mount", "-o", option, &url, dir]);
    }
    assert!(!is_mount_point(dir.as_ref()));
    lun.wait_until_logged_out();
}

#[test]
fn options_after_o_are_the_programs_own_too() {
    if !can_run("options_after_o_are_the_programs_own_too", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let options = "ro,_netdev,noatime,x-systemd.automount,volume=p1,cache=8MiB";
    let mount = snapbrowse.mount_with(&["-o", options], &lun.url());
    assert_eq!(fs::read(mount.path().join("etc/hostname")).unwrap(), b"srv1\n");
    mount.unmount();
    let dir = snapbrowse.new_directory();
    let said =
        snapbrowse.fails(10, ["mount", "-o", "volume=p9", &lun.url(), dir.to_str().unwrap()]);
    assert!(said.contains("p9"), "{said}");
}

#[test]
fn in_the_foreground_ctrl_c_is_a_good_end() {
    if !can_run("in_the_foreground_ctrl_c_is_a_good_end", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.new_directory();
    let foreground = Foreground::start(&snapbrowse, &lun.url(), &dir);
    assert_eq!(fs::read(dir.join("etc/hostname")).unwrap(), b"srv1\n");
    foreground.end(Signal::INT, 0);
    assert!(!is_mount_point(&dir));
    lun.wait_until_logged_out();
}

#[test]
fn a_volume_that_was_written_meanwhile_is_reported_at_the_end() {
    if !can_run("a_volume_that_was_written_meanwhile_is_reported_at_the_end", NEEDS) {
        return;
    }
    use std::os::unix::fs::FileExt;
    let disk = crashed_disk();
    let image: PathBuf = disk.path().join("dirty-ext3.img");
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.new_directory();
    let foreground = Foreground::start(&snapbrowse, image.to_str().unwrap(), &dir);
    // s_wtime of the file system in the first partition, at 1 MiB: somebody mounted it.
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0xff; 4], (1 << 20) + 1024 + 0x30).unwrap();
    let rest = foreground.end(Signal::TERM, 3);
    assert!(rest.contains("being written"), "{rest}");

    // From the background it reaches whoever unmounts.
    file.write_all_at(&[0; 4], (1 << 20) + 1024 + 0x30).unwrap();
    let mount = snapbrowse.mount(image.to_str().unwrap());
    file.write_all_at(&[0xff; 4], (1 << 20) + 1024 + 0x30).unwrap();
    let said = snapbrowse.fails(3, ["umount", mount.path().to_str().unwrap()]);
    assert!(said.contains("dirty-ext3.img: the volume is being written"), "{said}");
    mount.wait_until_gone();
}

/// Reads a file that has not been read before, in a thread of its own: an answer that never comes would not even let
/// the test be killed.
fn read_in_time(path: PathBuf) -> std::io::Result<Vec<u8>> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(fs::read(path)));
    receive.recv_timeout(Duration::from_secs(60)).expect("no answer within a minute")
}

fn unmounts_without_logging_out(snapbrowse: &Snapbrowse, mount: FuseMount<'_>) {
    let said = snapbrowse.fails(1, ["umount", mount.path().to_str().unwrap()]);
    assert!(said.ends_with("the target did not confirm the logout"), "{said}");
    mount.wait_until_gone();
}

#[test]
fn a_target_that_is_gone_is_an_io_error_and_umount_still_works() {
    if !can_run("a_target_that_is_gone_is_an_io_error_and_umount_still_works", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount_with(&["--timeout", "2s"], &lun.url());
    let path = mount.path().join("var/lib/database");
    let size = fs::metadata(&path).unwrap().len();
    lun.vanish();
    let error = read_in_time(path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "{error}, of {size} bytes");
    unmounts_without_logging_out(&snapbrowse, mount);
}

#[test]
fn a_target_that_is_silent_is_an_io_error_and_umount_still_works() {
    if !can_run("a_target_that_is_silent_is_an_io_error_and_umount_still_works", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let mount = snapbrowse.mount_with(&["--timeout", "2s"], &lun.url());
    let path = mount.path().join("var/lib/database");
    fs::metadata(&path).unwrap();
    for occasion in [On::Command, On::Login, On::Nop, On::Logout] {
        lun.server.inject(Rule::new(occasion, Fault::Silence).always());
    }
    // The second one is not even found: nothing of its directory has been read.
    for path in [path, mount.path().join("etc/hostname")] {
        let error = read_in_time(path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
    }
    unmounts_without_logging_out(&snapbrowse, mount);
}

#[test]
fn a_password_in_a_url_is_not_in_the_command_line_of_what_goes_on() {
    if !can_run("a_password_in_a_url_is_not_in_the_command_line_of_what_goes_on", NEEDS) {
        return;
    }
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    let url = lun.url().replace("iscsi://", "iscsi://bob%s3cret-word@");
    let dir = snapbrowse.new_directory();
    let output = snapbrowse.output(["mount", "--volume", "p1", &url, dir.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let mount = FuseMount::found(&snapbrowse, dir);
    assert_eq!(fs::read(mount.path().join("etc/hostname")).unwrap(), b"srv1\n");
    let pid = mount.process().as_raw_nonzero();
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8(line).unwrap();
    assert!(!line.contains("s3cret"), "{line:?}");
    // What everybody may see is there.
    let dir = mount.path().to_str().unwrap();
    assert!(line.ends_with(&format!("mount\0--volume\0p1\0iscsi://...\0{dir}\0")), "{line:?}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("s3cret"));
    mount.unmount();
}

#[test]
fn messages_go_to_the_log_file_that_was_named() {
    if !can_run("messages_go_to_the_log_file_that_was_named", NEEDS) {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let lun = CrashedLun::new();
    let snapbrowse = Snapbrowse::new();
    // Relative to where it was started, not to where it goes on.
    let log = snapbrowse.home().join("log");
    let mount = snapbrowse.mount_with(&["-o", "log=log,timeout=2s"], &lun.url());
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    logout_takes_long(&lun);
    // As logrotate does it.
    fs::rename(&log, snapbrowse.home().join("log.1")).unwrap();
    unmounts_without_logging_out(&snapbrowse, mount);
    let text = fs::read_to_string(&log).unwrap();
    let line = text.lines().next().unwrap();
    assert!(line.ends_with("the target did not confirm the logout"), "{text}");
    assert!(line.starts_with("20") && line.as_bytes()[10] == b'T', "{text}");

    let dir = snapbrowse.new_directory();
    let options = ["mount", "--log", "/no/such/directory/log", &lun.url(), dir.to_str().unwrap()];
    let said = snapbrowse.fails(2, options);
    assert!(said.contains("/no/such/directory/log"), "{said}");
}
