//! The program itself, as a user runs it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::{find_program, run};

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Caller,
    /// `nobody`; only root can become that.
    Nobody,
}

impl User {
    /// Everybody that a test can be here: the caller, and for root an ordinary user too.
    pub fn everybody() -> impl Iterator<Item = Self> {
        let root = rustix::process::geteuid().is_root();
        [Self::Caller, Self::Nobody].into_iter().filter(move |user| root || *user == Self::Caller)
    }
}

/// The program with a place of its own: no configuration of the caller's, a home that is empty.
#[derive(Debug)]
pub struct Snapbrowse {
    user: User,
    /// Holds a copy of the program, which may otherwise lie where `nobody` cannot reach it.
    home: tempfile::TempDir,
}

impl Snapbrowse {
    /// As the caller.
    pub fn new() -> Self {
        Self::run_by(User::Caller)
    }

    /// As somebody else.
    pub fn run_by(user: User) -> Self {
        let home = tempfile::Builder::new().prefix("home").tempdir().unwrap();
        // By another process: a copy written by this one could still be open for writing in the child that another
        // test is just starting, and would be "text file busy" then.
        let program = home.path().join("snapbrowse");
        run("cp", &[env!("CARGO_BIN_EXE_snapbrowse"), program.to_str().unwrap()]);
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let snapbrowse = Self { user, home };
        fs::create_dir(snapbrowse.home()).unwrap();
        snapbrowse.give_away(&snapbrowse.home());
        snapbrowse
    }

    /// A directory that belongs to the user.
    pub fn home(&self) -> PathBuf {
        self.home.path().join("home")
    }

    /// The program's own path.
    pub fn program(&self) -> PathBuf {
        self.home.path().join("snapbrowse")
    }

    /// Writes the user's configuration file.
    pub fn configure(&self, text: &str) {
        let file = self.home().join(".config/snapbrowse/config.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        self.give_away(&file);
    }

    /// Any program, run by the user.
    pub fn command_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.user {
            User::Caller => Command::new(program),
            User::Nobody => {
                let mut command = Command::new(find_program("setpriv").expect("no setpriv"));
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
                command.arg(program);
                command
            }
        };
        command.current_dir(self.home());
        command.env("HOME", self.home()).env("XDG_CONFIG_HOME", self.home().join(".config"));
        // runuser gives HOME its own value.
        command.env("XDG_STATE_HOME", self.home().join(".state"));
        for name in ["LIBISCSI_CHAP_USERNAME", "LIBISCSI_CHAP_PASSWORD", "RUST_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// The program with these arguments, not yet started.
    pub fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = self.command_of(self.program());
        command.args(arguments);
        command
    }

    /// Runs it to its end.
    pub fn output<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it and gives its standard output.
    ///
    /// # Panics
    /// Where it does not end with exit code 0, or says anything on standard error. That a target did not confirm the
    /// logout is passed over: a busy istgt does that, and what we send is tested elsewhere.
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Vec<u8> {
        let mut command = self.command(arguments);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let unsaid = |line: &str| line.ends_with("the target did not confirm the logout");
        assert!(
            output.status.success() && said.lines().all(unsaid),
            "{command:?}: {}: {said}",
            output.status
        );
        output.stdout
    }

    /// Runs it and gives its one line on standard error.
    ///
    /// # Panics
    /// Where it ends with another exit code or says more, or less.
    pub fn fails<I: AsRef<OsStr>>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = I>,
    ) -> String {
        let mut command = self.command(arguments);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{command:?}: {said}");
        said.trim_end().to_owned()
    }

    /// Mounts `source` on a new directory of the user's; the mount is ready when this returns.
    pub fn mount(&self, source: &str) -> FuseMount<'_> {
        self.mount_with(&[], source)
    }

    /// The same with options before the source.
    pub fn mount_with(&self, options: &[&str], source: &str) -> FuseMount<'_> {
        let dir = self.new_directory();
        let mut arguments = vec![OsStr::new("mount")];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.extend([OsStr::new(source), dir.as_os_str()]);
        self.run(arguments);
        FuseMount { snapbrowse: self, dir, mounted: true }
    }

    /// A new, empty directory of the user's.
    pub fn new_directory(&self) -> PathBuf {
        let dir = self.home().join(format!("mnt{}", fs::read_dir(self.home()).unwrap().count()));
        fs::create_dir(&dir).unwrap();
        self.give_away(&dir);
        dir
    }

    fn give_away(&self, path: &Path) {
        if self.user == User::Nobody {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
    }
}

/// Whether something is mounted on a directory. Never looks into it: a dead mount answers nothing.
pub fn is_mount_point(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}

/// A FUSE mount, unmounted when dropped.
#[derive(Debug)]
pub struct FuseMount<'a> {
    snapbrowse: &'a Snapbrowse,
    dir: PathBuf,
    mounted: bool,
}

impl<'a> FuseMount<'a> {
    /// What the program has mounted on a directory otherwise.
    pub fn found(snapbrowse: &'a Snapbrowse, dir: PathBuf) -> Self {
        Self { snapbrowse, dir, mounted: true }
    }

    /// Kills the process that serves it, and before that the watchdog: the dead mount stays. It can be mounted over.
    pub fn kill(&self) {
        let process = self.process();
        let pid = process.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let children =
            children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap());
        for process in children.chain([process]) {
            rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        }
        let end = Instant::now() + Duration::from_secs(20);
        // Its first thread can be gone while others still have its files open, and the locks on them.
        let is_over = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            stat.map_or(true, |stat| stat.contains(") Z")) && threads <= 1
        };
        while !is_over() {
            assert!(Instant::now() < end, "process {pid} is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The process that serves it, as the mount itself says.
    pub fn process(&self) -> Pid {
        let mut ask = self.snapbrowse.command_of(find_program("getfattr").expect("no getfattr"));
        ask.args(["--absolute-names", "--only-values", "-n", "user.snapbrowse.process"]);
        let output = ask.arg(&self.dir).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // The second number is a descriptor of its.
        let pid = text.split_whitespace().next().unwrap().parse().unwrap();
        Pid::from_raw(pid).unwrap()
    }

    /// Whether the kernel's table has it.
    pub fn is_mounted(&self) -> bool {
        is_mount_point(&self.dir)
    }

    /// Waits until somebody else has taken it away.
    pub fn wait_until_gone(mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.is_mounted() {
            assert!(Instant::now() < end, "{} is still mounted", self.dir.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.mounted = false;
    }

    /// Unmounts with the program's own command, which must succeed.
    pub fn unmount(mut self) {
        self.mounted = false;
        self.snapbrowse.run([OsStr::new("umount"), self.dir.as_os_str()]);
    }
}

impl Drop for FuseMount<'_> {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.snapbrowse.output([OsStr::new("umount"), self.dir.as_os_str()]);
        }
    }
}
