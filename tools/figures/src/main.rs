//! Measures Snapbrowse beside its peers: the same LUN, the same run, in turns. Prints a Markdown table of medians,
//! ratios, and counts that do not depend on the machine.

mod browse;
mod empty;
mod images;
mod more;
mod mounts;
mod process;
mod random;
mod report;
mod rows;
mod serve;
mod shapes;
mod wire;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measure Snapbrowse beside its peers
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    helper: Option<Helper>,
    /// The program to measure
    #[arg(long, default_value = "target/release/snapbrowse")]
    binary: PathBuf,
    /// Where the disks are made and kept (about 13 GB)
    #[arg(long, default_value = "target/figures")]
    disks: PathBuf,
    /// How often each program runs
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only the rows whose name contains one of these
    only: Vec<String>,
}

/// Parts of the measuring that need a process of their own.
#[derive(Subcommand)]
enum Helper {
    /// A FUSE server of one file that holds nothing, or what lies at the same places of an image
    #[command(hide = true)]
    ServeEmpty { mountpoint: PathBuf, image: Option<PathBuf> },
    /// Reads 4 KiB at random places in 16 threads and prints how many per second
    #[command(hide = true)]
    ReadAtRandom {
        file: PathBuf,
        seconds: f64,
        /// No place twice
        #[arg(long)]
        once: bool,
    },
    /// The same by the library, from a file in an image
    #[command(hide = true)]
    ReadImage { image: PathBuf, file: String, seconds: f64 },
    /// Reads a LUN by the initiator alone and prints how many reads per second
    #[command(hide = true)]
    ReadLun {
        url: String,
        seconds: f64,
        #[command(flatten)]
        load: wire::Load,
    },
}

fn main() -> Result<()> {
    let options = Options::parse();
    match options.helper {
        Some(Helper::ServeEmpty { mountpoint, image }) => {
            empty::serve(&mountpoint, image.as_deref())
        }
        Some(Helper::ReadAtRandom { file, seconds, once }) => random::read(&file, seconds, once),
        Some(Helper::ReadImage { image, file, seconds }) => {
            random::read_image(&image, &file, seconds)
        }
        Some(Helper::ReadLun { url, seconds, load }) => wire::read(&url, load, seconds),
        None => {
            std::fs::create_dir_all(&options.disks)?;
            let bench = rows::Bench {
                binary: options.binary.canonicalize()?,
                disks: options.disks.canonicalize()?,
                runs: options.runs,
            };
            bench.run(&options.only)
        }
    }
}
