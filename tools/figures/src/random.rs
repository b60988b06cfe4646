//! Sixteen readers of 4 KiB at random places.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{Advice, fadvise};

use crate::images::Noise;

const READERS: u64 = 16;

/// Reads for `seconds` and prints the number of reads per second.
pub(crate) fn read(path: &Path, seconds: f64) -> Result<()> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let reads: u64 = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || -> Result<u64> {
                    let file = File::open(path)?;
                    fadvise(&file, 0, None, Advice::Random)?;
                    let blocks = file.metadata()?.len() / 4096;
                    let (mut noise, mut buffer, mut count) = (Noise(reader), [0; 4096], 0);
                    while Instant::now() < end {
                        file.read_exact_at(&mut buffer, noise.next() % blocks * 4096)?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?)
            .sum::<Result<u64>>()
    })?;
    println!("{:.0}", reads as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
