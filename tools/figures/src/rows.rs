//! The works that are measured, one function per row of the table.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::images::{BIG, DEEP, EXT3, EXT4, FILES, Recipe, SPARSE, disk};
use crate::mounts::Mounted;
use crate::process::{Cost, as_user, cpu_time, measure};
use crate::report::{Line, median, rate};
use crate::serve::{Scripted, Tgtd};
use crate::wire::Load;

/// How long `iscsi-perf` and the random readers run.
pub(crate) const SECONDS: &str = "3";

/// What a run of the bench works with.
pub(crate) struct Bench {
    pub(crate) binary: PathBuf,
    pub(crate) disks: PathBuf,
    pub(crate) runs: usize,
}

type Row = fn(&Bench) -> Result<Line>;

const ROWS: &[(&str, Row)] = &[
    ("cat", |bench| bench.cat(EXT4)),
    ("cat-ext3", |bench| bench.cat(EXT3)),
    ("dd", |bench| bench.dd(EXT4)),
    ("random", Bench::random),
    ("walk", Bench::walk),
    ("extract", Bench::extract),
    ("deep", |bench| bench.deep(EXT4, Duration::ZERO)),
    ("deep-16t", |bench| bench.deep(SPARSE, Duration::ZERO)),
    ("deep-20ms", |bench| bench.deep(EXT4, Duration::from_millis(20))),
    ("dd-5ms", Bench::dd_far),
    ("walk-5ms", Bench::walk_far),
    ("image-walk", Bench::image_walk),
    ("image-dd", Bench::image_dd),
    ("image-random", Bench::image_random),
    ("image-random-once", Bench::image_random_once),
    ("image-direct", Bench::image_random_directly),
    ("image-extract", Bench::image_extract),
    ("image-engine", Bench::engine),
    ("crashed", |bench| bench.crashed(Duration::ZERO)),
    ("crashed-5ms", |bench| bench.crashed(Duration::from_millis(5))),
    ("scattered", Bench::scattered),
    ("indirect", Bench::indirect),
    ("idle", Bench::idle),
    ("browse-cd", Bench::browse_cd),
    ("browse-1000", Bench::browse_thousand),
    ("iscsi-seq-1", |bench| bench.wire(Load::sequential(1))),
    ("iscsi-seq-16", |bench| bench.wire(Load::sequential(16))),
    ("iscsi-rand-1", |bench| bench.wire(Load::random(1))),
    ("iscsi-rand-16", |bench| bench.wire(Load::random(16))),
    ("iscsi-rand-64", |bench| bench.wire(Load::random(64))),
];

impl Bench {
    /// Measures and prints the rows whose names contain one of `only`, or all.
    pub(crate) fn run(&self, only: &[String]) -> Result<()> {
        let names = || ROWS.iter().map(|(name, _)| *name);
        if let Some(part) = only.iter().find(|part| !names().any(|name| name.contains(*part))) {
            bail!(
                "no row is called {part:?}; there are: {}",
                names().collect::<Vec<_>>().join(", ")
            );
        }
        println!("| work | unit | ours | peers | besides |\n| --- | --- | --- | --- | --- |");
        let mut failed = Vec::new();
        for (name, row) in ROWS {
            if only.is_empty() || only.iter().any(|part| name.contains(part.as_str())) {
                match row(self) {
                    Ok(line) => println!("{line}"),
                    Err(error) => {
                        println!("| {name} | | {error:#} | | |");
                        failed.push(*name);
                    }
                }
            }
        }
        ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
        Ok(())
    }

