//! Targets of symbolic links.

use super::disk::Disk;
use super::layout::{FileBlock, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Ino};

impl Disk {
    /// The target, from the inode or from the link's first and only block.
    pub(super) async fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let link = self.file(ino).await?;
        if link.inode.attr.file_type != FileType::Symlink {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{ino} is not a symbolic link"),
            ));
        }
        link.check_readable()?;
        let bad = |what: String| corrupt(format!("{ino}: symbolic link {what}"));
        let inline = link.inline_data(&self.sb)?;
        let fast = link.inode.fast_symlink(&self.sb).map_err(|error| error.context(ino))?;
        let target = match (inline, fast) {
            (Some(target), _) => target,
            (None, Some(target)) => target.to_vec(),
            (None, None) => {
                let size = link.inode.attr.size;
                // One byte of the block is kept for the NUL that the kernel adds.
                if size == 0 || size >= self.block_size() {
                    return Err(bad(format!("of {size} bytes")));
                }
                let run = self.run(&link, FileBlock(0)).await?;
                let place = run.place.ok_or_else(|| bad("without a block".into()))?;
                let mut target = self.read_block(place).await?;
                target.truncate(size as usize);
                target.to_vec()
            }
        };
        match target.contains(&0) {
            true => Err(bad(format!("of {} bytes holds a NUL", target.len()))),
            false => Ok(target),
        }
    }
}
