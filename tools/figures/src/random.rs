//! Sixteen readers of 4 KiB at random places.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::fs::{Advice, fadvise};
use snapbrowse::block::ImageFile;
use snapbrowse::fs::ext::{Ext, Options};
use snapbrowse::fs::{Filesystem, LastLink, resolve};

use crate::images::Noise;

const READERS: usize = 16;
const BLOCK: u64 = 4096;

/// Reads for `seconds` and prints the number of reads per second.
pub(crate) fn read(path: &Path, seconds: f64) -> Result<()> {
    let open = || -> Result<File> {
        let file = File::open(path)?;
        fadvise(&file, 0, None, Advice::Random)?;
        Ok(file)
    };
    let files = (0..READERS).map(|_| open()).collect::<Result<Vec<File>>>()?;
    let blocks = files[0].metadata()?.len() / BLOCK;
    in_all_readers(seconds, blocks, |reader, block| {
        let mut buffer = [0; BLOCK as usize];
        Ok(files[reader].read_exact_at(&mut buffer, block * BLOCK)?)
    })
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
    in_all_readers(seconds, size / BLOCK, |reader, block| {
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
    blocks: u64,
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
                        read(reader, noise.next() % blocks)?;
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
