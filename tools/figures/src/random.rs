//! Sixteen readers of 4 KiB at random places.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::{Advice, fadvise};
use snapbrowse::block::ImageFile;
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::fs::{Filesystem, LastLink, resolve};

use crate::images::Noise;

const READERS: usize = 16;
const BLOCK: u64 = 4096;

/// Reads for `seconds` and prints the number of reads per second. With `once` no place is read twice, so that nothing
/// is answered by the page cache; the end may come sooner then.
pub(crate) fn read(path: &Path, seconds: f64, once: bool) -> Result<()> {
    let open = || -> Result<File> {
        let file = File::open(path)?;
        fadvise(&file, 0, None, Advice::Random)?;
        Ok(file)
    };
    let files = (0..READERS).map(|_| open()).collect::<Result<Vec<File>>>()?;
    let blocks = files[0].metadata()?.len() / BLOCK;
    let places = if once { Places::once(blocks) } else { Places::Any(blocks) };
    in_all_readers(seconds, &places, |reader, block| {
        let mut buffer = [0; BLOCK as usize];
        Ok(files[reader].read_exact_at(&mut buffer, block * BLOCK)?)
    })
}

/// Which of so many blocks are read.
enum Places {
    Any(u64),
    /// Each of them once, with how many were taken.
    Once(u64, AtomicU64),
}

impl Places {
    fn once(blocks: u64) -> Self {
        Self::Once(blocks, AtomicU64::new(0))
    }

    fn next(&self, noise: &mut Noise) -> Option<u64> {
        match self {
            Self::Any(blocks) => Some(noise.next() % blocks),
            Self::Once(blocks, taken) => loop {
                let taken = taken.fetch_add(1, Ordering::Relaxed);
                let all = blocks.next_power_of_two();
                if taken >= all {
                    return None;
                }
                let place = shuffled(taken, all);
                if place < *blocks {
                    return Some(place);
                }
            },
        }
    }
}

/// Another order of the numbers below a power of two: odd factors and shifts to the right can be undone, so that no two
/// become the same.
fn shuffled(number: u64, all: u64) -> u64 {
    let half = all.trailing_zeros().div_ceil(2);
    let mut number = number;
    for factor in [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9] {
        number = number.wrapping_mul(factor) % all;
        number ^= number >> half;
    }
    number
}

/// The same from a file in an image, without a mount.
pub(crate) fn read_image(image: &Path, file: &str, seconds: f64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let (files, size) = runtime.block_on(async {
        let filesystem = Ext::open(Arc::new(ImageFile::open(image)?), Options::default()).await?;
        let attr = resolve(&filesystem, file.as_bytes(), LastLink::Follow).await?;
        let mut files = Vec::new();
        for _ in 0..READERS {
            files.push(filesystem.open(attr.ino).await?);
        }
        anyhow::Ok((files, attr.size))
    })?;
    in_all_readers(seconds, &Places::Any(size / BLOCK), |reader, block| {
        let (offset, len) = (block * BLOCK, BLOCK as usize);
        let bytes = match files[reader].try_read(offset, len) {
            Some(bytes) => bytes?,
            None => runtime.block_on(files[reader].read(offset, len))?,
        };
        ensure!(bytes.len() == len, "a short read");
        Ok(())
    })
}

fn in_all_readers(
    seconds: f64,
    places: &Places,
    read: impl Fn(usize, u64) -> Result<()> + Sync,
) -> Result<()> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let read = &read;
    let reads: u64 = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || -> Result<u64> {
                    let (mut noise, mut count) = (Noise(reader as u64), 0);
                    while Instant::now() < end {
                        let Some(block) = places.next(&mut noise) else { break };
                        read(reader, block)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_comes_once() {
        for blocks in [1, 2, 1000, 4096] {
            let places = Places::once(blocks);
            let mut seen: Vec<u64> = std::iter::from_fn(|| places.next(&mut Noise(0))).collect();
            assert!(blocks < 1000 || !seen.is_sorted());
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..blocks));
        }
    }
}
