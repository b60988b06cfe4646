//! A private `istgt`, for one test.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::find_program;
use super::tgtd::free_port;

/// How an [`Istgt`] serves its one target.
#[derive(Clone, Debug)]
pub struct IstgtOptions {
    /// `None`, `CHAP` or `CHAP Mutual`; the account is alice / secretsecret12, the target's own
    /// tgtuser / targetsecret12.
    pub auth: &'static str,
    /// The same for discovery.
    pub discovery_auth: &'static str,
    /// `Auto`, `Header`, `Data` or `Header Data`.
    pub digest: &'static str,
    /// 512 or 4096.
    pub block_length: u32,
}

impl Default for IstgtOptions {
    fn default() -> Self {
        Self { auth: "None", discovery_auth: "None", digest: "Auto", block_length: 512 }
    }
}

/// A running `istgt` with one target, whose LUN 0 is a file; killed on drop.
#[derive(Debug)]
pub struct Istgt {
    address: SocketAddr,
    process: Child,
    dir: tempfile::TempDir,
}

impl Istgt {
    /// The target's iSCSI name.
    pub const IQN: &'static str = "iqn.2026-01.test.istgt:disks";

    /// Serves `file` on a free port of 127.0.0.1.
    pub fn start(file: &Path, options: &IstgtOptions) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), file, options)
    }

    /// Serves `file` on `address`; port 0 takes a free one.
    pub fn start_at(address: SocketAddr, file: &Path, options: &IstgtOptions) -> Self {
        let address = free_port(address);
        let control = free_port(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let dir = tempfile::Builder::new().prefix("istgt").tempdir().unwrap();
        let accounts =
            "[AuthGroup1]\n  Auth \"alice\" \"secretsecret12\" \"tgtuser\" \"targetsecret12\"\n";
        write_private(&dir.path().join("auth"), accounts);
        let configuration = configuration(dir.path(), file, options, address, control);
        write_private(&dir.path().join("conf"), &configuration);
        let process = spawn(dir.path());
        let mut istgt = Self { address, process, dir };
        istgt.wait_until_it_listens();
        istgt
    }

    /// Kills it, with its connections.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after [`Istgt::kill`], as it was.
    pub fn restart(&mut self) {
        std::fs::remove_file(self.dir.path().join("pid")).unwrap();
        self.process = spawn(self.dir.path());
        self.wait_until_it_listens();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `iscsi://127.0.0.1:PORT/IQN/0`.
    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/0", self.address, Self::IQN)
    }

    fn wait_until_it_listens(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.address).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "istgt did not start: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Istgt {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(program())
        .args(["-D", "-c"])
        .arg(dir.join("conf"))
        .arg("-p")
        .arg(dir.join("pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap()
}

/// istgt wants files that nobody else can read.
fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn configuration(
    dir: &Path,
    file: &Path,
    options: &IstgtOptions,
    address: SocketAddr,
    control: SocketAddr,
) -> String {
    let (dir, file) = (dir.display(), file.display());
    let IstgtOptions { auth, discovery_auth, digest, block_length } = options;
    let mut text = String::new();
    let sections = [
        format!(
            "[Global]\nNodeBase \"iqn.2026-01.test.istgt\"\nPidFile {dir}/pid\nAuthFile {dir}/auth\n\
             MediaDirectory {dir}\nLogFacility \"local7\"\nTimeout 30\nNopInInterval 3\n\
             DiscoveryAuthMethod {discovery_auth}\nDiscoveryAuthGroup AuthGroup1\nMaxSessions 16\nMaxConnections 4\nMaxR2T 32\n\
             MaxOutstandingR2T 16\nDefaultTime2Wait 2\nDefaultTime2Retain 60\n\
             FirstBurstLength 262144\nMaxBurstLength 1048576\nMaxRecvDataSegmentLength 262144\n\
             InitialR2T Yes\nImmediateData Yes\nDataPDUInOrder Yes\nDataSequenceInOrder Yes\n\
             ErrorRecoveryLevel 0"
        ),
        format!(
            "[UnitControl]\nAuthMethod CHAP Mutual\nAuthGroup AuthGroup1\nPortal UC1 {control}\n\
             Netmask 127.0.0.1"
        ),
        format!("[PortalGroup1]\nPortal DA1 {address}"),
        "[InitiatorGroup1]\nInitiatorName \"ALL\"\nNetmask ALL".to_owned(),
        format!(
            "[LogicalUnit1]\nTargetName disks\nMapping PortalGroup1 InitiatorGroup1\n\
             AuthMethod {auth}\nAuthGroup AuthGroup1\nUseDigest {digest}\nReadOnly Yes\nUnitType Disk\n\
             QueueDepth 64\nBlockLength {block_length}\nLUN0 Storage {file} Auto"
        ),
    ];
    for section in sections {
        writeln!(text, "{section}\n").unwrap();
    }
    text
}

fn program() -> PathBuf {
    find_program("istgt").expect("no istgt: tools/test as root installs it")
}
