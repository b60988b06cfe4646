//! What goes over the wire: reading commands and nothing else, in PDUs that others can read.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use snapbrowse_target::{Config, Disk, Lun, Server, Target};

use crate::common::{Need, Snapbrowse, Tgtd, can_run, crashed_disk, find_program, run};

/// Operation code and service action of what a reader needs: TEST UNIT READY, REQUEST SENSE, INQUIRY, MODE SENSE (6) and (10),
/// READ CAPACITY (10) and (16), READ (10) and (16), REPORT LUNS, REPORT TARGET PORT GROUPS.
const READING: [(u8, u8); 11] = [
    (0x00, 0),
    (0x03, 0),
    (0x12, 0),
    (0x1a, 0),
    (0x25, 0),
    (0x28, 0),
    (0x5a, 0),
    (0x88, 0),
    (0x9e, 0x10),
    (0xa0, 0),
    (0xa3, 0x0a),
];

/// Every command there is, on one LUN.
fn everything(snapbrowse: &Snapbrowse, portal: SocketAddr, source: &str) {
    let to = snapbrowse.home().join("restored");
    fs::create_dir(&to).unwrap();
    snapbrowse.run(["discover", "--luns", &format!("iscsi://{portal}")]);
    snapbrowse.run(["info", source]);
    snapbrowse.run(["ls", "-lR", source, "/"]);
    snapbrowse.run(["stat", source, "/etc/hostname"]);
    snapbrowse.run(["cat", source, "/var/lib/database"]);
    snapbrowse.run(["extract", "--quiet", source, "/home", "--to", to.to_str().unwrap()]);
    if !can_run("everything: mount", &[Need::Fuse, Need::Program("fusermount3")]) {
        return;
    }
    let mount = snapbrowse.mount(source);
    assert_eq!(fs::read(mount.path().join("etc/hostname")).unwrap(), b"srv1\n");
    let refused = fs::write(mount.path().join("etc/hostname"), b"changed").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mount.unmount();
}

#[test]
fn nothing_but_reading_commands_arrives() {
    let disk = crashed_disk();
    let lun = Lun::new(1, "serial-1", Disk::open(disk.path().join("dirty-ext3.img")).unwrap());
    let target = Target::new("iqn.2026-01.test:wire").lun(lun);
    let config = Config { targets: vec![target], ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(config)).unwrap();
    let portal = server.portal();
    everything(&Snapbrowse::new(), portal, &format!("iscsi://{portal}/iqn.2026-01.test:wire/1"));

    let stats = server.stats();
    let arrived: BTreeSet<(u8, u8)> = stats.commands.keys().copied().collect();
    let others: Vec<_> = arrived.difference(&BTreeSet::from(READING)).copied().collect();
    assert!(others.is_empty() && stats.forbidden == 0, "not for readers: {others:x?}");
    assert!(stats.reads() > 0 && stats.logouts >= stats.normal_sessions, "{stats:?}");
    assert!(stats.task_management.is_empty(), "{stats:?}");
    assert!(stats.violations.is_empty(), "{:#?}", stats.violations);
}

#[test]
fn over_ipv6_it_is_the_same() {
    if !can_run("over_ipv6_it_is_the_same", &[Need::Program("tgtd")]) {
        return;
    }
    let disk = crashed_disk();
    let mut tgtd = Tgtd::start_at(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    let target = tgtd.add_target("six");
    tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
    let snapbrowse = Snapbrowse::new();
    let listed = snapbrowse.run(["discover", &format!("iscsi://{}", tgtd.address())]);
    assert!(String::from_utf8(listed).unwrap().contains(&target.iqn));
    assert_eq!(snapbrowse.run(["cat", &tgtd.url(&target, 1), "/etc/hostname"]), b"srv1\n");
}

#[test]
fn tshark_reads_every_pdu() {
    let needs = [Need::Root, Need::Program("tgtd"), Need::Program("tshark")];
    if !can_run("tshark_reads_every_pdu", &needs) {
        return;
    }
    let disk = crashed_disk();
    let mut tgtd = Tgtd::start();
    let target = tgtd.add_target("captured");
    tgtd.add_lun(&target, 1, &disk.path().join("dirty-ext3.img"));
    for digests in [&[][..], &["--header-digest=crc32c", "--data-digest=crc32c"]] {
        let capture = Capture::start(disk.path(), tgtd.address().port());
        let snapbrowse = Snapbrowse::new();
        let source = tgtd.url(&target, 1);
        if digests.is_empty() {
            everything(&snapbrowse, tgtd.address(), &source);
        } else {
            tgtd.set_target(&target, "HeaderDigest", "CRC32C");
            tgtd.set_target(&target, "DataDigest", "CRC32C");
            snapbrowse.run([&["cat", &source, "/var/lib/database"], digests].concat());
        }
        let dissected = capture.stop();
        let malformed =
            dissected.select("_ws.malformed || _ws.expert.severity == error", &["frame.number"]);
        assert_eq!(malformed, Vec::<String>::new(), "frames that tshark cannot read");
        let opcodes =
            dissected.select("iscsi.opcode == 0x01", &["scsi_sbc.opcode", "scsi.spc.opcode"]);
        assert!(!opcodes.is_empty(), "no SCSI commands in the capture");
        for opcode in
            opcodes.iter().flat_map(|line| line.split(['\t', ','])).filter(|text| !text.is_empty())
        {
            let opcode = u8::from_str_radix(opcode.trim_start_matches("0x"), 16).unwrap();
            assert!(READING.iter().any(|(reading, _)| *reading == opcode), "opcode {opcode:#x}");
        }
        let writes =
            dissected.select("iscsi.scsicommand.W == 1 || iscsi.opcode == 0x05", &["frame.number"]);
        assert_eq!(writes, Vec::<String>::new(), "commands that write, and Data-Out");
    }
}

/// tshark, writing down what passes one port of the loopback device.
struct Capture {
    tshark: Child,
    /// Held open: tshark ends where nobody reads it.
    said: BufReader<std::process::ChildStderr>,
    file: PathBuf,
    port: u16,
}

impl Capture {
    fn start(dir: &Path, port: u16) -> Self {
        let file = dir.join(format!("{port}.pcap"));
        let mut tshark = Command::new(find_program("tshark").unwrap())
            .args(["-i", "lo", "-B", "64", "-f", &format!("tcp port {port}"), "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(tshark.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Capture started") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "tshark ended");
        }
        Self { tshark, said, file, port }
    }

    /// Ends the capture in good order, so that the file is whole.
    fn stop(mut self) -> Dissected {
        let process = rustix::process::Pid::from_child(&self.tshark);
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.said, &mut rest).unwrap();
        assert!(self.tshark.wait().unwrap().success(), "{rest}");
        Dissected { file: self.file, port: self.port }
    }
}

/// A capture that was ended.
struct Dissected {
    file: PathBuf,
    port: u16,
}

impl Dissected {
    /// The fields of all frames that a display filter selects, one line each.
    fn select(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let port = format!("tcp.port=={},iscsi", self.port);
        let mut arguments =
            vec!["-r", self.file.to_str().unwrap(), "-d", &port, "-Y", filter, "-T", "fields"];
        arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
        let output = String::from_utf8(run("tshark", &arguments)).unwrap();
        output.lines().map(str::to_owned).collect()
    }
}
