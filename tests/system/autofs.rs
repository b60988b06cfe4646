//! Debian's autofs, as root runs it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use crate::common::{Need, Snapbrowse, TgtTarget, Tgtd, can_run, crashed_disk};
use crate::room::{self, Room, sessions, wait_until};

fn can_automount(test: &str) -> bool {
    can_run(test, &[room::NEEDS, &[Need::Program("automount"), Need::Program("setpriv")]].concat())
}

/// automount over one directory of a room.
struct Autofs {
    room: Room,
    user: Snapbrowse,
    daemon: Child,
}

impl Autofs {
    /// Starts it with the program as its program map and this configuration of the program's.
    fn with_program_map(config: &str) -> Self {
        Self::start(config, |room, user| {
            let map = room.path().join("auto.iscsi");
            std::os::unix::fs::symlink(user.program(), &map).unwrap();
            format!("program:{}", map.display())
        })
    }

    fn start(config: &str, map: impl FnOnce(&Room, &Snapbrowse) -> String) -> Self {
        let user = Snapbrowse::new();
        let config_dir = user.home().join(".config/snapbrowse");
        fs::create_dir_all(&config_dir).unwrap();
        fs::write(config_dir.join("config.toml"), config).unwrap();
        let room = Room::new(&[(&user.program(), "/sbin/mount.fuse.snapbrowse")]);
        // Others come to it too.
        for dir in [room.path(), &user.home()] {
            crate::common::run("chmod", &["755", dir.to_str().unwrap()]);
        }
        let master = room.path().join("auto.master");
        let map = map(&room, &user);
        fs::write(&master, format!("{} {map} --timeout=1\n", room.at().display())).unwrap();
        let mut command = room.command(&user, "setsid");
        command.args(["automount", "-f", "-v"]).arg(&master);
        // The room's end is its end; it says everything to the log.
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.process_group(0).spawn().unwrap();
        let autofs = Self { room, user, daemon };
        let at = autofs.room.at();
        wait_until("automount", || {
            let found = autofs.run(&["findmnt", "-n", "-o", "FSTYPE", at.to_str().unwrap()]);
            found.stdout == b"autofs\n"
        });
        autofs
    }

    fn key(&self, key: &str) -> PathBuf {
        self.room.at().join(key)
    }

    fn run(&self, line: &[&str]) -> Output {
        self.room.command(&self.user, line[0]).args(&line[1..]).output().unwrap()
    }