    pub(crate) fn ours(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).stdout(Stdio::null());
        command
    }

    fn served(&self, recipe: Recipe) -> Result<Tgtd> {
        let image = disk(&self.disks, recipe)?;
        warm(&image)?;
        Tgtd::start(&image)
    }

    /// The disk behind the target that counts and delays each answer by `latency`.
    pub(crate) fn scripted(&self, recipe: Recipe, latency: Duration) -> Result<Scripted> {
        let image = disk(&self.disks, recipe)?;
        warm(&image)?;
        Scripted::start(&image, latency)
    }

    fn cat(&self, recipe: Recipe) -> Result<Line> {
        let tgtd = self.served(recipe)?;
        let work = format!("`cat` of a 1 GiB file, {}, tgtd over loopback", recipe.name);
        let mut line = Line::new(work, "MB/s");
        let (mut costs, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let cost = measure(&mut self.ours(&["cat", &tgtd.url(), "/big.bin"]))?;
            line.add("cat", rate(BIG, cost.wall));
            costs.push(cost);
            let (figure, cost) = iscsi_perf(&tgtd, &["-m", "8", "-b", "2048"])?;
            line.add("iscsi-perf", figure * 1.048_576);
            peers.push(
                cost.cpu.as_secs_f64() * 1e6 / (figure * 1.048_576 * cost.wall.as_secs_f64()),
            );
        }
        line.note_costs("cat", &costs, BIG);
        line.note(format!("iscsi-perf: {:.0} ms CPU/GB", median(&peers)));
        Ok(line)
    }

    fn dd(&self, recipe: Recipe) -> Result<Line> {
        let tgtd = self.served(recipe)?;
        let mut line = Line::new("`dd bs=1M` of it, FUSE, cold, by an ordinary user", "MB/s");
        let (mut costs, mut whole, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let mounted = Mounted::ours(&self.binary, &tgtd.url())?;
            let cost = dd(as_user("dd"), &mounted.path().join("big.bin"))?;
            line.add("dd", rate(BIG, cost.wall));
            let served = mounted.cost()?;
            costs.push(served);
            drop(mounted);

            let mounted = Mounted::qemu(&tgtd)?;
            let peer = dd(Command::new("dd"), &mounted.path().join("big.bin"))?;
            line.add("qemu-storage-daemon + fuse2fs", rate(BIG, peer.wall));
            drop(mounted);

            // What the cores allow: the wire's part by iscsi-perf, the kernel's by a server with nothing to do.
            let before = cpu_time(tgtd.daemon.id())?;
            let (figure, peer) = iscsi_perf(&tgtd, &["-m", "8", "-b", "2048"])?;
            let gigabytes = figure * 1.048_576e-3 * peer.wall.as_secs_f64();
            let wire = peer.cpu + (cpu_time(tgtd.daemon.id())? - before);
            whole.push(wire.as_secs_f64() / gigabytes);
            let mounted = Mounted::empty(None)?;
            let through = dd(Command::new("dd"), &mounted.path().join("file"))?;
            let fuse = through.cpu + mounted.cost()?.cpu;
            empty.push(fuse.as_secs_f64() / (BIG as f64 / 1e9));
        }
        let ceiling = 2e3 / (median(&whole) + median(&empty));
        line.note(format!(
            "two cores allow {ceiling:.0} MB/s ({:.2} + {:.2} core-seconds/GB)",
            median(&whole),
            median(&empty)
        ));
        line.note_costs("the mount", &costs, BIG);
        Ok(line)
    }

    fn random(&self) -> Result<Line> {
        let tgtd = self.served(EXT4)?;
        let mut line = Line::new("random 4 KiB, 16 readers, FUSE", "reads/s");
        let (mut wire, mut empty, mut once, mut costs) =
            <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
        for _ in 0..self.runs {
            let mounted = Mounted::ours(&self.binary, &tgtd.url())?;
            line.add("mount", read_at_random(true, &mounted.path().join("big.bin"))?);
            line.notes = vec![format!("{} MiB", mounted.cost()?.peak >> 20)];
            drop(mounted);
            let before = cpu_time(tgtd.daemon.id())?;
            let (figure, cost) = iscsi_perf(&tgtd, &["-r", "-m", "16", "-b", "8"])?;
            let cpu = cost.cpu + (cpu_time(tgtd.daemon.id())? - before);
            line.add("iscsi-perf -r", figure * 256.0);
            wire.push(per_read(cpu, figure * 256.0 * cost.wall.as_secs_f64()));
            let mounted = Mounted::ours(&self.binary, &tgtd.url())?;
            let before = mounted.cost()?.cpu + cpu_time(tgtd.daemon.id())?;
            let (figure, cost) = read_once(true, &mounted.path().join("big.bin"))?;
            let after = mounted.cost()?.cpu + cpu_time(tgtd.daemon.id())?;
            once.push(figure);
            costs.push(per_read(cost.cpu + (after - before), figure * cost.wall.as_secs_f64()));
            drop(mounted);
            let mounted = Mounted::qemu(&tgtd)?;
            let peer = read_at_random(false, &mounted.path().join("big.bin"))?;
            line.add("qemu-storage-daemon + fuse2fs", peer);
            drop(mounted);
            let mounted = Mounted::empty(None)?;
            let (figure, cost) = read_once(false, &mounted.path().join("file"))?;
            let cpu = cost.cpu + mounted.cost()?.cpu;
            empty.push(per_read(cpu, figure * cost.wall.as_secs_f64()));
        }
        // Whoever else is at work takes cores from all of them, but adds little to what each read costs.
        let (wire, empty, ours) = (median(&wire), median(&empty), median(&costs));
        line.note(format!(
            "no place twice: {:.0}, {:.2} of iscsi-perf's, of {ours:.1} us CPU each, where iscsi-perf takes {wire:.1} and an empty fuser server \
             {empty:.1}, readers and target included: {:.2} of what the cores allow",
            median(&once),
            median(&once) / median(&line.figures[1].1),
            (wire + empty) / ours
        ));
        Ok(line)
    }

    fn walk(&self) -> Result<Line> {
        let tgtd = self.served(EXT4)?;
        let mut line = Line::new("`find -type f -printf %s` over 50,000 files, FUSE, cold", "s");
        for _ in 0..self.runs {
            let mounted = Mounted::ours(&self.binary, &tgtd.url())?;
            line.add("mount", find(as_user("find"), &mounted.path())?.wall.as_secs_f64());
            let cost = mounted.cost()?;
            line.notes = vec![format!("{:?} CPU, {} MiB", cost.cpu, cost.peak >> 20)];
            drop(mounted);
            let mounted = Mounted::qemu(&tgtd)?;
            let peer = find(Command::new("find"), &mounted.path())?;
            line.add("qemu-storage-daemon + fuse2fs", peer.wall.as_secs_f64());
        }
        Ok(line)
    }

    fn extract(&self) -> Result<Line> {
        let tgtd = self.served(EXT4)?;
        let mut line = Line::new("`extract` of those 50,000 files to tmpfs", "files/s");
        let mut costs = Vec::new();
        for _ in 0..self.runs {
            let to = tempfile::tempdir_in("/dev/shm")?;
            let directory = to.path().to_str().context("a path in UTF-8")?;
            let url = tgtd.url();
            let cost =
                measure(&mut self.ours(&["-q", "extract", &url, "/many", "--to", directory]))?;
            line.add("extract", FILES as f64 / cost.wall.as_secs_f64());
            costs.push(cost);
            drop(to);
            let mounted = Mounted::qemu(&tgtd)?;
            let to = tempfile::tempdir_in("/dev/shm")?;
            let mut copy = Command::new("cp");
            copy.arg("-a").arg(mounted.path().join("many")).arg(to.path());
            let peer = measure(&mut copy)?;
            line.add(
                "cp -a from qemu-storage-daemon + fuse2fs",
                FILES as f64 / peer.wall.as_secs_f64(),
            );
        }
        let cpu = costs.iter().map(|cost| cost.cpu.as_secs_f64()).collect::<Vec<_>>();
        let peak = costs.iter().map(|cost| cost.peak).max().unwrap_or(0);
        line.note(format!("{:.2} s CPU, {} MiB", median(&cpu), peak >> 20));
        Ok(line)
    }

    fn deep(&self, recipe: Recipe, latency: Duration) -> Result<Line> {
        let target = self.scripted(recipe, latency)?;
        let work = format!(
            "`cat` of a 2 KB file five directories deep, {}, {latency:?} per answer, the whole process",
            recipe.name
        );
        self.cat_deep(work, target, latency)
    }

    /// The small file of a disk, by a process of its own each time.
    pub(crate) fn cat_deep(
        &self,
        work: String,
        mut target: Scripted,
        latency: Duration,
    ) -> Result<Line> {
        let mut line = Line::new(work, "ms");
        let (mut most, mut peak, mut longest) = ((0, 0), 0, Duration::ZERO);
        for _ in 0..self.runs {
            let cost = measure(&mut self.ours(&["cat", &target.url(), DEEP]))?;
            line.add("cat", cost.wall.as_secs_f64() * 1e3);
            most = most.max(target.counts());
            (peak, longest) = (cost.peak.max(peak), cost.wall.max(longest));
        }
        line.note(format!("{} SCSI commands, {} KiB read at most", most.0, most.1 >> 10));
        line.note(format!("{:.1} MiB", peak as f64 / f64::from(1 << 20)));
        if !latency.is_zero() {
            // Everything that was waited for, the connection and the logout too, took one delay each at least.
            let trips = longest.as_secs_f64() / latency.as_secs_f64();
            line.note(format!("no more than {trips:.1} round trips from start to exit"));
        }
        Ok(line)
    }

    fn dd_far(&self) -> Result<Line> {
        let mut target = self.scripted(EXT4, Duration::from_millis(5))?;
        let mut line = Line::new("`dd` of the 1 GiB file, FUSE, 5 ms per answer", "MB/s");
        for _ in 0..self.runs {
            let mounted = Mounted::ours(&self.binary, &target.url())?;
            let cost = dd(as_user("dd"), &mounted.path().join("big.bin"))?;
            line.add("mount", rate(BIG, cost.wall));
            let (commands, bytes) = target.counts();
            line.notes = vec![format!("{commands} SCSI commands, {} MiB read", bytes >> 20)];
            line.note(format!("{} MiB", mounted.cost()?.peak >> 20));
        }
        Ok(line)
    }

    fn walk_far(&self) -> Result<Line> {
        let mut target = self.scripted(EXT4, Duration::from_millis(5))?;
        let mut line = Line::new("the walk over 50,000 files, FUSE, 5 ms per answer", "s");
        for _ in 0..self.runs {
            let mounted = Mounted::ours(&self.binary, &target.url())?;
            line.add("mount", find(as_user("find"), &mounted.path())?.wall.as_secs_f64());
            let (commands, bytes) = target.counts();
            line.notes = vec![format!("{commands} SCSI commands, {} MiB read", bytes >> 20)];
            line.note(format!("{} MiB", mounted.cost()?.peak >> 20));
        }
        Ok(line)
    }

    /// Runs the same on our mount of an image, fuse2fs's and the kernel's, and where `limits` says so, on servers that do
    /// nothing but answer: what is left for everything else.
    fn on_images(
        &self,
        line: &mut Line,
        limits: bool,
        work: impl Fn(bool, &Mounted, &str) -> Result<f64>,
    ) -> Result<()> {
        let image = disk(&self.disks, EXT4)?;
        warm(&image)?;
        let source = image.to_str().context("a path in UTF-8")?;
        for _ in 0..self.runs {
            let mounted = Mounted::ours(&self.binary, source)?;
            line.add("mount", work(true, &mounted, "big.bin")?);
            line.notes = vec![format!("{} MiB", mounted.cost()?.peak >> 20)];
            drop(mounted);
            let mounted = Mounted::fuse2fs_of(&image)?;
            line.add("fuse2fs", work(false, &mounted, "big.bin")?);
            drop(mounted);
            if rustix::process::geteuid().is_root() {
                let mounted = Mounted::kernel(&image)?;
                line.add("kernel, loop", work(false, &mounted, "big.bin")?);
            }
            if limits {
                let mounted = Mounted::empty(None)?;
                line.add("empty fuser server", work(false, &mounted, "file")?);
                drop(mounted);
                let mounted = Mounted::empty(Some(&image))?;
                let name = "fuser server of the image as it lies";
                line.add(name, work(false, &mounted, "file")?);
            }
        }
        Ok(())
    }

    fn image_walk(&self) -> Result<Line> {
        let mut line = Line::new("image in the page cache: the walk", "s");
        self.on_images(&mut line, false, |user, mounted, _| {
            Ok(find(command(user, "find"), &mounted.path())?.wall.as_secs_f64())
        })?;
        Ok(line)
    }

    fn image_dd(&self) -> Result<Line> {
        let mut line = Line::new("image in the page cache: `dd` of 1 GiB", "MB/s");
        self.on_images(&mut line, true, |user, mounted, file| {
            Ok(rate(BIG, dd(command(user, "dd"), &mounted.path().join(file))?.wall))
        })?;
        Ok(line)
    }

    fn image_random(&self) -> Result<Line> {
        let work = "image in the page cache: random 4 KiB, 16 readers, for three seconds";
        let mut line = Line::new(work, "reads/s");
        self.on_images(&mut line, true, |user, mounted, file| {
            read_at_random(user, &mounted.path().join(file))
        })?;
        Ok(line)
    }

    fn image_random_once(&self) -> Result<Line> {
        let work = "image in the page cache: random 4 KiB, 16 readers, no place twice";
        let mut line = Line::new(work, "reads/s");
        self.on_images(&mut line, true, |user, mounted, file| {
            Ok(read_once(user, &mounted.path().join(file))?.0)
        })?;
        Ok(line)
    }
}

