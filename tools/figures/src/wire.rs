//! The initiator alone, without cache and file system, beside `iscsi-perf` on the same LUN.
//!
//! The peer's figures flatter it: it reads everything into the same few buffers again and again, which stay in the
//! processor's cache, while an initiator that hands its data on needs memory for what is being used. Its callers
//! drop the data at once here, as it does itself.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use snapbrowse::block::BlockSource;
use snapbrowse::iscsi::{Config, IscsiUrl, Session};
use tokio::task::JoinSet;

use crate::images::Noise;
use crate::mounts::INITIATOR;
use crate::process::{Cost, measure};
use crate::report::{Line, median};
use crate::rows::{Bench, SECONDS, iscsi_perf};
use crate::serve::Tgtd;

/// The size of the LUN, in bytes; it lies in the page cache.
const DISK: u64 = 2 << 30;

/// Which reads follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    Sequential,
    Random,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Load {
    #[arg(long)]
    pub(crate) pattern: Pattern,
    /// Bytes per read
    #[arg(long)]
    pub(crate) block: u32,
    /// Reads under way at a time
    #[arg(long)]
    pub(crate) depth: usize,
}

impl Load {
    pub(crate) const fn sequential(depth: usize) -> Self {
        Self { pattern: Pattern::Sequential, block: 1 << 20, depth }
    }

    pub(crate) const fn random(depth: usize) -> Self {
        Self { pattern: Pattern::Random, block: 4096, depth }
    }
}

/// Reads a LUN for `seconds` and prints how many reads there were per second.
pub(crate) fn read(url: &str, load: Load, seconds: f64) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let rate = runtime.block_on(async {
        let url: IscsiUrl = url.parse()?;
        let target = url.target.context("a URL with a target")?;
        let session = Session::login(&url.portals, &target, &Config::new(INITIATOR)).await?;
        let lun = session.open_lun(url.lun).await?;
        let rate = reads_per_second(Arc::new(lun), load, seconds).await;
        session.logout().await?;
        rate
    })?;
    println!("{rate:.1}");
    Ok(())
}

/// Each of the reads under way belongs to a task, which begins another one when it is over.
async fn reads_per_second(source: Arc<dyn BlockSource>, load: Load, seconds: f64) -> Result<f64> {
    let blocks = source.len() / u64::from(load.block);
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let mut readers = JoinSet::new();
    for reader in 0..load.depth as u64 {
        let (source, next, mut noise) = (Arc::clone(&source), Arc::clone(&next), Noise(reader));
        readers.spawn(async move {
            let (mut count, len) = (0_u64, load.block as usize);
            while Instant::now() < end {
                let block = match load.pattern {
                    Pattern::Sequential => next.fetch_add(1, Ordering::Relaxed),
                    Pattern::Random => noise.next(),
                };
                let data = source.read_at(block % blocks * u64::from(load.block), len).await?;
                ensure!(data.len() == len, "a read of another length");
                count += 1;
            }
            Ok(count)
        });
    }
    let mut count = 0;
    while let Some(reads) = readers.join_next().await {
        count += reads??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

impl Bench {
    pub(crate) fn wire(&self, load: Load) -> Result<Line> {
        let tgtd = Tgtd::start(&noise_disk(&self.disks)?)?;
        let sectors = (load.block / 512).to_string();
        let depth = load.depth.to_string();
        let mut arguments = vec!["-m", &depth, "-b", &sectors];
        let (work, unit, scale, per) = match load.pattern {
            Pattern::Sequential => ("sequential 1 MiB", "MB/s", 1.048_576, "ms CPU/GB"),
            Pattern::Random => {
                arguments.push("-r");
                ("random 4 KiB", "reads/s", 1.0, "us CPU/read")
            }
        };
        let mut line = Line::new(format!("the initiator: {work}, depth {depth}"), unit);
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        let seconds: f64 = SECONDS.parse()?;
        // Per MB in microseconds is per GB in milliseconds.
        let cpu = |cost: &Cost, rate: f64| cost.cpu.as_secs_f64() * 1e6 / (rate * seconds);
        for _ in 0..self.runs {
            let (rate, cost) = self.read_lun(&tgtd, load)?;
            line.add("snapbrowse", rate * scale);
            ours.push(cpu(&cost, rate * scale));
            let (mib, cost) = iscsi_perf(&tgtd, &arguments)?;
            let rate = mib * f64::from(1 << 20) / f64::from(load.block) * scale;
            line.add("iscsi-perf", rate);
            peers.push(cpu(&cost, rate));
        }
        let (ours, peers) = (median(&ours), median(&peers));
        line.note(format!("{per}: {ours:.1}, iscsi-perf {peers:.1}: {:.2} x", ours / peers));
        Ok(line)
    }

    /// Reads per second of this program's own initiator, and what the process cost.
    fn read_lun(&self, tgtd: &Tgtd, load: Load) -> Result<(f64, Cost)> {
        let output = tempfile::NamedTempFile::new()?;
        let pattern =
            clap::ValueEnum::to_possible_value(&load.pattern).context("no hidden ones")?;
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["read-lun", &tgtd.url(), SECONDS, "--pattern", pattern.get_name()]);
        command.args(["--block", &load.block.to_string(), "--depth", &load.depth.to_string()]);
        let cost = measure(command.stdout(output.reopen()?))?;
        Ok((std::fs::read_to_string(output.path())?.trim().parse()?, cost))
    }
}

/// A disk without a file system.
fn noise_disk(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("noise.img");
    if !path.exists() {
        let mut noise = Noise(3);
        let mut bytes = vec![0; 1 << 20];
        let unfinished = path.with_extension("new");
        let mut file = File::create(&unfinished)?;
        for _ in 0..DISK / bytes.len() as u64 {
            noise.fill(&mut bytes);
            file.write_all(&bytes)?;
        }
        std::fs::rename(unfinished, &path)?;
    }
    crate::rows::warm(&path)?;
    Ok(path)
}
