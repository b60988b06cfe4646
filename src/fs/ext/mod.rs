//! The ext2, ext3 and ext4 reader: pure parsers of bytes in [`layout`], the asynchronous traversal over them here.

pub mod journal;
pub mod layout;

use std::sync::Arc;

use crate::block::BlockSource;
use crate::error::{Error, ErrorKind, Result};

pub use journal::{JournalMode, JournalReport};

/// How to open a file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What to do about a journal that was not played back.
    pub journal: JournalMode,
}

/// Facts about an open file system, for `info`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// `ext2`, `ext3` or `ext4`, by the features in use as blkid tells them.
    pub kind: &'static str,
    /// The volume label, lossily decoded.
    pub label: String,
    /// The UUID.
    pub uuid: [u8; 16],
    /// Names of all features as e2fsprogs spells them.
    pub features: Vec<String>,
    /// Bytes per block.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// What was found in the journal.
    pub journal: JournalReport,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// An open ext file system.
pub struct Ext {
    summary: Summary,
}

impl Ext {
    /// Opens the file system on `source`, playing its journal back in memory.
    ///
    /// # Errors
    /// [`ErrorKind::NoFilesystem`] where there is no ext superblock, [`ErrorKind::Unsupported`] with the name of a
    /// feature that is not read here, [`ErrorKind::Corrupt`], [`ErrorKind::BadChecksum`].
    pub async fn open(_source: Arc<dyn BlockSource>, _options: Options) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "the ext reader is not there yet"))
    }

    /// Facts for `info`.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}
