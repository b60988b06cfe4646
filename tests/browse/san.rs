//! Twelve targets of every sort behind two portals, and a tree of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    Need, Snapbrowse, TgtTarget, Tgtd, crashed_disk, is_mount_point, pattern, run,
};

pub(crate) const NEEDS: &[Need] = &[
    Need::Fuse,
    Need::Program("fusermount3"),
    Need::Program("gzip"),
    Need::Program("mke2fs"),
    Need::Program("sfdisk"),
    Need::Program("tgtd"),
];

/// The longest that anything here may take, many times what it does take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The images behind the targets.
pub(crate) struct Disks {
    dir: tempfile::TempDir,
}

impl Disks {
    fn new() -> Self {
        let disks = Self { dir: crashed_disk() };
        let lvm = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/lvm.img.gz");
        fs::write(disks.image("lvm"), run("gzip", &["-dc", lvm])).unwrap();
        fs::write(disks.image("blank"), vec![0; 1 << 20]).unwrap();
        for seed in 1..=3 {
            disks.make(seed);
        }
        disks.divide();
        disks
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.dir.path().join(name).with_extension("img")
    }

    /// The files of the ext4 file system of this number: of the same names and sizes in all, and never the same.
    pub(crate) fn source(&self, seed: u64) -> PathBuf {
        self.dir.path().join(format!("source{seed}"))
    }

    fn make(&self, seed: u64) {
        let source = self.source(seed);
        for n in 0..40_u64 {
            let dir = source.join(format!("dir{}", n % 4));
            fs::create_dir_all(&dir).unwrap();
            let len = usize::try_from(n * n * 90 + 1).unwrap();
            fs::write(dir.join(format!("file{n}")), pattern(len, seed * 1000 + n)).unwrap();
        }
        let (source, image) = (source, self.image(&format!("ext4-{seed}")));
        let (source, image) = (source.to_str().unwrap(), image.to_str().unwrap());
        run("mke2fs", &["-q", "-t", "ext4", "-b", "1024", "-d", source, image, "8M"]);
    }

    /// A disk with the first two file systems in partitions.
    fn divide(&self) {
        let disk = self.image("divided");
        let table = "label: gpt\nstart=2048, size=16384\nstart=18432, size=16384\n";
        let mut bytes = vec![0; 1 << 20];
        for seed in [1, 2] {
            bytes.extend(fs::read(self.image(&format!("ext4-{seed}"))).unwrap());
        }
        bytes.extend(vec![0; 1 << 20]);
        fs::write(&disk, bytes).unwrap();
        let path = crate::common::find_program("sfdisk").unwrap();
        let mut sfdisk = Command::new(path)
            .args(["--quiet", "--wipe=never", "--wipe-partitions=never"])
            .arg(&disk)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), table.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
    }
}

/// The targets' names, by the portal that they are behind.
pub(crate) const FIRST: &[&str] =
    &["clean", "crashed", "lvm", "locked", "refused", "empty", "blank"];
pub(crate) const SECOND: &[&str] = &["divided", "two", "exchanged", "vanishing", "home-2026-11-20"];

const SECRET: &str = "secretsecret12";

/// The targets.
pub(crate) struct San {
    pub(crate) disks: Disks,
    pub(crate) tgtds: [Tgtd; 2],
    targets: Vec<(usize, TgtTarget)>,
}

impl San {
    pub(crate) fn new() -> Self {
        let tgtds = [Tgtd::start(), Tgtd::start()];
        let mut san = Self { disks: Disks::new(), tgtds, targets: Vec::new() };
        san.fill(0, FIRST);
        san.fill(1, SECOND);
        san
    }

    /// Adds targets behind a portal, each with what its name says.
    fn fill(&mut self, portal: usize, names: &[&str]) {
        for name in names {
            let tgtd = &mut self.tgtds[portal];
            let target = tgtd.add_target(name);
            let images: &[&str] = match *name {
                "crashed" => &["dirty-ext3"],
                "lvm" => &["lvm"],
                "empty" => &[],
                "blank" => &["blank"],
                "divided" => &["divided"],
                "two" => &["ext4-1", "ext4-2"],
                "exchanged" => &["ext4-2"],
                _ => &["ext4-1"],
            };
            for (lun, image) in (1..).zip(images) {
                tgtd.add_lun(&target, lun, &self.disks.image(image));
            }
            if ["locked", "refused"].contains(name) {
                tgtd.require_chap(&target, name, SECRET);
            }
            self.targets.push((portal, target));
        }
    }

    /// Kills the second portal's daemon.
    pub(crate) fn stop_second(&mut self) {
        self.tgtds[1].kill();
        self.targets.retain(|(portal, _)| *portal == 0);
    }

    /// Starts it again with the same targets.
    pub(crate) fn start_second(&mut self) {
        self.tgtds[1].restart();
        self.fill(1, SECOND);
    }