    fn runs(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn is_mounted(&self, dir: &Path) -> bool {
        let mounts = self.runs(&["cat", "/proc/self/mounts"]);
        mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
    }
}

impl Drop for Autofs {
    fn drop(&mut self) {
        // With the room, so that whoever waits for the daemon is told of its end.
        self.room.end();
        self.daemon.wait().ok();
    }
}

/// A tgtd with the crashed disk behind each of these names.
fn san(names: &[&str]) -> (Tgtd, Vec<TgtTarget>, tempfile::TempDir) {
    let disk = crashed_disk();
    let mut tgtd = Tgtd::start();
    let add = |name: &&str| {
        let target = tgtd.add_target(name);
        tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
        target
    };
    let targets = names.iter().map(add).collect();
    (tgtd, targets, disk)
}

#[test]
fn entering_a_directory_of_autofs_shows_the_files_and_leaving_it_logs_out() {
    if !can_automount("entering_a_directory_of_autofs_shows_the_files_and_leaving_it_logs_out") {
        return;
    }
    let (tgtd, targets, _disk) = san(&["srv1"]);
    let autofs = Autofs::with_program_map(&format!("portals = ['{}']\n", tgtd.address()));
    let dir = autofs.key(&targets[0].iqn);
    let shown = dir.to_str().unwrap();
    for _ in 0..2 {
        let listing = autofs.runs(&["sh", "-c", "cd \"$0\" && ls && cat etc/hostname", shown]);
        assert!(listing.lines().any(|name| name == "lost+found"), "{listing}");
        assert!(listing.ends_with("srv1\n"), "{listing}");
        assert_eq!(sessions(&tgtd, &targets[0]), 1);
        // Others too, but not what is root's alone.
        let others = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat"];
        let read =
            |file: &str| autofs.run(&[&others[..], &[&format!("{shown}/etc/{file}")]].concat());
        assert_eq!(read("hostname").stdout, b"srv1\n");
        assert!(!read("shadow").status.success());
        // Nobody is in it any more: autofs unmounts it after its second, and comes back in the next round.
        wait_until("expiry", || !autofs.is_mounted(&dir));
        wait_until("logout", || sessions(&tgtd, &targets[0]) == 0);
    }
}

#[test]
fn what_cannot_be_mounted_is_missing_and_the_log_says_why() {
    if !can_automount("what_cannot_be_mounted_is_missing_and_the_log_says_why") {
        return;
    }
    let (tgtd, targets, _disk) = san(&["locked"]);
    tgtd.require_chap(&targets[0], "alice", "secretsecret12");
    let mut autofs = Autofs::with_program_map(&format!("portals = ['{}']\n", tgtd.address()));
    for (key, reason) in [
        ("iqn.2026-01.test.tgt:unknown", "no such target at iscsi://"),
        (&targets[0].iqn, "login"),
        ("-o", "is no target's name"),
        ("iqn.x y", "is no target's name"),
    ] {
        let dir = autofs.key(key);
        let failed = autofs.run(&["ls", "--", dir.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(said.contains("No such file or directory"), "{key}: {said}");
        autofs.room.hears(&["snapbrowse[", key, reason]);
        assert!(!autofs.is_mounted(&dir));
    }
}

#[test]
fn the_node_database_of_open_iscsi_is_enough() {
    if !can_automount("the_node_database_of_open_iscsi_is_enough") {
        return;
    }
    let (tgtd, targets, disk) = san(&["locked"]);
    tgtd.require_chap(&targets[0], "alice", "secretsecret12");
    let (address, iqn) = (tgtd.address(), &targets[0].iqn);
    let node = disk.path().join(format!("nodes/{iqn}/{},{},1", address.ip(), address.port()));
    fs::create_dir_all(&node).unwrap();
    let record = format!(
        "node.name = {iqn}\nnode.conn[0].address = {}\nnode.conn[0].port = {}\n\
         node.session.auth.authmethod = CHAP\nnode.session.auth.username = alice\n\
         node.session.auth.password = secretsecret12\n",
        address.ip(),
        address.port()
    );
    fs::write(node.join("default"), record).unwrap();
    let nodes = disk.path().join("nodes");
    let autofs = Autofs::with_program_map(&format!("node_database = '{}'\n", nodes.display()));
    let hostname = autofs.key(iqn).join("etc/hostname");
    assert_eq!(autofs.runs(&["cat", hostname.to_str().unwrap()]), "srv1\n");
}

#[test]
fn the_keys_of_a_file_map_are_listed_and_lead_to_their_targets() {
    if !can_automount("the_keys_of_a_file_map_are_listed_and_lead_to_their_targets") {
        return;
    }
    let (tgtd, _targets, _disk) = san(&["home", "odd", "star"]);
    let odd = "# a \"quoted\" \\ & $name +o";
    let config = format!(
        "portals = ['{}']\n[alias]\n'.*:odd' = '{}'\n'.*:star' = '*'\n",
        tgtd.address(),
        odd.replace('$', "$$")
    );
    let autofs = Autofs::start(&config, |room, user| {
        let map = room.path().join("auto.map");
        fs::write(&map, user.run(["automap", "--all", "--aliases"])).unwrap();
        format!("{} browse", map.display())
    });
    let at = autofs.room.at();
    let listing = autofs.runs(&["ls", "-1N", at.to_str().unwrap()]);
    let mut keys: Vec<&str> = listing.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, [odd, "home", "iqn.2026-01.test.tgt:star"]);
    for key in ["home", odd] {
        let hostname = autofs.key(key).join("etc/hostname");
        assert_eq!(autofs.runs(&["cat", hostname.to_str().unwrap()]), "srv1\n", "{key}");
    }
}