/// Brings an image into the page cache, so that the disk of this machine is not what is measured.
pub(crate) fn warm(image: &Path) -> Result<()> {
    let mut file = std::fs::File::open(image)?;
    let mut data = 0;
    // Holes need no reading, and may be terabytes.
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(data)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start))?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(start))?;
        let mut part = std::io::Read::take(&mut file, end - start);
        std::io::copy(&mut part, &mut std::io::sink())?;
        data = end;
    }
    Ok(())
}

fn command(user: bool, program: &str) -> Command {
    if user { as_user(program) } else { Command::new(program) }
}

fn dd(mut command: Command, file: &Path) -> Result<Cost> {
    let mut input = std::ffi::OsString::from("if=");
    input.push(file);
    measure(command.arg(input).args(["of=/dev/null", "bs=1M", "status=none"]))
}

fn find(mut command: Command, directory: &Path) -> Result<Cost> {
    let arguments = ["-type", "f", "-printf", "%s\n"];
    measure(command.arg(directory.join("many")).args(arguments).stdout(Stdio::null()))
}

fn read_at_random(user: bool, file: &Path) -> Result<f64> {
    Ok(random_readers(user, file, &[])?.0)
}

/// The same without a place that the page cache knows, and what the readers cost.
fn read_once(user: bool, file: &Path) -> Result<(f64, Cost)> {
    random_readers(user, file, &["--once"])
}