    pub(crate) fn target(&self, name: &str) -> (&Tgtd, &TgtTarget) {
        let suffix = format!(":{name}");
        let known = self.targets.iter().find(|(_, target)| target.iqn.ends_with(&suffix));
        let (portal, target) = known.unwrap();
        (&self.tgtds[*portal], target)
    }

    /// Takes a target away from under its sessions and makes it again, under the same name and with the same number,
    /// with another image.
    pub(crate) fn exchange(&self, name: &str, image: &str) {
        let (tgtd, target) = self.target(name);
        let tid = target.tid.to_string();
        tgtd.admin(&["--op", "delete", "--mode", "target", "--tid", &tid, "--force"]);
        tgtd.admin(&["--op", "new", "--mode", "target", "--tid", &tid, "-T", &target.iqn]);
        tgtd.add_lun(target, 1, &self.disks.image(image));
        tgtd.admin(&["--op", "bind", "--mode", "target", "--tid", &tid, "-I", "ALL"]);
    }

    /// How many sessions there are with a target.
    pub(crate) fn sessions(&self, name: &str) -> usize {
        let (tgtd, target) = self.target(name);
        let shown = tgtd.ask("show", "conn", target);
        shown.lines().filter(|line| line.contains("Session:")).count()
    }

    /// How many sessions there are with all targets.
    pub(crate) fn all_sessions(&self) -> usize {
        let names = self.targets.iter().map(|(_, target)| target.iqn.rsplit(':').next().unwrap());
        names.map(|name| self.sessions(name)).sum()
    }
}

/// The program with a configuration that knows the portals and the logins.
pub(crate) fn configured(san: &San) -> Snapbrowse {
    let snapbrowse = Snapbrowse::new();
    let dir = snapbrowse.home().join(".config/snapbrowse");
    fs::create_dir_all(&dir).unwrap();
    for (file, secret) in [("right", SECRET), ("wrong", "wrongwrong12")] {
        fs::write(dir.join(file), secret).unwrap();
        run("chmod", &["600", dir.join(file).to_str().unwrap()]);
    }
    let account = |name: &str, file: &str| {
        let file = dir.join(file);
        format!("[target.'*:{name}']\nuser = '{name}'\npassword_file = '{}'\n", file.display())
    };
    let [first, second] = [0, 1].map(|portal| san.tgtds[portal].address());
    let config = format!(
        "portals = ['{first}', '{second}']\n{}{}",
        account("locked", "right"),
        account("refused", "wrong")
    );
    fs::write(dir.join("config.toml"), config).unwrap();
    snapbrowse
}

/// A tree of the targets, unmounted when dropped.
pub(crate) struct Tree<'a> {
    snapbrowse: &'a Snapbrowse,
    dir: PathBuf,
    mounted: bool,
}

impl<'a> Tree<'a> {
    pub(crate) fn mount(snapbrowse: &'a Snapbrowse, options: &[&str]) -> Self {
        let dir = snapbrowse.new_directory();
        let mut line = vec!["browse", "--timeout", "3s"];
        line.extend(options);
        line.push(dir.to_str().unwrap());
        snapbrowse.run(&line);
        Self { snapbrowse, dir, mounted: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// The directory of a target.
    pub(crate) fn of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("iqn.2026-01.test.tgt:{name}"))
    }

    /// The process that serves it.
    pub(crate) fn process(&self) -> Pid {
        let mut answer = [0; 64];
        let len = rustix::fs::getxattr(&self.dir, "user.snapbrowse.process", &mut answer).unwrap();
        let text = std::str::from_utf8(&answer[..len]).unwrap();
        let number = text.split_whitespace().next().unwrap();
        Pid::from_raw(number.parse().unwrap()).unwrap()
    }

    /// Has the portals asked for their targets.
    pub(crate) fn refresh(&self) {
        kill_process(self.process(), Signal::HUP).unwrap();
    }

    /// What the status file says of a target.
    pub(crate) fn status(&self, name: &str) -> serde_json::Value {
        let text = fs::read_to_string(self.dir.join(".snapbrowse/status.json")).unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        let iqn = format!("iqn.2026-01.test.tgt:{name}");
        let targets = status["targets"].as_array().unwrap();
        targets.iter().find(|target| target["target"] == iqn.as_str()).unwrap().clone()
    }

    /// Unmounts, which ends with the logouts.
    pub(crate) fn unmount(mut self) {
        self.mounted = false;
        self.snapbrowse.run(["umount".as_ref(), self.dir.as_os_str()]);
        assert!(!is_mount_point(&self.dir));
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.snapbrowse.output(["umount".as_ref(), self.dir.as_os_str()]);
        }
    }
}

/// A process that reads every file below a directory.
pub(crate) fn digests(dir: &Path) -> Command {
    let mut command = Command::new("sh");
    let script = "cd \"$0\" && find . -type f -exec sha256sum {} + | sort -k 2";
    command.args(["-c", script]).arg(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it finds.
pub(crate) fn contents(dir: &Path) -> String {
    let output = digests(dir).output().unwrap();
    assert!(output.stderr.is_empty(), "{}: {output:?}", dir.display());
    text(&output)
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Waits until something has come about.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
