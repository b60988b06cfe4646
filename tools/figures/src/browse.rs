//! From `cd` to the first listing, beside the way by fsck and the kernel; and a SAN with many targets.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::images::crashed;
use crate::mounts::Mounted;
use crate::process::{as_user, measure};
use crate::report::Line;
use crate::rows::{Bench, warm};
use crate::serve::{IQN, Scripted, Tgtd};

/// What a large SAN has.
const MANY: usize = 1000;

impl Bench {
    pub(crate) fn browse_cd(&self) -> Result<Line> {
        let image = crashed(&self.disks)?;
        warm(&image)?;
        let tgtd = Tgtd::start(&image)?;
        let work = "from `cd` to the listing of a dirty 8 GiB ext3, not logged in before";
        let mut line = Line::new(work, "ms");
        let copy = tempfile::Builder::new().prefix("copy").tempdir_in(&self.disks)?;
        for _ in 0..self.runs {
            let mounted = Mounted::tree(&self.binary, &tgtd.portal())?;
            line.add("browse", list(&mounted.path().join(IQN))?);
            line.notes = vec![format!("{} MiB", mounted.cost()?.peak >> 20)];
            drop(mounted);
            // Without the login and the wait for udev, which came before.
            let replaying = self.old_way(&image, copy.path(), "e2fsck -p")?;
            line.add("e2fsck -p, kernel mount of a local copy", replaying);
            let whole = self.old_way(&image, copy.path(), "e2fsck -fy")?;
            line.add("e2fsck -f, kernel mount of a local copy", whole);
        }
        Ok(line)
    }

    /// A check, a mount and a listing, of a fresh copy in the page cache.
    fn old_way(&self, image: &Path, directory: &Path, check: &str) -> Result<f64> {
        let copy = directory.join("disk.img");
        measure(Command::new("cp").arg("--sparse=always").arg(image).arg(&copy))?;
        // e2fsck's exit code 1 says that it has mended something.
        let script = format!(
            "{check} \"$0\" >/dev/null 2>&1; [ $? -le 1 ] && mkdir -p \"$1\" && \
             mount -o loop,ro \"$0\" \"$1\" && ls -U \"$1\""
        );
        let at = directory.join("at");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(&copy).arg(&at).stdout(Stdio::null());
        let cost = measure(&mut command);
        measure(Command::new("umount").arg(&at)).context("umount")?;
        Ok(cost?.wall.as_secs_f64() * 1e3)
    }

    pub(crate) fn browse_thousand(&self) -> Result<Line> {
        let mut line = Line::new(format!("listing of a tree of {MANY} targets"), "ms");
        for _ in 0..self.runs {
            let target = Scripted::many(MANY)?;
            let mounted = Mounted::tree(&self.binary, &target.portal())?;
            line.add("browse", list(&mounted.path())?);
            let (discoveries, logins) = target.sessions();
            let peak = mounted.cost()?.peak >> 20;
            line.notes = vec![format!("{peak} MiB, {discoveries} discovery, {logins} logins")];
        }
        Ok(line)
    }
}

fn list(directory: &Path) -> Result<f64> {
    let cost = measure(as_user("ls").arg("-U").arg(directory).stdout(Stdio::null()))?;
    Ok(cost.wall.as_secs_f64() * 1e3)
}
