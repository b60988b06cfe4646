//! A SAN whose hooks write down what they are called for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{CrashedLun, Snapbrowse, User};

/// A target with a user who has hooks for it.
pub(crate) struct Hooked {
    pub(crate) lun: CrashedLun,
    pub(crate) snapbrowse: Snapbrowse,
}

impl Hooked {
    pub(crate) fn new(user: User) -> Self {
        let hooked = Self { lun: CrashedLun::new(), snapbrowse: Snapbrowse::run_by(user) };
        hooked.set("", "");
        hooked
    }

    /// Hooks that do this besides writing down that they were called.
    pub(crate) fn set(&self, present: &str, revoke: &str) {
        let log = format!("cd '{}'; echo $SNAPBROWSE_HOOK >>hooks", self.home().display());
        let hook = |name: &str, text: &str| format!("{name} = ['sh', '-c', '''{log}; {text}''']\n");
        let table = [hook("present", present), hook("revoke", revoke)].concat();
        self.snapbrowse.configure(&format!("[hooks]\n{table}"));
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.snapbrowse.home()
    }

    /// What was called, in order.
    pub(crate) fn called(&self) -> Vec<String> {
        let text = fs::read_to_string(self.home().join("hooks")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_until_called(&self, calls: &[&str]) {
        wait_until(&format!("{calls:?}"), || self.called() == calls);
    }

    /// How many snapshots are written down as presented.
    pub(crate) fn records(&self) -> usize {
        let records = self.home().join(".state/snapbrowse/presented");
        let Ok(entries) = fs::read_dir(&records) else { return 0 };
        assert_eq!(fs::metadata(&records).unwrap().permissions().mode() & 0o777, 0o700);
        entries.count()
    }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "waited 20 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
