//! Extended attributes of a file, from its inode and its attribute block.

use bytes::Bytes;

use super::disk::Disk;
use super::inodes::File;
use super::layout::xattr::{self, Entry, Value};
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
        match entry.value {
            Value::Here(value) => entry.decode(value).map_err(|error| error.context(ino)),
            Value::Inode(..) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{ino}: feature ea_inode is not supported"),
            )),
        }
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
                let place = super::layout::FsBlock(file.inode.file_acl);
                entries.extend(
                    xattr::parse_block(block, place, seed).map_err(|error| error.context(place))?,
                );
            }
            Ok(entries)
        };
        parse().map_err(|error: Error| error.context(file.ino))
    }
}
