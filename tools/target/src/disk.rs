//! Where the blocks of a LUN come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes that can be read by position.
#[derive(Clone, Debug)]
pub enum Disk {
    /// An image file, opened read-only.
    File {
        /// The open file.
        file: Arc<File>,
        /// Its length in bytes when it was opened.
        len: u64,
    },
    /// Bytes in memory.
    Memory(Bytes),
    /// As many bytes as wanted, each a function of its position and the seed (see [`Disk::pattern`]).
    Pattern {
        /// Length in bytes.
        len: u64,
        /// Two disks of different seeds differ everywhere.
        seed: u64,
    },
}

impl Disk {
    /// Opens an image file or block device.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self::File { file: Arc::new(file), len })
    }

    /// A disk whose every eight bytes are a hash of their position: no two blocks are alike, and nothing is stored.
    pub fn pattern(len: u64, seed: u64) -> Self {
        Self::Pattern { len, seed }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } | Self::Pattern { len, .. } => *len,
            Self::Memory(bytes) => u64::try_from(bytes.len()).expect("usize is at most 64 bits"),
        }
    }

    /// Whether there is nothing to read at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `len` bytes at `offset`; past the end there are zeros.
    ///
    /// A file is read in place: images lie in the page cache, and a hop to another thread would cost more than
    /// the read.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let size = bytes.len();
                let start = usize::try_from(offset).unwrap_or(size).min(size);
                let end = start.saturating_add(len).min(size);
                if end - start == len {
                    return Ok(bytes.slice(start..end));
                }
                let mut padded = bytes[start..end].to_vec();
                padded.resize(len, 0);
                Ok(padded.into())
            }
            Self::File { file, .. } => {
                let mut buffer = vec![0; len];
                let mut done = 0;
                while done < len {
                    let position = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
                    match file.read_at(&mut buffer[done..], position)? {
                        0 => break,
                        n => done += n,
                    }
                }
                Ok(buffer.into())
            }
            Self::Pattern { seed, .. } => {
                let first = offset / 8;
                let skip = usize::try_from(offset % 8).expect("below eight");
                let mut buffer = Vec::with_capacity(skip + len + 8);
                let mut word = first;
                while buffer.len() < skip + len {
                    buffer.extend(scramble(word ^ seed.rotate_left(32)).to_le_bytes());
                    word += 1;
                }
                Ok(Bytes::from(buffer).slice(skip..skip + len))
            }
        }
    }
}

/// The finaliser of SplitMix64: a bijection, so no two positions give the same eight bytes.
fn scramble(position: u64) -> u64 {
    let mut z = position.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_reads_the_same_at_any_offset() {
        let disk = Disk::pattern(1 << 20, 7);
        let whole = disk.read(0, 4096).unwrap();
        for (offset, len) in [(0, 1), (3, 13), (8, 8), (1001, 999)] {
            let part = disk.read(u64::try_from(offset).unwrap(), len).unwrap();
            assert_eq!(part, whole.slice(offset..offset + len));
        }
        assert_ne!(Disk::pattern(1 << 20, 8).read(0, 8).unwrap(), whole.slice(..8));
    }

    #[test]
    fn past_the_end_of_memory_there_are_zeros() {
        let disk = Disk::Memory(Bytes::from_static(&[1, 2, 3]));
        assert_eq!(&disk.read(2, 3).unwrap()[..], [3, 0, 0]);
        assert_eq!(&disk.read(9, 2).unwrap()[..], [0, 0]);
    }
}
