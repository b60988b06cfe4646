//! A private corner of the system: mounts and processes that nobody outside sees, and that end with it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Need, Snapbrowse, TgtTarget, Tgtd};

/// What a room needs, with the targets that are mounted in it.
pub(crate) const NEEDS: &[Need] = &[
    Need::Root,
    Need::Fuse,
    Need::Program("gzip"),
    Need::Program("nsenter"),
    Need::Program("tgtd"),
    Need::Program("unshare"),
];

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lays a directory of links over one of the system's, so that links can be added that nobody else sees.
const SET_UP: &str = r#"
set -e
cover() {
    mkdir -p "$1$2"
    mount --rbind "$2" "$1$2"
    mount -t tmpfs -o mode=755 tmpfs "$2"
    [ -z "$(ls "$1$2")" ] || ln -s "$1$2"/* "$2"
}
room=$1 sbin=$(readlink -f /sbin)
cover "$room" /dev
cover "$room" "$sbin"
cover "$room" /usr/local/bin
mount -t tmpfs -o mode=755 tmpfs /run
ln -s "$room/log" /dev/log
while [ $# -ge 3 ]; do
    ln -s "$2" "$3"
    shift 2
done
echo ready
read -r end
"#;

/// Namespaces for mounts and processes, with a `/dev/log` of their own.
pub(crate) struct Room {
    dir: tempfile::TempDir,
    first: Child,
    log: UnixDatagram,
    heard: Vec<String>,
}

impl Room {
    /// A room with these links to files added, each a file and the name of the link.
    pub(crate) fn new(links: &[(&Path, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("room").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("at")).unwrap();
        let log = UnixDatagram::bind(dir.path().join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command.args(["sh", "-c", SET_UP, "sh"]).arg(dir.path());
        for (file, link) in links {
            command.arg(file).arg(link);
        }
        let mut first =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        let mut line = String::new();
        BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the room was not made");
        Self { dir, first, log, heard: Vec::new() }
    }

    /// A place for files.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// An empty directory to mount on.
    pub(crate) fn at(&self) -> PathBuf {
        self.dir.path().join("at")
    }

    /// A program to be run in the room, in the environment of `user`.
    pub(crate) fn command(&self, user: &Snapbrowse, program: impl AsRef<OsStr>) -> Command {
        let mut command = user.command_of("nsenter");
        let pid = self.first.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        command.args(["--mount", "--pid", "--target", children.trim(), "--"]).arg(program);
        command
    }

    /// Waits for a line in the system's log that holds all of these words.
    pub(crate) fn hears(&mut self, words: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = 0;
        loop {
            let fits = |line: &&String| words.iter().all(|word| line.contains(word));
            if let Some(line) = self.heard[seen..].iter().find(fits) {
                return line.clone();
            }
            seen = self.heard.len();
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{words:?} not among {:#?}", self.heard);
            self.log.set_read_timeout(Some(left)).unwrap();
            let mut message = vec![0; 8192];
            if let Ok(len) = self.log.recv(&mut message) {
                message.truncate(len);
                self.heard.push(String::from_utf8_lossy(&message).into_owned());
            }
        }
    }

    /// Ends its first process, which reads until nobody can write any more, and with that all others and the mounts.
    pub(crate) fn end(&mut self) {
        self.first.stdin.take();
        self.first.wait().ok();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until something has come about.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many sessions tgtd has with a target.
pub(crate) fn sessions(tgtd: &Tgtd, target: &TgtTarget) -> usize {
    tgtd.ask("show", "conn", target).lines().filter(|line| line.contains("Session:")).count()
}
