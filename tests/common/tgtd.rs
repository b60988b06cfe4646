//! A private `tgtd` (Debian's `tgt`), for one test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::find_program;

/// A running `tgtd` with its own control socket and port, killed on drop. Any number may run side by side.
#[derive(Debug)]
pub struct Tgtd {
    address: SocketAddr,
    dir: tempfile::TempDir,
    process: Child,
    targets: u32,
}

/// A target of a [`Tgtd`].
#[derive(Clone, Debug)]
pub struct TgtTarget {
    /// tgtadm's number of it.
    pub tid: u32,
    /// Its iSCSI name.
    pub iqn: String,
}

impl Tgtd {
    /// Starts one on 127.0.0.1, on a free port, without targets.
    pub fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts one that listens on `address`; port 0 takes a free one.
    pub fn start_at(address: SocketAddr) -> Self {
        let address = free_port(address);
        let dir = tempfile::Builder::new().prefix("tgtd").tempdir().unwrap();
        let process = spawn(address, dir.path());
        let mut tgtd = Self { address, dir, process, targets: 0 };
        tgtd.wait_until_it_listens();
        tgtd
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `iscsi://127.0.0.1:PORT/IQN/LUN`.
    pub fn url(&self, target: &TgtTarget, lun: u64) -> String {
        format!("iscsi://{}/{}/{lun}", self.address, target.iqn)
    }

    /// Adds a target without LUNs (besides tgtd's controller, LUN 0) that every initiator may log in to.
    pub fn add_target(&mut self, name: &str) -> TgtTarget {
        let target = self.add_hidden_target(name);
        self.admin(&["--op", "bind", "--mode", "target", "--tid", &target.tid(), "-I", "ALL"]);
        target
    }

    /// Adds a target that nobody may log in to and that discovery does not show.
    pub fn add_hidden_target(&mut self, name: &str) -> TgtTarget {
        self.targets += 1;
        let target = TgtTarget { tid: self.targets, iqn: format!("iqn.2026-01.test.tgt:{name}") };
        self.admin(&["--op", "new", "--mode", "target", "--tid", &target.tid(), "-T", &target.iqn]);
        target
    }

    /// Lets the initiator of this name see the target.
    pub fn allow_initiator(&self, target: &TgtTarget, initiator: &str) {
        self.admin(&["--op", "bind", "--mode", "target", "--tid", &target.tid(), "-Q", initiator]);
    }

    /// Serves `file`, read-only, with 512-byte blocks.
    pub fn add_lun(&self, target: &TgtTarget, lun: u64, file: &Path) {
        self.add_lun_with(target, lun, file, &[]);
    }

    /// The same with more arguments of tgtadm's, such as `--blocksize 4096`.
    pub fn add_lun_with(&self, target: &TgtTarget, lun: u64, file: &Path, extra: &[&str]) {
        let (tid, number) = (target.tid(), lun.to_string());
        let unit = ["--mode", "logicalunit", "--tid", &tid, "--lun", &number];
        let file = file.to_str().unwrap();
        self.admin(&[&["--op", "new"], &unit[..], &["-b", file], extra].concat());
        self.set_lun(target, lun, "readonly=1");
    }

    /// Changes a parameter of a LUN: `online=0`, `lbppbe=3`, `scsi_sn=..`.
    pub fn set_lun(&self, target: &TgtTarget, lun: u64, params: &str) {
        let (tid, lun) = (target.tid(), lun.to_string());
        let unit = ["--mode", "logicalunit", "--tid", &tid, "--lun", &lun];
        self.admin(&[&["--op", "update"], &unit[..], &["--params", params]].concat());
    }

    /// Removes a LUN, as the deletion of a snapshot does.
    pub fn delete_lun(&self, target: &TgtTarget, lun: u64) {
        let (tid, lun) = (target.tid(), lun.to_string());
        self.admin(&["--op", "delete", "--mode", "logicalunit", "--tid", &tid, "--lun", &lun]);
    }

    /// Changes a target's parameter: `HeaderDigest`, `RedirectAddress`, `nop_interval`.
    pub fn set_target(&self, target: &TgtTarget, name: &str, value: &str) {
        let tid = target.tid();
        let update = ["--op", "update", "--mode", "target", "--tid", &tid];
        self.admin(&[&update[..], &["--name", name, "--value", value]].concat());
    }

    /// Demands CHAP of whoever logs in to the target.
    pub fn require_chap(&self, target: &TgtTarget, user: &str, secret: &str) {
        self.bind_account(target, user, secret, &[]);
    }

    /// Makes the target prove itself with this account too (mutual CHAP).
    pub fn prove_with(&self, target: &TgtTarget, user: &str, secret: &str) {
        self.bind_account(target, user, secret, &["--outgoing"]);
    }

    fn bind_account(&self, target: &TgtTarget, user: &str, secret: &str, extra: &[&str]) {
        let tid = target.tid();
        self.admin(&["--op", "new", "--mode", "account", "--user", user, "--password", secret]);
        let bind = ["--op", "bind", "--mode", "account", "--tid", &tid, "--user", user];
        self.admin(&[&bind[..], extra].concat());
    }

    /// The numbers of the target's sessions; each login gets a new one.
    pub fn sessions(&self, target: &TgtTarget) -> Vec<String> {
        let shown = self.ask("show", "conn", target);
        let numbers = shown.lines().filter_map(|line| line.trim().strip_prefix("Session: "));
        numbers.map(str::to_owned).collect()
    }

    /// Waits until the target has so many sessions.
    pub fn wait_for_sessions(&self, target: &TgtTarget, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let sessions = self.sessions(target);
            if sessions.len() == count {
                return;
            }
            assert!(Instant::now() < end, "not {count} sessions: {sessions:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cuts every connection to the target.
    pub fn cut_connections(&self, target: &TgtTarget) {
        for sid in self.sessions(target) {
            let tid = target.tid();
            let connection = ["--mode", "conn", "--tid", &tid, "--sid", &sid, "--cid", "0"];
            self.admin(&[&["--op", "delete"], &connection[..]].concat());
        }
    }

    /// What tgtadm says: `stat` counts commands and bytes, `show` lists sessions.
    pub fn ask(&self, op: &str, mode: &str, target: &TgtTarget) -> String {
        self.admin(&["--op", op, "--mode", mode, "--tid", &target.tid()])
    }

    /// Runs tgtadm with any arguments and gives what it prints.
    pub fn admin(&self, arguments: &[&str]) -> String {
        let output = Command::new(tool("tgtadm"))
            .args(["-C", CONTROL, "--lld", "iscsi"])
            .args(arguments)
            .env("TGT_IPC_SOCKET", socket(self.dir.path()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tgtadm {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The environment that tgtadm needs to reach it, besides `-C 1`.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("TGT_IPC_SOCKET", socket(self.dir.path())), ("TGT_CONTROL", CONTROL.into())]
    }

    /// Ends the process as a power failure would. Its targets are gone.
    pub fn kill(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        self.targets = 0;
    }

    /// Starts it again after [`Tgtd::kill`], on the same port, without targets.
    pub fn restart(&mut self) {
        self.process = spawn(self.address, self.dir.path());
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.address).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "tgtd did not start: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl TgtTarget {
    fn tid(&self) -> String {
        self.tid.to_string()
    }
}

/// The control number need not differ: it only completes the name of a socket in a directory of its own.
const CONTROL: &str = "1";

fn spawn(address: SocketAddr, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Command::new(tool("tgtd"))
        .args(["-f", "-C", CONTROL, "--iscsi", &format!("portal={address}")])
        .env("TGT_IPC_SOCKET", socket(dir))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("s")
}

fn tool(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("no {name}: tools/test as root installs it"))
}

/// A port that nobody listens on now.
pub fn free_port(address: SocketAddr) -> SocketAddr {
    TcpListener::bind(address).unwrap().local_addr().unwrap()
}
