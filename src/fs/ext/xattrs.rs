//! Extended attributes of a file, from its inode and its attribute block.

use bytes::Bytes;

use super::disk::Disk;
use super::inodes::File;
use super::layout::inode::Flags;
use super::layout::xattr::{self, Entry, Value};
use super::layout::{FsBlock, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Ino;

impl Disk {
    pub(super) async fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let file = self.file(ino).await?;
        let block = self.attribute_block(&file).await?;
        let entries = self.attributes(&file, block.as_deref())?;
        Ok(entries.iter().filter_map(Entry::full_name).collect())
    }

    pub(super) async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let file = self.file(ino).await?;
        let block = self.attribute_block(&file).await?;
        let entries = self.attributes(&file, block.as_deref())?;
        let wanted = |entry: &&Entry<'_>| entry.full_name().is_some_and(|full| full == name);
        let Some(entry) = entries.iter().find(wanted) else {
            let name = String::from_utf8_lossy(name);
            return Err(Error::new(ErrorKind::NoXattr, format!("{ino} has no attribute {name:?}")));
        };
        let value = match entry.value {
            Value::Here(value) => entry.check_hash(value).and_then(|()| entry.decode(value)),
            Value::Inode(at, len) => {
                let value = self.value_in_inode(&file, entry, at, len).await;
                value.and_then(|value| entry.decode(&value))
            }
        };
        value.map_err(|error| {
            error.context(format!("{ino}: attribute {:?}", String::from_utf8_lossy(name)))
        })
    }

    /// A value in an inode of its own (feature `ea_inode`).
    async fn value_in_inode(
        &self,
        owner: &File,
        entry: &Entry<'_>,
        at: u32,
        len: u32,
    ) -> Result<Vec<u8>> {
        // `XATTR_SIZE_MAX`: no system call takes or gives more.
        const MOST: u32 = 1 << 16;
        if len > MOST {
            let message = format!("a value of {len} bytes is not supported, at most {MOST}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let file = self.file(Ino(u64::from(at))).await?;
        let attr = &file.inode.attr;
        if !file.inode.flags.contains(Flags::EA_INODE) || attr.size != u64::from(len) {
            return Err(corrupt(format!(
                "its value of {len} bytes is said to be in {}, which has {} and is no value",
                file.ino, attr.size
            )));
        }
        let value = self.read_file(&file, 0, len as usize).await?.into_bytes().to_vec();
        // Lustre, where this comes from, keeps no checksum, but the owner.
        let parent = &owner.inode.attr;
        let lustre =
            attr.mtime.seconds as u32 == owner.ino.0 as u32 && attr.generation == parent.generation;
        let checksum = self.sb.value_seed.over(&value);
        // The time of access, of no use here, holds the checksum.
        if checksum.0 != attr.atime.seconds as u32 && !lustre {
            return Err(Error::new(
                ErrorKind::BadChecksum,
                format!("its value in {} does not match its checksum", file.ino),
            ));
        }
        if !lustre {
            entry.check_hash_of_inode(checksum)?;
        }
        Ok(value)
    }

    async fn attribute_block(&self, file: &File) -> Result<Option<Bytes>> {
        match file.inode.file_acl {
            0 => Ok(None),
            block => {
                let place =
                    xattr::check_place(&self.sb, block).map_err(|error| error.context(file.ino))?;
                Ok(Some(self.read_block(place).await?))
            }
        }
    }

    fn attributes<'a>(&self, file: &'a File, block: Option<&'a [u8]>) -> Result<Vec<Entry<'a>>> {
        let parse = || {
            let mut entries = xattr::parse_inode(&file.inode.tail)?;
            if let Some(block) = block {
                let seed = self.sb.checksum_seed.filter(|_| self.verifies());
                let place = FsBlock(file.inode.file_acl);
                entries.extend(
                    xattr::parse_block(block, place, seed).map_err(|error| error.context(place))?,
                );
            }
            Ok(entries)
        };
        parse().map_err(|error: Error| error.context(file.ino))
    }
}
