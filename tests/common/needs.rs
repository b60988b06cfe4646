//! Tests that need more than an ordinary account: they run, or they say that they did not.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Something that a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Loop devices, kernel mounts, foreign owners.
    Root,
    /// `/dev/fuse`, open to this user.
    Fuse,
    /// A program on the PATH or in an `sbin`.
    Program(&'static str),
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Fuse => OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
            Self::Program(name) => find_program(name).is_some(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("needs root"),
            Self::Fuse => f.write_str("needs an open /dev/fuse"),
            Self::Program(name) => write!(f, "needs {name}"),
        }
    }
}

/// Whether `test` can run here.
///
/// Where `SNAPBROWSE_TEST_UNPRIVILEGED` is set (`tools/test` without root sets it) a test that cannot
/// says so on standard error, past the test harness's capture, and `tools/test` names it at the end.
///
/// # Panics
/// Where something is missing and nobody allowed that: a test never passes by doing nothing in silence.
#[must_use]
pub fn can_run(test: &str, needs: &[Need]) -> bool {
    let Some(unmet) = needs.iter().find(|need| !need.is_met()) else { return true };
    assert!(
        std::env::var_os("SNAPBROWSE_TEST_UNPRIVILEGED").is_some(),
        "{test}: {unmet}; tools/test as root prepares that, without root it leaves the test out"
    );
    let line = format!("\nSKIPPED: {test}: {unmet}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    false
}

/// The full path of a program, looked for where root's PATH would.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