fn random_readers(user: bool, file: &Path, arguments: &[&str]) -> Result<(f64, Cost)> {
    let output = tempfile::NamedTempFile::new()?;
    let program = std::env::current_exe()?;
    let mut command = command(user, program.to_str().context("a path in UTF-8")?);
    command.arg("read-at-random").arg(file).arg(SECONDS).args(arguments);
    let cost = measure(command.stdout(output.reopen()?))?;
    Ok((std::fs::read_to_string(output.path())?.trim().parse()?, cost))
}

/// Microseconds of CPU for each of so many reads.
fn per_read(cpu: Duration, reads: f64) -> f64 {
    cpu.as_secs_f64() * 1e6 / reads
}

/// MiB/s as `iscsi-perf` says them itself, and what the process cost.
pub(crate) fn iscsi_perf(tgtd: &Tgtd, arguments: &[&str]) -> Result<(f64, Cost)> {
    let output = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("iscsi-perf");
    command.args(arguments).args(["-t", SECONDS, &tgtd.url()]).stdout(output.reopen()?);
    let cost = measure(&mut command)?;
    let text = std::fs::read_to_string(output.path())?;
    // The last of its reports: "iops average 2765 (2765 MB/s)".
    let last = text.rsplit("iops average").next().context("iscsi-perf says nothing")?;
    let reads: f64 = last.trim().split(' ').next().context("a number")?.parse()?;
    let blocks: f64 =
        arguments[arguments.iter().position(|a| *a == "-b").context("-b")? + 1].parse()?;
    Ok((reads * blocks * 512.0 / f64::from(1 << 20), cost))
}
