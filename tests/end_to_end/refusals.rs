//! What does not work ends with its exit code and one line that says why.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use snapbrowse_target::{Config, Disk, Fault, Lun, On, Rule, Sense, Server, Target};

use crate::common::{Need, Snapbrowse, TgtTarget, Tgtd, can_run, crashed_disk, free_port};

const NEEDS: &[Need] = &[Need::Program("tgtd")];
const SECRET: &str = "rather-secret-4711";
const WRONG: &str = "quite-wrong-08150";

/// A tgtd that serves the crashed disk to whoever knows the secret.
struct Guarded {
    tgtd: Tgtd,
    target: TgtTarget,
    _disk: tempfile::TempDir,
}

impl Guarded {
    fn new() -> Self {
        let disk = crashed_disk();
        let mut tgtd = Tgtd::start();
        let target = tgtd.add_target("guarded");
        tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
        tgtd.require_chap(&target, "alice", SECRET);
        Self { tgtd, target, _disk: disk }
    }

    fn url(&self) -> String {
        self.tgtd.url(&self.target, 1)
    }
}

fn password_file(snapbrowse: &Snapbrowse, name: &str, secret: &str) -> PathBuf {
    use std::io::Write as _;
    let path = snapbrowse.home().join(name);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "{secret}").unwrap();
    path
}

fn login<'a>(url: &'a str, password: &'a Path) -> [&'a OsStr; 6] {
    let [cat, user, file] = ["cat", "--user=alice", "--password-file"].map(OsStr::new);
    [cat, user, file, password.as_os_str(), OsStr::new(url), OsStr::new("/etc/hostname")]
}

#[test]
fn chap_lets_in_whoever_knows_the_secret() {
    if !can_run("chap_lets_in_whoever_knows_the_secret", NEEDS) {
        return;
    }
    let guarded = Guarded::new();
    let snapbrowse = Snapbrowse::new();
    let password = password_file(&snapbrowse, "right", SECRET);
    assert_eq!(snapbrowse.run(login(&guarded.url(), &password)), b"srv1\n");

    let mut from_environment = snapbrowse.command(["cat", &guarded.url(), "/etc/hostname"]);
    from_environment.env("LIBISCSI_CHAP_USERNAME", "alice").env("LIBISCSI_CHAP_PASSWORD", SECRET);
    assert_eq!(from_environment.output().unwrap().stdout, b"srv1\n");
}

#[test]
fn the_chap_algorithms_are_those_of_the_configuration() {
    if !can_run("the_chap_algorithms_are_those_of_the_configuration", NEEDS) {
        return;
    }
    let guarded = Guarded::new();
    let snapbrowse = Snapbrowse::new();
    let password = password_file(&snapbrowse, "right", SECRET);
    let with = |algorithms: &str| {
        snapbrowse.configure(&format!("chap_algorithms = {algorithms}\n"));
        snapbrowse.output(login(&guarded.url(), &password))
    };
    assert_eq!(with("['sha1', 'md5']").stdout, b"srv1\n");
    // tgtd does not know it.
    assert_eq!(with("['sha3-256']").status.code(), Some(12));
    assert_eq!(with("[]").status.code(), Some(2));
}

#[test]
fn a_wrong_secret_or_none_is_a_refused_login() {
    if !can_run("a_wrong_secret_or_none_is_a_refused_login", NEEDS) {
        return;
    }
    let guarded = Guarded::new();
    let snapbrowse = Snapbrowse::new();
    let password = password_file(&snapbrowse, "wrong", WRONG);
    let said = snapbrowse.fails(12, login(&guarded.url(), &password));
    assert!(said.contains(&guarded.target.iqn) && said.contains("CHAP"), "{said}");
    let said = snapbrowse.fails(12, ["cat", &guarded.url(), "/etc/hostname"]);
    assert!(said.contains("--user"), "no word of what to do: {said}");
}

#[test]
fn secrets_are_in_no_log() {
    if !can_run("secrets_are_in_no_log", NEEDS) {
        return;
    }
    let guarded = Guarded::new();
    let snapbrowse = Snapbrowse::new();
    for (secret, code) in [(SECRET, 0), (WRONG, 12)] {
        let password = password_file(&snapbrowse, secret, secret);
        let in_url = guarded.url().replace("iscsi://", &format!("iscsi://alice%{secret}@"));
        let ways = [
            snapbrowse.command(login(&guarded.url(), &password)),
            snapbrowse.command(["cat", &in_url, "/etc/hostname"]),
        ];
        for mut command in ways {
            let output = command.args(["-vvv"]).env("RUST_LOG", "trace").output().unwrap();
            assert_eq!(
                output.status.code(),
                Some(code),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!output.stderr.is_empty(), "nothing was logged at all");
            for said in [output.stdout, output.stderr] {
                let said = String::from_utf8_lossy(&said).into_owned();
                assert!(!said.contains(secret), "the secret in:\n{said}");
            }
        }
    }
}

