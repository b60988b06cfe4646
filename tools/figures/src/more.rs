//! Rows about other shapes of disks, other ways in, and a mount that nobody uses.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::images::{BIG, EXT4, FILES, disk};
use crate::mounts::Mounted;
use crate::process::{as_user, cpu_time, measure, switches};
use crate::report::{Line, rate};
use crate::rows::{Bench, SECONDS, warm};
use crate::serve::Scripted;
use crate::shapes::{
    CRASHED, EXTENTS, FRAGMENTED, HUGE, INDIRECT, LIVE_LOG, SCATTERED, Shape, shaped,
};

/// How long an idle mount is watched.
const IDLE: Duration = Duration::from_secs(20);

impl Bench {
    /// A file read whole from the scripted target, which counts.
    fn cat_shape(&self, work: String, shape: Shape, file: &str, len: u64) -> Result<Line> {
        let image = shaped(&self.disks, shape)?;
        warm(&image)?;
        let mut target = Scripted::start(&image, Duration::ZERO)?;
        let mut line = Line::new(work, "MB/s");
        let mut costs = Vec::new();
        for _ in 0..self.runs {
            let cost = measure(&mut self.ours(&["cat", &target.url(), file]))?;
            line.add("cat", rate(len, cost.wall));
            costs.push(cost);
            let (commands, bytes) = target.counts();
            line.notes = vec![format!("{commands} SCSI commands, {} MiB read", bytes >> 20)];
        }
        line.note_costs("cat", &costs, len);
        Ok(line)
    }

    pub(crate) fn scattered(&self) -> Result<Line> {
        let work = format!("`cat` of {} MiB in {EXTENTS} extents", FRAGMENTED >> 20);
        self.cat_shape(work, SCATTERED, "/scattered.bin", FRAGMENTED)
    }

    pub(crate) fn indirect(&self) -> Result<Line> {
        let work = "`cat` of 4 GiB through indirect blocks, ext3".to_owned();
        self.cat_shape(work, INDIRECT, "/huge.bin", HUGE)
    }

    pub(crate) fn crashed(&self, latency: Duration) -> Result<Line> {
        let image = shaped(&self.disks, CRASHED)?;
        warm(&image)?;
        let target = Scripted::start(&image, latency)?;
        let live = LIVE_LOG >> 20;
        let work = format!(
            "`cat` of a 2 KB file, ext3, {live} MiB of the journal live, {latency:?} per answer"
        );
        self.cat_deep(work, target, latency)
    }

    pub(crate) fn engine(&self) -> Result<Line> {
        let image = disk(&self.disks, EXT4)?;
        warm(&image)?;
        let source = image.to_str().context("a path in UTF-8")?;
        let mut line = Line::new("image in the page cache: `cat` of 1 GiB", "MB/s");
        for _ in 0..self.runs {
            let cost = measure(&mut self.ours(&["cat", source, "/big.bin"]))?;
            line.add("cat", rate(BIG, cost.wall));
            let mut peer = self.ours(&["--engine", "ext4-view", "cat", source, "/big.bin"]);
            line.add("--engine ext4-view", rate(BIG, measure(&mut peer)?.wall));
        }
        Ok(line)
    }

    pub(crate) fn image_extract(&self) -> Result<Line> {
        let image = disk(&self.disks, EXT4)?;
        warm(&image)?;
        let source = image.to_str().context("a path in UTF-8")?;
        let work = "image in the page cache: `extract` of 50,000 files to tmpfs";
        let mut line = Line::new(work, "files/s");
        for _ in 0..self.runs {
            let to = tempfile::tempdir_in("/dev/shm")?;
            let directory = to.path().to_str().context("a path in UTF-8")?;
            let cost =
                measure(&mut self.ours(&["-q", "extract", source, "/many", "--to", directory]))?;
            line.add("extract", FILES as f64 / cost.wall.as_secs_f64());
            drop(to);
            let to = tempfile::tempdir_in("/dev/shm")?;
            let request = format!("rdump /many {}", to.path().display());
            let mut peer = Command::new("debugfs");
            peer.args(["-R", &request]).arg(&image).stdout(Stdio::null()).stderr(Stdio::null());
            let cost = measure(&mut peer)?;
            line.add("debugfs rdump", FILES as f64 / cost.wall.as_secs_f64());
        }
        Ok(line)
    }

    /// Random reads by the library itself, beside the same of files in mounts.
    pub(crate) fn image_random_directly(&self) -> Result<Line> {
        let image = shaped(&self.disks, INDIRECT)?;
        warm(&image)?;
        let work = "image in the page cache, without FUSE: random 4 KiB of 4 GiB, 16 readers";
        let mut line = Line::new(work, "reads/s");
        for _ in 0..self.runs {
            line.add("snapbrowse", self.read_image(&image, "/huge.bin")?);
            let mounted = Mounted::fuse2fs_of(&image)?;
            line.add("fuse2fs", self.read_file(&mounted.path().join("huge.bin"))?);
            drop(mounted);
            let mounted = Mounted::kernel(&image)?;
            line.add("kernel, loop", self.read_file(&mounted.path().join("huge.bin"))?);
        }
        Ok(line)
    }

    fn read_image(&self, image: &Path, file: &str) -> Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        printed_number(command.arg("read-image").arg(image).args([file, SECONDS]))
    }

    fn read_file(&self, file: &Path) -> Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        printed_number(command.arg("read-at-random").arg(file).arg(SECONDS))
    }

    pub(crate) fn idle(&self) -> Result<Line> {
        let mut target = self.scripted(EXT4, Duration::ZERO)?;
        let mounted = Mounted::ours(&self.binary, &target.url())?;
        measure(as_user("ls").arg(mounted.path()).stdout(Stdio::null()))?;
        // The first look whether the volume is being written follows the first use.
        std::thread::sleep(Duration::from_secs(12));
        target.counts();
        let process = mounted.process()?;
        let (cpu, waits, begun) = (cpu_time(process)?, switches(process)?, Instant::now());
        std::thread::sleep(IDLE);
        let work = format!("a mount that nobody uses, {IDLE:?}");
        let mut line = Line::new(work, "ms CPU");
        line.add("mount", (cpu_time(process)? - cpu).as_secs_f64() * 1e3);
        line.note(format!(
            "{} wake-ups and {} SCSI commands in {:.0} s",
            switches(process)?.saturating_sub(waits),
            target.counts().0,
            begun.elapsed().as_secs_f64()
        ));
        Ok(line)
    }
}

/// Runs a command that prints nothing but a number.
fn printed_number(command: &mut Command) -> Result<f64> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
