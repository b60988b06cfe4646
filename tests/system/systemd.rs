//! systemd: what services tell it, and the examples of units.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Need, Snapbrowse, TgtTarget, Tgtd, can_run, crashed_disk, is_mount_point};
use crate::room::{self, Room, sessions, wait_until};

/// The socket of a service manager.
struct Manager {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { dir, socket }
    }

    /// Starts a service of `Type=notify`.
    fn start(&self, user: &Snapbrowse, arguments: &[&str]) -> Child {
        let mut command = user.command(arguments);
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command.stdin(Stdio::null()).spawn().unwrap()
    }

    fn told(&self) -> String {
        let mut message = [0; 256];
        let len = self.socket.recv(&mut message).expect("nothing was told");
        String::from_utf8_lossy(&message[..len]).into_owned()
    }
}

fn san() -> (Tgtd, TgtTarget, tempfile::TempDir) {
    let disk = crashed_disk();
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("srv1");
    tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
    (tgtd, target, disk)
}

#[test]
fn a_service_is_ready_when_it_is_mounted_and_ends_when_it_is_logged_out() {
    let needs = [Need::Fuse, Need::Program("fusermount3"), Need::Program("tgtd")];
    let test = "a_service_is_ready_when_it_is_mounted_and_ends_when_it_is_logged_out";
    if !can_run(test, &needs) {
        return;
    }
    let (tgtd, target, _disk) = san();
    let portal = format!("iscsi://{}", tgtd.address());
    let url = tgtd.url(&target, 1);
    let user = Snapbrowse::new();
    for (command, source, inside) in [
        ("browse", &portal, format!("{}/etc/hostname", target.iqn)),
        ("mount", &url, "etc/hostname".to_owned()),
    ] {
        let manager = Manager::new();
        let dir = user.new_directory();
        let arguments = [command, "--foreground", source, dir.to_str().unwrap()];
        let mut service = manager.start(&user, &arguments);
        assert_eq!(manager.told(), "READY=1", "{command}");
        assert!(is_mount_point(&dir), "{command}");
        assert_eq!(std::fs::read_to_string(dir.join(inside)).unwrap(), "srv1\n");
        assert_eq!(sessions(&tgtd, &target), 1);
        let process = Pid::from_child(&service);
        kill_process(process, Signal::TERM).unwrap();
        assert_eq!(manager.told(), "STOPPING=1", "{command}");
        assert!(service.wait().unwrap().success(), "{command}");
        assert!(!is_mount_point(&dir), "{command}");
        wait_until("logout", || sessions(&tgtd, &target) == 0);
    }
}

#[test]
fn the_examples_of_units_are_good_ones() {
    let needs = [room::NEEDS, &[Need::Program("systemd-analyze")]].concat();
    if !can_run("the_examples_of_units_are_good_ones", &needs) {
        return;
    }
    let user = Snapbrowse::new();
    let room = Room::new(&[(&user.program(), "/usr/local/bin/snapbrowse")]);
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/systemd");
    for (manager, unit) in [
        ("--user", "snapbrowse-browse.service"),
        ("--system", "srv-snapshot.mount"),
        ("--system", "srv-snapshot.automount"),
    ] {
        let mut command = room.command(&user, "systemd-analyze");
        command.env("XDG_RUNTIME_DIR", room.path());
        let output = command.args(["verify", "--man=no", manager]).arg(units.join(unit)).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains(unit), "{unit}: {said}");
    }
}