#[test]
fn a_target_that_is_not_there_cannot_be_connected_to() {
    let snapbrowse = Snapbrowse::new();
    let nobody = free_port(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let url = format!("iscsi://{nobody}/iqn.2026-01.test:gone/0");
    let said = snapbrowse.fails(11, ["ls", &url, "/"]);
    assert!(said.contains(&nobody.to_string()) && said.contains("refused"), "{said}");
    let said = snapbrowse.fails(11, ["discover", &format!("iscsi://{nobody}")]);
    assert!(said.contains(&nobody.to_string()), "{said}");
}

#[test]
fn a_portal_that_drops_every_packet_is_given_up_at_the_deadline() {
    // A full accept queue: further connection requests are dropped.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(listener.as_fd(), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300))
    {
        filling.push(stream);
    }
    let url = format!("iscsi://{address}/iqn.2026-01.test:silent/0");
    let snapbrowse = Snapbrowse::new();
    // `timeout` ends with 124 where the program does not end by itself.
    let mut command = snapbrowse.command_of("timeout");
    let output = command
        .arg("20")
        .arg(snapbrowse.program())
        .args(["ls", "--timeout=2s", &url, "/"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.lines().count() == 1 && said.contains(&address.to_string()), "{said}");
}

#[test]
fn a_lun_without_a_file_system_is_described() {
    if !can_run("a_lun_without_a_file_system_is_described", NEEDS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("others.img");
    fs::write(&disk, disk_of_others()).unwrap();
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("others");
    tgtd.add_lun(&target, 1, &disk);
    let snapbrowse = Snapbrowse::new();
    for source in [tgtd.url(&target, 1).as_str(), disk.to_str().unwrap()] {
        let said = snapbrowse.fails(13, ["ls", source, "/"]);
        for part in ["p1", "LUKS", "p2", "XFS", "p3", "swap"] {
            assert!(said.contains(part), "no {part} in: {said}");
        }
    }
}

/// An MBR with a LUKS volume, an XFS and a swap area, as far as signatures go.
fn disk_of_others() -> Vec<u8> {
    const MIB: usize = 1 << 20;
    let mut disk = vec![0; 4 * MIB];
    for (slot, kind) in [0x83_u8, 0x83, 0x82].into_iter().enumerate() {
        let entry = 446 + 16 * slot;
        disk[entry + 4] = kind;
        let start = u32::try_from((slot + 1) * MIB / 512).unwrap();
        disk[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
        disk[entry + 12..entry + 16].copy_from_slice(&2048_u32.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[MIB..][..6].copy_from_slice(b"LUKS\xba\xbe");
    disk[2 * MIB..][..4].copy_from_slice(b"XFSB");
    disk[3 * MIB + 4086..][..10].copy_from_slice(b"SWAPSPACE2");
    disk
}

#[test]
fn what_is_not_there_is_named() {
    if !can_run("what_is_not_there_is_named", NEEDS) {
        return;
    }
    let disk = crashed_disk();
    let image = disk.path().join("dirty-ext3.img");
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("here");
    tgtd.add_lun(&target, 1, &image);
    let snapbrowse = Snapbrowse::new();
    for source in [tgtd.url(&target, 1).as_str(), image.to_str().unwrap()] {
        let cases: [&[&str]; 4] = [
            &["cat", source, "/etc/no-such-file"],
            &["ls", source, "/no-such-dir"],
            &["stat", source, "/etc/hostname/below-a-file"],
            &["ls", source, "/", "--volume=p7"],
        ];
        for arguments in cases {
            let said = snapbrowse.fails(10, arguments);
            let missing = arguments[2].rsplit('/').next().unwrap();
            assert!(said.contains(missing) || said.contains("p7"), "{said}");
        }
    }
    let said = snapbrowse.fails(10, ["ls", &tgtd.url(&target, 77), "/"]);
    assert!(said.contains("77") && said.contains('1'), "which LUNs there are: {said}");
}

#[test]
fn a_disk_that_cannot_be_read_makes_a_listing_partly_done() {
    let disk = crashed_disk();
    let lun = Lun::new(1, "serial-1", Disk::open(disk.path().join("dirty-ext3.img")).unwrap());
    let config =
        Config { targets: vec![Target::new("iqn.2026-01.test:bad").lun(lun)], ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(config)).unwrap();
    server.inject(Rule::new(On::Read, Fault::Status(2, Some(Sense::new(3, 0x11, 0)))).always());
    let portal = format!("iscsi://{}", server.portal());
    let said = Snapbrowse::new().fails(3, ["discover", "--luns", &portal]);
    assert!(said.contains("iqn.2026-01.test:bad: LUN 1"), "{said}");
}
